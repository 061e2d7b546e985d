package share

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// maxLocks is how many calls of Lock may be under way. They may wait for long, and must leave places for
// other operations.
const maxLocks = maxOperations / 2

// unlockRetries is how often unlocking is tried again that has failed: for half a minute. A lock that nobody
// releases may hold up others for longer.
const unlockRetries = 5

// heldLock is a lock that somebody holds.
type heldLock struct {
	storage *session
	name    string
	cancel  context.CancelFunc // of the context that Lock was called with
	once    sync.Once
	gone    atomic.Bool // whether the storage has released it
}

// Lock waits for the lock of the place until ctx ends or ReleaseLocks is called, and returns the function that releases it, in the
// background. The lock need not be exclusive. An error says that there is no lock and is no failure of the
// storage; a lock that comes after ctx has ended is released at once.
func (s *Slot) Lock(ctx context.Context) (unlock func(), err error) {
	f := s.fleet
	storage, err := f.ready(ctx, "lock")
	if err != nil {
		return nil, err
	}
	l := &heldLock{storage: storage, name: s.places[0].lock}
	ctx, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	defer context.AfterFunc(f.locking, stopWaiting)()
	if err := f.awaitLockTurn(ctx, storage); err != nil {
		f.options.Count("lock", "skipped")
		return nil, err
	}
	// The storage may need its context while the lock is held, so it does not end with ctx then.
	held, cancel := context.WithCancel(storage.ctx)
	l.cancel = cancel
	unlink := context.AfterFunc(ctx, cancel)
	err = f.obtain(held, l)
	if !unlink() || f.locking.Err() != nil { // nobody waits any more
		if err == nil {
			f.release(l)
		}
		cancel()
		f.options.Count("lock", "held")
		return nil, cmp.Or(ctx.Err(), context.Canceled)
	}
	if err != nil {
		cancel()
		failed := newFailure("lock", err, 0)
		f.options.Count("lock", failed.result)
		return nil, failed
	}
	f.options.Count("lock", "ok")
	return func() { f.release(l) }, nil
}

// obtain calls Lock in the background. It returns when that has returned or the context has ended.
func (f *Fleet) obtain(ctx context.Context, l *heldLock) error {
	result := make(chan error)
	go func() {
		err := f.callLock(ctx, l)
		select {
		case result <- err:
			return
		case <-ctx.Done():
		}
		if err == nil {
			f.options.Count("lock", "late")
			f.hold(l)
			f.release(l)
		}
	}()
	select {
	case err := <-result:
		if err == nil {
			f.hold(l)
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// callLock calls Lock at the places that the caller has taken. A panic is an error.
func (f *Fleet) callLock(ctx context.Context, l *heldLock) (err error) {
	defer func() {
		if recover() != nil {
			err = errPanicked
		}
		<-f.lockPlaces
		<-f.places
	}()
	return l.storage.storage.Lock(ctx, l.name)
}

// awaitLockTurn is awaitTurn for a call of Lock.
func (f *Fleet) awaitLockTurn(ctx context.Context, s *session) error {
	select {
	case f.lockPlaces <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	err := f.awaitTurn(ctx, s)
	if err != nil {
		<-f.lockPlaces
	}
	return err
}

func (f *Fleet) hold(l *heldLock) {
	f.busy.add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[l] = true
}

// release releases the lock in the background, once.
func (f *Fleet) release(l *heldLock) {
	l.once.Do(func() {
		f.mu.Lock()
		delete(f.held, l)
		f.mu.Unlock()
		go f.unlock(l)
	})
}

// unlock releases the lock. It waits for a place among the operations under way, because a lock that is
// never released may hold up others for long.
func (f *Fleet) unlock(l *heldLock) {
	defer f.busy.add(-1)
	defer l.cancel()
	if returned := f.tryUnlock(l); !l.gone.Load() {
		go f.unlockAgain(l, returned)
	}
}

// tryUnlock releases the lock once. It returns a channel that is closed when the call has returned, which may
// hang for longer than an operation takes.
func (f *Fleet) tryUnlock(l *heldLock) (returned <-chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), f.options.Timeout)
	defer cancel()
	if !f.awaitPlace(ctx) {
		f.options.Count("unlock", "skipped")
		return closedChannel()
	}
	o := f.startAtPlace(l.storage, unlocking, func(ctx context.Context) error {
		err := l.storage.storage.Unlock(ctx, l.name)
		l.gone.Store(err == nil)
		return err
	})
	<-o.done
	return o.returned
}

// unlockAgain tries again to release the lock, unless this process has locked the same again.
func (f *Fleet) unlockAgain(l *heldLock, returned <-chan struct{}) {
	var pause backoff
	closed := l.storage.ctx.Done()
	for range unlockRetries {
		select {
		case <-returned:
		case <-closed:
			return
		}
		if l.gone.Load() || wait(closed, pause.next()) || f.holds(l.name) {
			return
		}
		returned = f.tryUnlock(l)
	}
}

// holds reports whether a lock with this name is held.
func (f *Fleet) holds(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.held {
		if l.name == name {
			return true
		}
	}
	return false
}

// releaseAll releases all locks that are held, and reports whether there are any.
func (f *Fleet) releaseAll() bool {
	f.mu.Lock()
	all := slices.Collect(maps.Keys(f.held))
	f.mu.Unlock()
	for _, l := range all {
		f.release(l)
	}
	return len(all) > 0
}
