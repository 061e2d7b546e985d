package token

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
)

const (
	// maxInBackground is how many attempts in the background may run at a time per authorization
	// server, so that thousands of connections that refresh together do not overload it.
	maxInBackground = 64

	// maxTimer bounds the timers: they stand still while a machine sleeps, so the wall clock is read
	// at least this often.
	maxTimer = time.Minute

	// healthWindow is how long a source continues to retry after a health check has asked about it.
	healthWindow = 5 * time.Minute
)

// RetryInBackground makes a source whose last attempt failed, and that has no usable token, retry without
// requests for a while, because a health check waits for it (rule 24).
func (s *Source) RetryInBackground() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.healthAskedAt = s.now()
	s.schedule()
}

// refreshAhead starts to replace c in the background, unless that is under way or has just failed. It
// does not wait for mu: the request has a token, and the next one starts the refresh.
func (s *Source) refreshAhead(ctx context.Context, c *cached, now time.Time) {
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	switch {
	case s.closed, s.attempt != nil, s.queued, s.cached.Load() != c:
	case s.failure.Left(now) == 0:
		s.refreshInBackground(ctx)
	case s.mayRecheck(now):
		go s.recheckCredentials(ctx, s.primary(), s.failure)
	}
}

// recheckCredentials retries a failed refresh before its back-off ends if the credentials have changed.
func (s *Source) recheckCredentials(ctx context.Context, u *User, failed *Failure) {
	if !s.recheck(u, failed) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && !s.queued && s.failure.Left(s.now()) == 0 {
		s.refreshInBackground(ctx)
	}
}

// schedule begins the next attempt of a source that refreshes in the background, or sets a timer for
// it. Call it with mu held, after every change.
func (s *Source) schedule() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	now := s.now()
	if s.closed || s.attempt != nil || s.queued || !s.refreshesInBackground(now) {
		return
	}
	wait := s.nextAttemptIn(now)
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

// refreshesInBackground reports whether the source is refreshed without requests. Call it with mu held.
func (s *Source) refreshesInBackground(now time.Time) bool {
	warm := slices.ContainsFunc(s.users, func(u *User) bool { return u.started && u.Warm })
	return warm || s.failure != nil && !s.cached.Load().usable(now) && clock.Elapsed(s.healthAskedAt, now) < healthWindow
}

// nextAttemptIn returns the time until the next attempt is due. Call it with mu held.
func (s *Source) nextAttemptIn(now time.Time) time.Duration {
	left := s.failure.Left(now)
	if c := s.cached.Load(); c != nil {
		left = max(left, c.refreshAfter-clock.Elapsed(c.Sent, now))
	}
	return left
}

// refreshInBackground begins an attempt that no request waits for, as soon as its turn comes. A request
// that needs a token before that does not queue: it begins the attempt itself. Call it with mu held.
func (s *Source) refreshInBackground(cause context.Context) {
	s.queued = true
	go s.waitForTurn(causedBy(cause), limiterOf(s.primary().Host)) //nolint:gosec // it must outlive the request that caused it
}

func (s *Source) waitForTurn(cause context.Context, limiter *semaphore.Weighted) {
	// Each attempt ends after its timeout at the latest, so the turn does come.
	_ = limiter.Acquire(context.Background(), 1)
	defer limiter.Release(1)
	if a := s.takeTurn(cause); a != nil {
		<-a.done
	}
}

// takeTurn begins the attempt, unless it is no longer needed.
func (s *Source) takeTurn(cause context.Context) *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queued = false
	if s.closed || s.attempt != nil || s.nextAttemptIn(s.now()) > 0 {
		s.schedule()
		return nil
	}
	return s.begin(cause)
}

// limiters maps each host of token endpoints to its semaphore.
var limiters sync.Map

func limiterOf(host string) *semaphore.Weighted {
	limiter, ok := limiters.Load(host)
	if !ok {
		limiter, _ = limiters.LoadOrStore(host, semaphore.NewWeighted(maxInBackground))
	}
	return limiter.(*semaphore.Weighted)
}
