package token

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// maxInBackground is how many token requests that no request waits for may run at a time towards one
// authorization server, so that thousands of connections that refresh together do not overrun it.
const maxInBackground = 64

// limiters holds a semaphore for each host of token endpoints.
var limiters sync.Map

func limiterOf(host string) *semaphore.Weighted {
	slots, ok := limiters.Load(host)
	if !ok {
		slots, _ = limiters.LoadOrStore(host, semaphore.NewWeighted(maxInBackground))
	}
	return slots.(*semaphore.Weighted)
}

// refreshInBackground starts an attempt that no request waits for, when its turn comes. A request that needs
// a token meanwhile does not queue: it begins the attempt itself. Call it with the lock held.
func (s *Source) refreshInBackground(cause context.Context) {
	s.queued = true
	go s.waitForTurn(causedBy(cause), limiterOf(s.primary().Host)) //nolint:gosec // it must outlive the request that caused it
}

func (s *Source) waitForTurn(cause context.Context, slots *semaphore.Weighted) {
	// Each slot is free again after a token_timeout at the latest, so the turn does come.
	_ = slots.Acquire(context.Background(), 1)
	defer slots.Release(1)
	if a := s.takeTurn(cause); a != nil {
		<-a.done
	}
}

// takeTurn begins the attempt, unless it is not needed any more.
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
