package httphelper

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	defaultTokenTimeout = 10 * time.Second

	// How long the token in hand goes on being used after an API's rejection has led to a newer one.
	rejectPause = 10 * time.Second

	// Timers stand still while a machine sleeps, so they look at the wall clock now and then.
	maxTimer = time.Minute
)

// tokenKey is a digest of everything that shapes a token request.
type tokenKey [sha256.Size]byte

// sourceUser is one connection of one config that uses a source.
type sourceUser struct {
	name          string        // connection name, for logs
	host          string        // of the token endpoint
	fetcher       tokenFetcher  // makes the token requests
	refreshBefore time.Duration // 0: default
	timeout       time.Duration // token_timeout; 0: default
	warm          bool          // keep a token ready without requests
	logger        *zap.Logger
	owner         sourceOwner // may be nil

	started, released bool // guarded by the source
}

// sourceOwner is a connection that uses a source.
type sourceOwner interface {
	// shownEndpoint is the token endpoint for people.
	shownEndpoint() string

	// observe is called after each token request and each rejection. Requests wait for it.
	observe(event fetchEvent)

	// revokeRemoved is called in a goroutine of its own with the last live token when the source
	// goes away with this user, if the user was started.
	revokeRemoved(last *grantedToken)
}

func (u *sourceUser) log() *zap.Logger {
	if u.logger == nil {
		return zap.NewNop()
	}
	return u.logger
}

// tokenSource obtains the tokens of one token identity and holds the current one. All connections
// of all configs with that identity use it together.
type tokenSource struct {
	now     func() time.Time
	current atomic.Pointer[heldToken] // nil: none yet, or rejected

	requests, failures, rejections atomic.Uint64

	mu            sync.Mutex
	users         []*sourceUser // live, oldest first
	lastUser      *sourceUser   // speaks for the source when no user is left
	attempt       *tokenAttempt // the running one, or nil
	queued        bool          // an attempt that no request waits for is to come
	failure       *fetchFailure // of the last attempt, or nil
	last          *heldToken    // the last one held, rejected or not
	recheckedAt   time.Time     // when a request last looked at the credentials in a back-off
	rejectedAt    time.Time     // when a token was last dropped because of a rejection
	retryWhenIdle bool          // a health check has asked (rule 24)
	closed        bool          // out of the pool: no more background work
	timer         *time.Timer   // for a source that is kept ready without requests
	reporter      sourceReporter
}

func newTokenSource() *tokenSource { return &tokenSource{now: time.Now} }

// attach makes u a user of the source. It contacts nobody.
func (s *tokenSource) attach(u *sourceUser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users, s.lastUser = append(s.users, u), nil
}

// start makes u's settings count, now that its config runs.
func (s *tokenSource) start(u *sourceUser) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.started = true
	s.tend()
}

// detach ends u's use of the source; it reports false if that has happened before. Requests that still
// run may go on using the source.
func (s *tokenSource) detach(u *sourceUser) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.released {
		return false
	}
	u.released = true
	s.users = slices.DeleteFunc(s.users, func(other *sourceUser) bool { return other == u })
	if len(s.users) == 0 {
		s.lastUser = u
	}
	s.tend()
	return true
}

// Destruct implements caddy.Destructor. It ends the background work when the last user has gone.
func (s *tokenSource) Destruct() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.tend()
	last, t := s.lastUser, s.peek()
	if t != nil && last.started && last.owner != nil {
		go func() {
			defer logPanic(last.log(), "handing over the last token")
			last.owner.revokeRemoved(t)
		}()
	}
	return nil
}

// speaker is the user whose fetcher and settings count: the newest one of a config that runs. Call
// it with the lock held.
func (s *tokenSource) speaker() *sourceUser {
	if active := s.active(); len(active) > 0 {
		return active[len(active)-1]
	}
	return s.lastUser
}

// active is the users whose settings count: those of configs that run, or all when none runs yet.
// Call it with the lock held.
func (s *tokenSource) active() []*sourceUser {
	var started []*sourceUser
	for _, u := range s.users {
		if u.started {
			started = append(started, u)
		}
	}
	if started == nil {
		return s.users
	}
	return started
}

