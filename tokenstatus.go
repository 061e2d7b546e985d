package httphelper

import (
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// fetchEvent is what an observer learns of a token request or a rejection. It holds no token.
type fetchEvent struct {
	rejected bool          // an API has refused the token; the rest is unset
	failed   *tokenError   // nil: a token was granted
	took     time.Duration // of the token request
	expires  time.Time     // of the token that was granted
}

// tell passes an event on to every connection that uses the source.
func (s *tokenSource) tell(event fetchEvent) {
	for _, u := range s.audience() {
		if u.owner != nil {
			observeSafely(u, event)
		}
	}
}

func observeSafely(u *sourceUser, event fetchEvent) {
	defer logPanic(u.log(), "observing a token request")
	u.owner.observe(event)
}

// audience is the newest user of each connection name. During a reload the old config's users are
// still there, and would count everything twice.
func (s *tokenSource) audience() []*sourceUser {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := []*sourceUser{}
	for _, u := range slices.Backward(s.active()) {
		if !slices.ContainsFunc(newest, func(other *sourceUser) bool { return other.name == u.name }) {
			newest = append(newest, u)
		}
	}
	if len(newest) == 0 && s.lastUser != nil {
		newest = append(newest, s.lastUser)
	}
	return newest
}

// sourceReporter remembers what was logged, so that each change of state is logged once.
type sourceReporter struct {
	mu      sync.Mutex
	failed  *tokenError // the failure that was logged last, nil when all is well
	live    bool        // whether there was a token in hand then
	row     int         // failures since
	missing string      // the missing scopes that were logged last

	rejectedAt time.Time // when a rejection was logged last
}

// rejectionsPause is how long rejections are only counted after one was logged.
const rejectionsPause = 10 * time.Minute

// report logs the outcome of an attempt if it changes anything.
func (s *tokenSource) report(failed *tokenError, next time.Duration) {
	log, speaker := s.log()
	current := s.peek()
	s.reporter.mu.Lock()
	defer s.reporter.mu.Unlock()
	if failed != nil {
		s.reporter.logFailure(log, speaker, failed, current != nil, next)
		return
	}
	s.reporter.logRecovery(log)
	s.reporter.logMissing(log, current)
}

// reportRejection logs that an API has rejected a token, if that is news.
func (s *tokenSource) reportRejection(now time.Time) {
	log, _ := s.log()
	s.reporter.mu.Lock()
	defer s.reporter.mu.Unlock()
	if last := s.reporter.rejectedAt; !last.IsZero() && elapsed(last, now) < rejectionsPause {
		return
	}
	s.reporter.rejectedAt = now
	log.Warn("the API rejected the token, which is replaced", zap.Uint64("rejected", s.rejections.Load()))
}

// log is the logger for what concerns all connections of the source, and the one that speaks for them.
func (s *tokenSource) log() (*zap.Logger, *sourceUser) {
	users := s.audience()
	return users[0].log().With(zap.String("connection", connectionNames(users))), users[0]
}

func connectionNames(users []*sourceUser) string {
	names := make([]string, len(users))
	for i, u := range users {
		names[i] = u.name
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (r *sourceReporter) logFailure(log *zap.Logger, speaker *sourceUser, failed *tokenError, live bool, next time.Duration) {
	r.row++
	if r.failed != nil && r.failed.class == failed.class && r.failed.code == failed.code && r.live == live {
		return
	}
	r.failed, r.live = failed, live
	fields := []zap.Field{
		zap.String("class", string(failed.class)),
		zap.String("reason", failed.Error()),
		zap.Duration("next_attempt_in", next),
	}
	if speaker.owner != nil {
		fields = append(fields, zap.String("token_url", speaker.owner.shownEndpoint()))
	}
	if live {
		log.Warn("getting a new token failed; requests go on with the current one while it lives", fields...)
		return
	}
	log.Error("getting a token failed; requests are refused until there is one", fields...)
}

func (r *sourceReporter) logRecovery(log *zap.Logger) {
	if r.failed != nil {
		log.Info("getting tokens works again", zap.Int("failures", r.row))
	}
	r.failed, r.row = nil, 0
}

func (r *sourceReporter) logMissing(log *zap.Logger, t *grantedToken) {
	if t == nil {
		return
	}
	missing := strings.Join(t.missing, " ")
	if missing != r.missing && missing != "" {
		log.Warn("the token lacks scopes that were asked for", zap.Strings("missing", t.missing))
	}
	r.missing = missing
}

// sourceState is how a source is doing.
type sourceState string

const (
	stateIdle    sourceState = "idle"    // no token, and none needed so far
	stateReady   sourceState = "ready"   // a live token
	stateFailing sourceState = "failing" // a live token, but the last attempt to replace it failed
	stateDown    sourceState = "down"    // no token, and the last attempt failed
)

// sourceStatus is what people may see of a source. It holds no token.
type sourceStatus struct {
	state sourceState

	// Of the live token, on the wall clock; zero without one.
	obtained, expires, refresh time.Time
	granted, missing           []string

	requests, failures, rejected uint64

	lastError   *sourceError // why the last attempt failed, nil if it did not
	nextAttempt time.Time    // the end of the back-off; zero outside of one
	hadToken    bool         // whether there ever was a token
}

// sourceError is a failure as people may see it.
type sourceError struct {
	at      time.Time
	class   failureClass
	code    string
	message string
}

// status reports how the source is doing, without doing anything.
func (s *tokenSource) status() sourceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	st := sourceStatus{
		state:    stateIdle,
		requests: s.requests.Load(),
		failures: s.failures.Load(),
		rejected: s.rejections.Load(),
		hadToken: s.last != nil,
	}
	if h := s.current.Load(); h.usable(now) {
		st.state = stateReady
		st.obtained, st.expires = h.sent.Round(0), h.expires()
		st.refresh = h.sent.Add(h.refreshAfter).Round(0)
		st.granted, st.missing = h.granted, h.missing
	}
	if s.failure != nil {
		st.addFailure(s.failure, now)
	}
	return st
}

func (st *sourceStatus) addFailure(f *fetchFailure, now time.Time) {
	if st.state == stateReady {
		st.state = stateFailing
	} else {
		st.state = stateDown
	}
	st.lastError = &sourceError{at: f.at.Round(0), class: f.err.class, code: f.err.code, message: f.err.message}
	if left := f.left(now); left > 0 {
		st.nextAttempt = now.Add(left).Round(0)
	}
}
