package httphelper

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// maxAhead is how many token requests that no request waits for may run at a time towards one
// authorization server, so that thousands of connections that refresh together do not overrun it.
const maxAhead = 64

// aheadSlots holds a semaphore for each host of token endpoints.
var aheadSlots sync.Map

func aheadSlotsOf(host string) *semaphore.Weighted {
	slots, ok := aheadSlots.Load(host)
	if !ok {
		slots, _ = aheadSlots.LoadOrStore(host, semaphore.NewWeighted(maxAhead))
	}
	return slots.(*semaphore.Weighted)
}

// beginAhead starts an attempt that no request waits for, when its turn comes. A request that needs
// a token meanwhile does not queue: it begins the attempt itself. Call it with the lock held.
func (s *tokenSource) beginAhead(cause context.Context) {
	s.queued = true
	go s.queue(causedBy(cause), aheadSlotsOf(s.speaker().host)) //nolint:gosec // it must outlive the request that caused it
}

func (s *tokenSource) queue(cause context.Context, slots *semaphore.Weighted) {
	// Each slot is free again after a token_timeout at the latest, so the turn does come.
	_ = slots.Acquire(context.Background(), 1)
	defer slots.Release(1)
	if a := s.takeTurn(cause); a != nil {
		<-a.done
	}
}

// takeTurn begins the attempt, unless it is not needed any more.
func (s *tokenSource) takeTurn(cause context.Context) *tokenAttempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queued = false
	if s.closed || s.attempt != nil || s.untilDue(s.now()) > 0 {
		s.tend()
		return nil
	}
	return s.begin(cause)
}
