// Package token keeps the token of one token identity fresh. A Source makes one token request at a time
// for all requests that wait, refreshes the token before it expires, and backs off when that fails.
//
// How a token request is made is left to a Fetcher; where tokens are used, this package does not know.
// It does not depend on Caddy.
package token

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// DefaultTimeout is how long one attempt to get a token takes at most by default.
const DefaultTimeout = 10 * time.Second

// Key is a digest of everything that shapes a token request.
type Key [sha256.Size]byte

// Source obtains the tokens of one token identity and caches the current one. It is shared by all
// connections of all configs with that identity, its users.
//
// A source has no field for its state: the state follows from cached and failure.
//
//		         success                     failure                 success
//		┌──────┐ ──────► ┌───────┐ ◄────────────────────── ┌─────────┐
//		│ idle │         │ ready │                         │ failing │
//		└──────┘ ◄────── └───────┘ ──────────────────────► └─────────┘
//		   │     expiry      ▲             failure              │
//		   │                 │ success                          │ expiry
//		   │     failure     │                                  ▼
//		   └───────────────► down ◄─────────────────────────────┘
//
//	  - idle: there is no usable token, and no failure since the last one
//	  - ready: there is a usable token
//	  - failing: there is a usable token, but the last attempt failed
//	  - down: there is no usable token, and the last attempt failed
//
// With sharing, a success may also be a token that another replica has obtained, and a failure one of its
// token requests (see shared.go).
//
// An API's rejection is no change of state: the token stays in use until there is a newer one or it
// expires (rule 18; see Replace). A failure begins a back-off, in which no attempt begins unless the
// credentials change or Refresh forces one. It concerns those only who have no usable token.
//
// An attempt begins when a request finds no usable token (Token), when a request uses one that is due
// to be refreshed (TryToken), when an API rejects the current one (Replace, Reject), when a caller
// forces it (Refresh), or in the background, for a warm source or a health check (schedule). At most one
// runs at a time; everybody waits for that one.
//
// mu guards all fields below it and the users' private fields. cached is written with mu held and read
// without, so that a request with a fresh token takes no lock. The counters are atomic. reporter has a
// lock of its own, which is never held together with mu. Fetchers and observers are called without a
// lock.
type Source struct {
	now    func() time.Time
	cached atomic.Pointer[cached] // the last token obtained, which may have expired; nil: none yet

	// accepted is the token that an API has accepted last. It is only ever compared.
	accepted atomic.Pointer[oauth.Token]

	requests, failures, rejections, adoptions atomic.Uint64

	replica      string      // this source's name in the record that it shares with others
	clocksWarned atomic.Bool // whether it was logged that the clocks of replicas differ

	mu              sync.Mutex
	users           []*User     // attached, oldest first
	lastUser        *User       // the last one that was detached, if none is left
	attempt         *attempt    // the running one, or nil
	queued          bool        // whether an attempt in the background waits for its turn
	failure         *Failure    // of the last attempt, or nil
	previous        *cached     // the token before the current one, which may have expired, or nil
	previousRefused bool        // whether APIs have only ever rejected the previous token
	obtainedWith    string      // fingerprint of the credentials that the current token was obtained with
	ending          bool        // the last response said that nothing is left of its token's life
	lookedAt        time.Time   // when the last response without news came; see lookPause
	recheckedAt     time.Time   // when the credentials were last read again in a back-off
	rechecking      bool        // whether that has not ended
	rejected        string      // the value of the token that an API has rejected last
	replacedAt      time.Time   // when an attempt last began because of a rejection
	place           *place      // of the record that is shared with other replicas, as of the last attempt; nil: none
	placeLost       bool        // whether a reload has made the source forget that
	healthAskedAt   time.Time   // when a health check last asked about the source
	closed          bool        // no more background work
	timer           *time.Timer // for the next attempt in the background, or nil

	reporter reporter
}