// timeout is the longest that one of the users is ready to wait. Call it with the lock held.
func (s *tokenSource) timeout() time.Duration {
	longest := s.speaker().timeout
	for _, u := range s.active() {
		longest = max(longest, u.timeout)
	}
	if longest <= 0 {
		return defaultTokenTimeout
	}
	return longest
}

// Token returns a usable token. It waits only when there is none, until ctx ends; errors are a
// *tokenError or ctx's. When the token is due to be replaced, that is started in the background.
func (s *tokenSource) Token(ctx context.Context) (*grantedToken, error) {
	if t := s.ready(ctx); t != nil {
		return t, nil
	}
	return s.await(ctx)
}

// ready is Token without waiting: it returns nil when there is no usable token.
func (s *tokenSource) ready(ctx context.Context) *grantedToken {
	h := s.current.Load()
	if h == nil {
		return nil
	}
	now := s.now()
	switch age := elapsed(h.sent, now); {
	case age < h.refreshAfter:
		return &h.grantedToken
	case age < h.usableFor:
		s.refreshAhead(ctx, h, now)
		return &h.grantedToken
	default:
		return nil
	}
}

// peek returns the usable token, or nil.
func (s *tokenSource) peek() *grantedToken {
	if h := s.current.Load(); h.usable(s.now()) {
		return &h.grantedToken
	}
	return nil
}

// await gets a token for a request that has none.
func (s *tokenSource) await(ctx context.Context) (*grantedToken, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a, failed := s.join(ctx)
	if failed == nil {
		return a.wait(ctx)
	}
	if s.credentialsChanged(failed) {
		s.resetBackoff(failed)
		return s.await(ctx)
	}
	return nil, failed.asError(s.now())
}

// join returns the attempt to wait for, and starts one if none runs. Inside a back-off it returns
// the failure that began it instead.
func (s *tokenSource) join(ctx context.Context) (*tokenAttempt, *fetchFailure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if h := s.current.Load(); h.usable(now) {
		return finishedAttempt(&h.grantedToken), nil
	}
	if s.failure.left(now) > 0 {
		return nil, s.failure
	}
	return s.begin(ctx), nil
}

// begin starts an attempt unless one runs, and returns it. It goes on when the request that caused
// it ends. Call it with the lock held.
func (s *tokenSource) begin(cause context.Context) *tokenAttempt {
	if s.attempt == nil {
		ctx, cancel := context.WithTimeout(causedBy(cause), s.timeout())
		s.attempt = &tokenAttempt{ctx: ctx, done: make(chan struct{})}
		go s.run(s.attempt, cancel, s.speaker())
	}
	return s.attempt
}

// refreshAhead starts to replace h in the background, unless that is under way, has just failed or
// somebody else is looking after it.
func (s *tokenSource) refreshAhead(ctx context.Context, h *heldToken, now time.Time) {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	switch {
	case s.closed, s.attempt != nil, s.queued, s.current.Load() != h:
	case s.failure.left(now) == 0:
		s.beginAhead(ctx)
	case s.mayRecheck(now):
		go s.recheckCredentials(ctx, s.speaker(), s.failure)
	}
}

