package share

import (
	"sync"
	"time"
)

// stopWait is how long each step of Stop waits at most.
func (f *Fleet) stopWait() time.Duration { return min(f.options.Timeout, time.Second) }

// ReleaseLocks releases all locks, and takes none any more. Records are still loaded and stored. It waits for
// what is under way, but only for a moment.
func (f *Fleet) ReleaseLocks() {
	f.stopLocking()
	if f.releaseAll() {
		wait(f.busy.idle(), f.stopWait())
	}
}

// Stop ends the background work and closes the storage. It lets operations end that are under way and
// locks that are held, but only for a moment: locks are then released, and what still hangs is left to
// its cancelled context. Slots return errors afterwards.
func (f *Fleet) Stop() {
	f.mu.Lock()
	again, begun := f.stopped, f.begun
	f.stopped = true
	f.mu.Unlock()
	if again {
		return
	}
	wait(f.busy.idle(), f.stopWait())
	if f.releaseAll() {
		wait(f.busy.idle(), f.stopWait())
	}
	f.stopLocking()
	f.cancel()
	if begun {
		f.firstAttemptEnded()
		wait(f.ended, f.stopWait())
	}
}

// tracker counts what is under way.
type tracker struct {
	mu   sync.Mutex
	n    int
	zero chan struct{} // is closed when n becomes 0; nil: nobody waits for that
}

func (t *tracker) add(delta int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n += delta
	if t.n == 0 && t.zero != nil {
		close(t.zero)
		t.zero = nil
	}
}

// idle returns a channel that is closed when nothing is under way.
func (t *tracker) idle() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.zero == nil {
		t.zero = make(chan struct{})
	}
	zero := t.zero
	if t.n == 0 {
		close(zero)
		t.zero = nil
	}
	return zero
}