// NewSource returns a source without users. It needs one before it is used.
func NewSource() *Source { return &Source{now: time.Now, replica: rand.Text()} }

// Use

// Token returns a usable token. It waits only if there is none, until ctx ends. The error is an
// *oauth.Error or ctx's. If the token is due to be refreshed, that is started in the background.
func (s *Source) Token(ctx context.Context) (*oauth.Token, error) {
	if t := s.TryToken(ctx); t != nil {
		return t, nil
	}
	return s.await(ctx)
}

// TryToken is Token without waiting: it returns nil if there is no usable token.
func (s *Source) TryToken(ctx context.Context) *oauth.Token {
	c := s.cached.Load()
	if c == nil {
		return nil
	}
	now := s.now()
	switch age := clock.Elapsed(c.Sent, now); {
	case age < c.refreshAfter:
		return &c.Token
	case age < c.usableFor:
		s.refreshAhead(ctx, c, now)
		return &c.Token
	default:
		return nil
	}
}

// Current returns the usable token, or nil. Unlike TryToken it starts nothing.
func (s *Source) Current() *oauth.Token {
	if c := s.cached.Load(); c.usable(s.now()) {
		return &c.Token
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
	if s.somethingNew(ctx, failed) {
		return s.await(ctx)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, failed.AsError(s.now())
}

// join returns the attempt to wait for, and begins one if none runs. Inside a back-off it returns the
// failure that began it instead.
func (s *Source) join(ctx context.Context) (*attempt, *Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.joinLocked(ctx, s.now())
}

// joinLocked is join with mu held.
func (s *Source) joinLocked(ctx context.Context, now time.Time) (*attempt, *Failure) {
	if c := s.cached.Load(); c.usable(now) {
		return finishedAttempt(&c.Token), nil
	}
	if s.failure.Left(now) > 0 {
		return nil, s.failure
	}
	return s.begin(ctx), nil
}

// Refresh

// Refresh gets a new token now, even inside a back-off, and waits for it until ctx ends. If that fails,
// the current token stays in use.
func (s *Source) Refresh(ctx context.Context) error {
	for {
		s.mu.Lock()
		s.failure = s.failure.withoutBackoff()
		a := s.beginFor(ctx, purpose{forced: true})
		s.mu.Unlock()
		if _, err := a.wait(ctx); !a.wasSettled() || ctx.Err() != nil {
			return err
		}
		// An attempt was running, and made no token request.
	}
}

// Expire makes t due to be refreshed, if it is the current token. It stays in use until it is replaced.
func (s *Source) Expire(t *oauth.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, now := s.cached.Load(), s.now()
	if c == nil || &c.Token != t || clock.Elapsed(c.Sent, now) >= c.refreshAfter {
		return
	}
	due := *c
	due.refreshAfter = clock.Elapsed(c.Sent, now)
	s.cached.Store(&due)
	s.schedule()
}

// begin begins an attempt to get a token, unless one runs, and returns it. Call it with mu held.
func (s *Source) begin(cause context.Context) *attempt { return s.beginFor(cause, purpose{}) }

// beginFor begins an attempt unless one runs, and returns it. It continues when the request that caused it
// ends. Call it with mu held.
func (s *Source) beginFor(cause context.Context, why purpose) *attempt {
	if s.attempt == nil {
		ctx, cancel := context.WithTimeout(causedBy(cause), s.timeout())
		s.attempt = &attempt{purpose: why, ctx: ctx, done: make(chan struct{})}
		s.placeLost = false // the attempt looks for it
		go s.run(s.attempt, cancel, s.primary())
	}
	return s.attempt
}

// finish ends an attempt by the result of its token request: it remembers that, passes it to everybody who
// waits, and returns it.
func (s *Source) finish(a *attempt, t *oauth.Token, r *request, event Event) (obtained *cached, failed *Failure) {
	s.mu.Lock()
	now, before := s.now(), s.cached.Load()
	s.attempt = nil
	a.replaces = a.rejected != "" || before != nil && before.Value == s.rejected
	if event.Err == nil {
		event.Err = s.keep(s.withMeaning(t, now), origin{shared: r.part.willPublish()}, now)
	}
	if event.Err == nil {
		obtained = s.cached.Load()
		a.token, event.Expires = &obtained.Token, obtained.expires()
		s.obtainedWith = r.credentials
	} else {
		event.Err = s.inContext(event.Err, r.credentials)
		s.failures.Add(1)
		failed = NewFailure(event.Err, s.failure.inARow(a.inARow), r.credentials, now)
		failed.unanswered = r.prepared != nil && !event.Err.Responded
		s.failure = failed
		a.err = failed.AsError(now)
	}
	next := s.failure.Left(now)
	s.schedule()
	s.mu.Unlock()

	s.report(event.Err, next)
	s.notify(event)
	close(a.done)
	return obtained, failed
}

// inContext returns what a failure means for the credentials it was obtained with. Call it with mu held.
func (s *Source) inContext(failed *oauth.Error, credentials string) *oauth.Error {
	if s.cached.Load() != nil && credentials == s.obtainedWith {
		return failed.AfterSuccess()
	}
	return failed
}

// keep makes t the current token, unless it has arrived too late. Call it with mu held.
func (s *Source) keep(t *oauth.Token, from origin, now time.Time) *oauth.Error {
	before := s.cached.Load()
	c := newCached(t, before, s.primary().RefreshBefore, now)
	c.origin = from
	if !c.usable(now) {
		return errTooLate
	}
	if before != nil && before.Value == c.Value {
		c.shared = c.shared || before.shared
	}
	if before != nil && before.Value != c.Value {
		s.previous = before
		s.previousRefused = s.rejected == before.Value && s.accepted.Load() != &before.Token
	}
	s.failure = nil
	s.cached.Store(c)
	return nil
}

// Users

// Attach makes u a user of the source. It makes no token request.
func (s *Source) Attach(u *User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users, s.lastUser = append(s.users, u), nil
}

// Start makes u's settings apply, now that its config runs.
func (s *Source) Start(u *User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.started = true
	s.forgetPlace()
	s.schedule()
}

// Detach ends u's use of the source. It reports false if it did so before. Requests that still run may
// use the source until they end.
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
	s.forgetPlace()
	s.schedule()
	return true
}

// Destruct ends the background work after the last user was detached, and hands over the token in use unless
// other replicas may use it too. It implements caddy.Destructor.
func (s *Source) Destruct() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.place = true, nil
	s.schedule()
	u, c := s.lastUser, s.cached.Load()
	if c.usable(s.now()) && !c.shared && u.started && u.Observer != nil {
		go func() {
			defer RecoverAndLog(u.log(), "handing over the last token")
			u.Observer.Removed(&c.Token)
		}()
	}
	return nil
}

// primary returns the user whose fetcher and settings apply: the newest one of a running config. Call
// it with mu held.
func (s *Source) primary() *User {
	if active := s.active(); len(active) > 0 {
		return active[len(active)-1]
	}
	return s.lastUser
}

// active returns the users of running configs, or all if no config runs yet. Call it with mu held.
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

// newestUsers returns the newest active user of each connection name. During a reload the users of the
// old config are still attached: without them nothing is counted or logged twice.
func (s *Source) newestUsers() []*User {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := []*User{}
	for _, u := range slices.Backward(s.active()) {
		if !slices.ContainsFunc(newest, func(other *User) bool { return other.Name == u.Name }) {
			newest = append(newest, u)
		}
	}
	if len(newest) == 0 && s.lastUser != nil {
		newest = append(newest, s.lastUser)
	}
	return newest
}

// timeout returns the longest timeout of the active users. Call it with mu held.
func (s *Source) timeout() time.Duration {
	longest := s.primary().Timeout
	for _, u := range s.active() {
		longest = max(longest, u.Timeout)
	}
	return cmp.Or(longest, DefaultTimeout)
}