// recheckCredentials tries a failed refresh again before its back-off ends if the credentials have changed.
func (s *tokenSource) recheckCredentials(ctx context.Context, u *sourceUser, failed *fetchFailure) {
	if !credentialsDiffer(u, failed) {
		return
	}
	s.resetBackoff(failed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && !s.queued && s.failure.left(s.now()) == 0 {
		s.beginAhead(ctx)
	}
}

// credentialsChanged reports whether the credentials are others than those that failed. It looks
// at most once a second, because they may be files.
func (s *tokenSource) credentialsChanged(failed *fetchFailure) bool {
	s.mu.Lock()
	may, u := s.mayRecheck(s.now()), s.speaker()
	s.mu.Unlock()
	return may && credentialsDiffer(u, failed)
}

// mayRecheck reports whether it is time to look at the credentials again, and takes note that
// somebody does. Call it with the lock held.
func (s *tokenSource) mayRecheck(now time.Time) bool {
	if elapsed(s.recheckedAt, now) < credentialsPause {
		return false
	}
	s.recheckedAt = now
	return true
}

// resetBackoff ends the back-off of a failure.
func (s *tokenSource) resetBackoff(failed *fetchFailure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == failed {
		s.failure = failed.withoutBackoff()
	}
}

// refresh fetches a token now, whatever the back-off says, and reports how that went. While it
// fails, the current token stays.
func (s *tokenSource) refresh(ctx context.Context) error {
	s.mu.Lock()
	s.failure = s.failure.withoutBackoff()
	a := s.begin(ctx)
	s.mu.Unlock()
	_, err := a.wait(ctx)
	return err
}

// reject takes t out of use because an API has refused it, and returns a newer token to try, or
// nil. An API that refuses every token causes one token request in a while only (rule 18).
func (s *tokenSource) reject(ctx context.Context, t *grantedToken) *grantedToken {
	if !s.drop(t) {
		return nil
	}
	newer, err := s.Token(ctx)
	if err != nil || newer.value == t.value {
		return nil
	}
	return newer
}

// drop takes t out of use if it is the current token, and reports whether a newer one may be asked for.
func (s *tokenSource) drop(t *grantedToken) bool {
	s.mu.Lock()
	h, now := s.current.Load(), s.now()
	if h == nil || h.value != t.value {
		s.mu.Unlock()
		return true
	}
	if elapsed(s.rejectedAt, now) < rejectPause {
		s.mu.Unlock()
		return false
	}
	s.current.Store(nil)
	s.rejectedAt = now
	s.tend()
	s.mu.Unlock()
	s.rejections.Add(1)
	s.tell(fetchEvent{rejected: true})
	s.reportRejection(now)
	return true
}

// outdate has t replaced ahead of its time, in the background as ever, if it is the current token.
func (s *tokenSource) outdate(t *grantedToken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, now := s.current.Load(), s.now()
	if h == nil || &h.grantedToken != t || elapsed(h.sent, now) >= h.refreshAfter {
		return
	}
	due := *h
	due.refreshAfter = elapsed(h.sent, now)
	s.last = &due
	s.current.Store(&due)
	s.tend()
}

// retryInBackground makes a source that has never had a token go on trying on its own, because a health
// check waits for it (rule 24).
func (s *tokenSource) retryInBackground() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retryWhenIdle = true
	s.tend()
}

// tend does the background work of a source that is looked after without requests: it starts what
// is due, and sets a timer for what is not. Call it with the lock held, after every change.
func (s *tokenSource) tend() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if s.closed || s.attempt != nil || s.queued || !s.tended() {
		return
	}
	wait := s.untilDue(s.now())
	if wait <= 0 {
		s.beginAhead(context.Background())
		return
	}
	s.timer = time.AfterFunc(min(wait, maxTimer), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tend()
	})
}

// tended reports whether the source is to be looked after without requests. Call it with the lock
// held.
func (s *tokenSource) tended() bool {
	warm := slices.ContainsFunc(s.users, func(u *sourceUser) bool { return u.started && u.warm })
	return warm || s.retryWhenIdle && s.failure != nil && s.last == nil
}

// untilDue is the time until the next attempt is due. Call it with the lock held.
func (s *tokenSource) untilDue(now time.Time) time.Duration {
	left := s.failure.left(now)
	if h := s.current.Load(); h != nil {
		left = max(left, h.refreshAfter-elapsed(h.sent, now))
	}
	return left
}

// finish hands the result of an attempt to everybody who waits, and remembers it.
func (s *tokenSource) finish(a *tokenAttempt, t *grantedToken, credentials string, event fetchEvent) {
	s.mu.Lock()
	now := s.now()
	s.attempt = nil
	if event.failed == nil {
		event.failed = s.adopt(t, now)
	}
	if event.failed == nil {
		a.token = &s.last.grantedToken
		event.expires = s.last.expires()
	} else {
		s.failures.Add(1)
		s.failure = newFetchFailure(event.failed, s.failure, credentials, now)
		a.err = s.failure.asError(now)
	}
	next := s.failure.left(now)
	s.tend()
	s.mu.Unlock()

	s.report(event.failed, next)
	s.tell(event)
	close(a.done)
}

// adopt makes t the current token, unless it has come too late. Call it with the lock held.
func (s *tokenSource) adopt(t *grantedToken, now time.Time) *tokenError {
	h := holdToken(t, s.last, s.speaker().refreshBefore, now)
	if !h.usable(now) {
		return errTokenTooLate
	}
	s.last, s.failure, s.retryWhenIdle = h, nil, false
	s.current.Store(h)
	return nil
}
