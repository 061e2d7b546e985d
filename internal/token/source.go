package token

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

const (
	DefaultTokenTimeout = 10 * time.Second

	// How long the token in hand goes on being used after an API's rejection has led to a newer one.
	minReplacePause = 10 * time.Second

	// Timers stand still while a machine sleeps, so they look at the wall clock now and then.
	maxTimer = time.Minute
)

// Key is a digest of everything that shapes a token request.
type Key [sha256.Size]byte

// User is one connection of one config that uses a source.
type User struct {
	Name          string        // connection name, for logs
	Host          string        // of the token endpoint
	Fetcher       Fetcher       // makes the token requests
	RefreshBefore time.Duration // 0: default
	Timeout       time.Duration // token_timeout; 0: default
	Warm          bool          // keep a token ready without requests
	Logger        *zap.Logger
	Observer      Observer // may be nil

	started, released bool // guarded by the source
}

// Observer is a connection that uses a source.
type Observer interface {
	// Endpoint is the token endpoint for people.
	Endpoint() string

	// Observe is called after each token request and each rejection. Requests wait for it.
	Observe(event Event)

	// Removed is called in a goroutine of its own with the last live token when the source
	// goes away with this user, if the user was started.
	Removed(last *oauth.Token)
}

func (u *User) log() *zap.Logger {
	if u.Logger == nil {
		return zap.NewNop()
	}
	return u.Logger
}

// Source obtains the tokens of one token identity and holds the current one. All connections
// of all configs with that identity use it together.
type Source struct {
	now    func() time.Time
	cached atomic.Pointer[cached] // nil: none yet, or rejected

	requests, failures, rejections atomic.Uint64

	mu            sync.Mutex
	users         []*User     // live, oldest first
	lastUser      *User       // speaks for the source when no user is left
	attempt       *attempt    // the running one, or nil
	queued        bool        // an attempt that no request waits for is to come
	failure       *Failure    // of the last attempt, or nil
	last          *cached     // the last one held, rejected or not
	recheckedAt   time.Time   // when a request last looked at the credentials in a back-off
	rejectedAt    time.Time   // when a token was last dropped because of a rejection
	retryWhenIdle bool        // a health check has asked (rule 24)
	closed        bool        // out of the pool: no more background work
	timer         *time.Timer // for a source that is kept ready without requests
	reporter      reporter
}

func NewSource() *Source { return &Source{now: time.Now} }

// Attach makes u a user of the source. It contacts nobody.
func (s *Source) Attach(u *User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users, s.lastUser = append(s.users, u), nil
}

// Start makes u's settings count, now that its config runs.
func (s *Source) Start(u *User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.started = true
	s.schedule()
}

// Detach ends u's use of the source; it reports false if that has happened before. Requests that still
// run may go on using the source.
func (s *Source) Detach(u *User) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.released {
		return false
	}
	u.released = true
	s.users = slices.DeleteFunc(s.users, func(other *User) bool { return other == u })
	if len(s.users) == 0 {
		s.lastUser = u
	}
	s.schedule()
	return true
}

// Destruct implements caddy.Destructor. It ends the background work when the last user has gone.
func (s *Source) Destruct() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.schedule()
	last, t := s.lastUser, s.Current()
	if t != nil && last.started && last.Observer != nil {
		go func() {
			defer RecoverAndLog(last.log(), "handing over the last token")
			last.Observer.Removed(t)
		}()
	}
	return nil
}

// primary is the user whose fetcher and settings count: the newest one of a config that runs. Call
// it with the lock held.
func (s *Source) primary() *User {
	if active := s.active(); len(active) > 0 {
		return active[len(active)-1]
	}
	return s.lastUser
}

