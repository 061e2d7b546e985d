package token

import (
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// State is how a source is doing.
type State string

const (
	StateIdle    State = "idle"    // no token, and none needed so far
	StateReady   State = "ready"   // a live token
	StateFailing State = "failing" // a live token, but the last attempt to replace it failed
	StateDown    State = "down"    // no token, and the last attempt failed
)

// Status is what people may see of a source. It holds no token.
type Status struct {
	State State

	// Of the live token, on the wall clock; zero without one.
	Obtained, Expires, Refresh time.Time
	Granted, Missing           []string

	Requests, Failures, Rejected uint64

	LastError   *StatusError // why the last attempt failed, nil if it did not
	NextAttempt time.Time    // the end of the back-off; zero outside of one
	HadToken    bool         // whether there ever was a token
}

// StatusError is a failure as people may see it.
type StatusError struct {
	At      time.Time
	Class   oauth.Class
	Code    string
	Message string
}

// Status reports how the source is doing, without doing anything.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	st := Status{
		State:    StateIdle,
		Requests: s.requests.Load(),
		Failures: s.failures.Load(),
		Rejected: s.rejections.Load(),
		HadToken: s.last != nil,
	}
	if h := s.cached.Load(); h.usable(now) {
		st.State = StateReady
		st.Obtained, st.Expires = h.Sent.Round(0), h.expires()
		st.Refresh = h.Sent.Add(h.refreshAfter).Round(0)
		st.Granted, st.Missing = h.Granted, h.Missing
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
