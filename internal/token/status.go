package token

import (
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// State is the state of a source; see Source for how it changes.
type State string

// The states of a source.
const (
	StateIdle    State = "idle"    // no usable token, and no attempt failed
	StateReady   State = "ready"   // a usable token
	StateFailing State = "failing" // a usable token, but the last attempt to replace it failed
	StateDown    State = "down"    // no usable token, and the last attempt failed
)

// Status is what people may see of a source. It contains no token.
type Status struct {
	State State

	// Of the usable token, on the wall clock; zero without one.
	Obtained, Expires, Refresh time.Time
	Granted, Missing           []string
	Adopted                    bool // from the storage; Expires allows for clocks that differ

	Requests, Failures, Rejected uint64
	Adoptions                    uint64 // how often a token was adopted from the storage

	LastError   *StatusError // why the last attempt failed, nil if it did not
	NextAttempt time.Time    // the end of the back-off; zero outside of it
	HadToken    bool         // whether a token was ever obtained
}

// StatusError is the failure of an attempt as people may see it.
type StatusError struct {
	At      time.Time
	Class   oauth.Class
	Code    string
	Message string
}

// Status returns the status of the source. It starts nothing.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	st := Status{
		State:    StateIdle,
		Requests: s.requests.Load(),
		Failures: s.failures.Load(),
		Rejected: s.rejections.Load(),
		HadToken: s.cached.Load() != nil,

		Adoptions: s.adoptions.Load(),
	}
	if c := s.cached.Load(); c.usable(now) {
		st.State = StateReady
		st.Obtained, st.Expires = c.Sent.Round(0), c.expires()
		st.Refresh = c.Sent.Add(c.refreshAfter).Round(0)
		st.Granted, st.Missing, st.Adopted = c.Granted, c.Missing, c.adopted
	}
	if s.failure != nil {
		st.addFailure(s.failure, now)
	}
	return st
}

func (st *Status) addFailure(f *Failure, now time.Time) {
	if st.State == StateReady {
		st.State = StateFailing
	} else {
		st.State = StateDown
	}
	st.LastError = &StatusError{At: f.at.Round(0), Class: f.err.Class, Code: f.err.Code, Message: f.err.Message}
	if left := f.Left(now); left > 0 {
		st.NextAttempt = now.Add(left).Round(0)
	}
}