// active is the users whose settings count: those of configs that run, or all when none runs yet.
// Call it with the lock held.
func (s *Source) active() []*User {
	var started []*User
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
func (s *Source) timeout() time.Duration {
	longest := s.primary().Timeout
	for _, u := range s.active() {
		longest = max(longest, u.Timeout)
	}
	if longest <= 0 {
		return DefaultTokenTimeout
	}
	return longest
}

// Token returns a usable token. It waits only when there is none, until ctx ends; errors are a
// *oauth.Error or ctx's. When the token is due to be replaced, that is started in the background.
func (s *Source) Token(ctx context.Context) (*oauth.Token, error) {
	if t := s.TryToken(ctx); t != nil {
		return t, nil
	}
	return s.await(ctx)
}

// TryToken is Token without waiting: it returns nil when there is no usable token.
func (s *Source) TryToken(ctx context.Context) *oauth.Token {
	h := s.cached.Load()
	if h == nil {
		return nil
	}
	now := s.now()
	switch age := clock.Elapsed(h.Sent, now); {
	case age < h.refreshAfter:
		return &h.Token
	case age < h.usableFor:
		s.refreshAhead(ctx, h, now)
		return &h.Token
	default:
		return nil
	}
}

// Current returns the usable token, or nil.
func (s *Source) Current() *oauth.Token {
	if h := s.cached.Load(); h.usable(s.now()) {
		return &h.Token
	}
	return nil
}

// await gets a token for a request that has none.
func (s *Source) await(ctx context.Context) (*oauth.Token, error) {
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
	return nil, failed.AsError(s.now())
}

// join returns the attempt to wait for, and starts one if none runs. Inside a back-off it returns
// the failure that began it instead.
func (s *Source) join(ctx context.Context) (*attempt, *Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if h := s.cached.Load(); h.usable(now) {
		return finishedAttempt(&h.Token), nil
	}
	if s.failure.Left(now) > 0 {
		return nil, s.failure
	}
	return s.begin(ctx), nil
}

// begin starts an attempt unless one runs, and returns it. It goes on when the request that caused
// it ends. Call it with the lock held.
func (s *Source) begin(cause context.Context) *attempt {
	if s.attempt == nil {
		ctx, cancel := context.WithTimeout(causedBy(cause), s.timeout())
		s.attempt = &attempt{ctx: ctx, done: make(chan struct{})}
		go s.run(s.attempt, cancel, s.primary())
	}
	return s.attempt
}

// refreshAhead starts to replace h in the background, unless that is under way, has just failed or
// somebody else is looking after it.
func (s *Source) refreshAhead(ctx context.Context, h *cached, now time.Time) {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	switch {
	case s.closed, s.attempt != nil, s.queued, s.cached.Load() != h:
	case s.failure.Left(now) == 0:
		s.refreshInBackground(ctx)
	case s.mayRecheck(now):
		go s.recheckCredentials(ctx, s.primary(), s.failure)
	}
}

// recheckCredentials tries a failed refresh again before its back-off ends if the credentials have changed.
func (s *Source) recheckCredentials(ctx context.Context, u *User, failed *Failure) {
	if !credentialsDiffer(u, failed) {
		return
	}
	s.resetBackoff(failed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && !s.queued && s.failure.Left(s.now()) == 0 {
		s.refreshInBackground(ctx)
	}
}

// credentialsChanged reports whether the credentials are others than those that failed. It looks
// at most once a second, because they may be files.
func (s *Source) credentialsChanged(failed *Failure) bool {
	s.mu.Lock()
	may, u := s.mayRecheck(s.now()), s.primary()
	s.mu.Unlock()
	return may && credentialsDiffer(u, failed)
}

// mayRecheck reports whether it is time to look at the credentials again, and takes note that
// somebody does. Call it with the lock held.
func (s *Source) mayRecheck(now time.Time) bool {
	if clock.Elapsed(s.recheckedAt, now) < credentialsPause {
		return false
	}
	s.recheckedAt = now
	return true
}

// resetBackoff ends the back-off of a failure.
func (s *Source) resetBackoff(failed *Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == failed {
		s.failure = failed.withoutBackoff()
	}
}

// Refresh fetches a token now, whatever the back-off says, and reports how that went. While it
// fails, the current token stays.
func (s *Source) Refresh(ctx context.Context) error {
	s.mu.Lock()
	s.failure = s.failure.withoutBackoff()
	a := s.begin(ctx)
	s.mu.Unlock()
	_, err := a.wait(ctx)
	return err
}

// Replace takes t out of use because an API has refused it, and returns a newer token to try, or
// nil. An API that refuses every token causes one token request in a while only (rule 18).
func (s *Source) Replace(ctx context.Context, t *oauth.Token) *oauth.Token {
	if !s.Invalidate(t) {
		return nil
	}
	newer, err := s.Token(ctx)
	if err != nil || newer.Value == t.Value {
		return nil
	}
	return newer
}

// Invalidate takes t out of use if it is the current token, and reports whether a newer one may be asked for.
func (s *Source) Invalidate(t *oauth.Token) bool {
	s.mu.Lock()
	h, now := s.cached.Load(), s.now()
	if h == nil || h.Value != t.Value {
		s.mu.Unlock()
		return true
	}
	if clock.Elapsed(s.rejectedAt, now) < minReplacePause {
		s.mu.Unlock()
		return false
	}
	s.cached.Store(nil)
	s.rejectedAt = now
	s.schedule()
	s.mu.Unlock()
	s.rejections.Add(1)
	s.notify(Event{Rejected: true})
	s.reportRejection(now)
	return true
}

// Expire has t replaced ahead of its time, in the background as ever, if it is the current token.
func (s *Source) Expire(t *oauth.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, now := s.cached.Load(), s.now()
	if h == nil || &h.Token != t || clock.Elapsed(h.Sent, now) >= h.refreshAfter {
		return
	}
	due := *h
	due.refreshAfter = clock.Elapsed(h.Sent, now)
	s.last = &due
	s.cached.Store(&due)
	s.schedule()
}

// RetryInBackground makes a source that has never had a token go on trying on its own, because a health
// check waits for it (rule 24).
func (s *Source) RetryInBackground() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retryWhenIdle = true
	s.schedule()
}

// schedule does the background work of a source that is looked after without requests: it starts what
// is due, and sets a timer for what is not. Call it with the lock held, after every change.
func (s *Source) schedule() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if s.closed || s.attempt != nil || s.queued || !s.refreshesInBackground() {
		return
	}
	wait := s.nextAttemptIn(s.now())
	if wait <= 0 {
		s.refreshInBackground(context.Background())
		return
	}
	s.timer = time.AfterFunc(min(wait, maxTimer), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.schedule()
	})
}

// refreshesInBackground reports whether the source is to be looked after without requests. Call it with the lock
// held.
func (s *Source) refreshesInBackground() bool {
	warm := slices.ContainsFunc(s.users, func(u *User) bool { return u.started && u.Warm })
	return warm || s.retryWhenIdle && s.failure != nil && s.last == nil
}

// nextAttemptIn is the time until the next attempt is due. Call it with the lock held.
func (s *Source) nextAttemptIn(now time.Time) time.Duration {
	left := s.failure.Left(now)
	if h := s.cached.Load(); h != nil {
		left = max(left, h.refreshAfter-clock.Elapsed(h.Sent, now))
	}
	return left
}

// finish hands the result of an attempt to everybody who waits, and remembers it.
func (s *Source) finish(a *attempt, t *oauth.Token, credentials string, event Event) {
	s.mu.Lock()
	now := s.now()
	s.attempt = nil
	if event.Err == nil {
		event.Err = s.adopt(t, now)
	}
	if event.Err == nil {
		a.token = &s.last.Token
		event.Expires = s.last.expires()
	} else {
		s.failures.Add(1)
		s.failure = NewFailure(event.Err, s.failure, credentials, now)
		a.err = s.failure.AsError(now)
	}
	next := s.failure.Left(now)
	s.schedule()
	s.mu.Unlock()

	s.report(event.Err, next)
	s.notify(event)
	close(a.done)
}

// adopt makes t the current token, unless it has come too late. Call it with the lock held.
func (s *Source) adopt(t *oauth.Token, now time.Time) *oauth.Error {
	h := newCached(t, s.last, s.primary().RefreshBefore, now)
	if !h.usable(now) {
		return errTooLate
	}
	s.last, s.failure, s.retryWhenIdle = h, nil, false
	s.cached.Store(h)
	return nil
}
