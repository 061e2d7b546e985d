package share

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	defaultTimeout = 500 * time.Millisecond

	// openLimit is after how long an attempt to open the storage is cancelled.
	openLimit = 30 * time.Second

	// reopenAfter is after how long a failure the storage is opened again.
	reopenAfter = 5 * time.Minute
)

// Storage is what a Caddy storage can do. A Load of a missing key returns an error that is
// fs.ErrNotExist. A storage that also has
//
//	Modified(ctx context.Context, key string) (time.Time, error)
//
// is swept once a day.
type Storage interface {
	Lock(ctx context.Context, name string) error
	Unlock(ctx context.Context, name string) error
	Load(ctx context.Context, key string) ([]byte, error)
	Store(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix string, recursive bool) ([]string, error)
}

// Options are what a Fleet needs. Open and Keys are required.
type Options struct {
	// Open opens the storage; the function that it returns closes it and may be nil. The context lives
	// as long as the storage. Open may fail, hang or panic: it is called again, but never twice at a time.
	Open func(context.Context) (Storage, func(), error)
	// Keys reads the key files. The first key seals, all open. It may fail, hang or panic; its errors are
	// shown and logged as they are. It is never called twice at a time.
	Keys func() ([][]byte, error)
	// GoodKeys are the keys that the files have had before; they count until Keys returns others.
	GoodKeys [][]byte
	// Timeout is the longest wait for one operation of the storage; 0 means 500ms.
	Timeout time.Duration
	Logger  *zap.Logger
	// Count counts an operation (provision, load, store, lock, unlock, list, delete, probe) and its result
	// (ok, error, timeout, skipped, held, late). A lock that comes late has been counted as held before.
	Count func(operation, result string)
}

func (o Options) withDefaults() Options {
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	o.Logger = cmp.Or(o.Logger, zap.NewNop())
	if o.Count == nil {
		o.Count = func(string, string) {}
	}
	return o
}

// Fleet is the processes that share records through one storage, as one of them sees them. The storage is
// opened in the background, so that neither Start nor a request needs it to be there.
type Fleet struct {
	options  Options
	keys     keyring
	probeKey string

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	ended  chan struct{} // is closed when the background work has ended; until begin nobody closes it

	locking     context.Context // ends with ReleaseLocks
	stopLocking context.CancelFunc

	opened     chan struct{} // is closed when the first attempt to open the storage has ended, or is overdue
	openedOnce sync.Once

	places     chan struct{} // one for each operation under way
	lockPlaces chan struct{} // one for each Lock under way
	busy       tracker       // operations that somebody may wait for, and locks that are held

	mu        sync.Mutex
	begun     bool
	stopped   bool
	overdue   *time.Timer // tells that the first attempt to open the storage is overdue
	current   *session    // the opened storage, or nil
	degraded  bool        // whether the storage is left alone, or is not open although it should be
	since     time.Time   // since when it is degraded, or not
	lastError string      // what made it degraded
	pause     backoff     // how long the storage is left alone
	damaged   map[string]bool
	held      map[*heldLock]bool
}

// session is the storage, as one attempt opened it.
type session struct {
	storage Storage
	ctx     context.Context // ends when the storage is closed
	close   func()
	failed  chan struct{} // gets a value when the storage has become degraded
}

// New returns a fleet that does nothing until Start or Slot is called.
func New(o Options) *Fleet {
	o = o.withDefaults()
	f := &Fleet{
		options:    o,
		keys:       keyring{read: o.Keys, good: o.GoodKeys, timeout: o.Timeout, log: o.Logger},
		probeKey:   newProbeKey(),
		ended:      make(chan struct{}),
		opened:     make(chan struct{}),
		places:     make(chan struct{}, maxOperations),
		lockPlaces: make(chan struct{}, maxLocks),
		damaged:    make(map[string]bool),
		held:       make(map[*heldLock]bool),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.locking, f.stopLocking = context.WithCancel(f.ctx)
	return f
}

// Start begins to open the storage. It returns at once.
func (f *Fleet) Start() { f.begin() }

// State returns "on" or "degraded", and in our own words what failed, or "".
func (f *Fleet) State() (state, lastError string) {
	usable, problem := f.keys.state()
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.degraded:
		return "degraded", f.lastError
	case problem != "" && !usable:
		return "degraded", problem
	case problem != "":
		return "on", problem + "; the last good keys stay in use"
	}
	return "on", ""
}

// begin starts the background work, with the first call of Start or Slot. It reports whether the fleet is
// running.
func (f *Fleet) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped || f.begun {
		return !f.stopped
	}
	f.begun, f.since = true, time.Now()
	f.overdue = time.AfterFunc(f.options.Timeout, func() {
		f.degrade(nil, &failure{operation: "provision", reason: "not finished after " + f.options.Timeout.String()})
		f.firstAttemptEnded()
	})
	go f.run()
	go f.sweepDaily()
	return true
}

// firstAttemptEnded lets requests continue that wait for the first attempt to open the storage.
func (f *Fleet) firstAttemptEnded() {
	f.openedOnce.Do(func() {
		f.overdue.Stop()
		close(f.opened)
	})
}

// run opens the storage, looks after it, and opens it again when it has failed for long.
func (f *Fleet) run() {
	defer close(f.ended)
	for f.ctx.Err() == nil {
		if s := f.provision(); s != nil {
			f.use(s)
			f.firstAttemptEnded()
			f.lookAfter(s)
			f.drop(s)
		}
	}
}

// provision opens the storage, again and again until that succeeds. It returns nil after Stop.
func (f *Fleet) provision() *session {
	var pause backoff
	for {
		s, err := f.open()
		if f.ctx.Err() != nil {
			if s != nil {
				f.drop(s)
			}
			return nil
		}
		if err == nil {
			return s
		}
		f.degrade(nil, err)
		f.firstAttemptEnded()
		if !f.sleep(pause.next()) {
			return nil
		}
	}
}

// open makes one attempt to open the storage. One that ends after openLimit has failed.
func (f *Fleet) open() (*session, *failure) {
	ctx, cancel := context.WithCancel(f.ctx)
	limit := time.AfterFunc(openLimit, cancel)
	storage, closeStorage, err := f.callOpen(ctx)
	s := &session{storage: storage, ctx: ctx, failed: make(chan struct{}, 1), close: func() {
		cancel()
		if closeStorage != nil {
			closeStorage()
		}
	}}
	if !limit.Stop() {
		err = context.DeadlineExceeded
	}
	if err == nil {
		f.options.Count("provision", "ok")
		return s, nil
	}
	f.drop(s)
	failed := newFailure("provision", err, 0)
	if f.ctx.Err() == nil {
		f.options.Count("provision", failed.result)
	}
	return nil, failed
}

func (f *Fleet) callOpen(ctx context.Context) (storage Storage, closeStorage func(), err error) {
	defer func() {
		if recover() != nil {
			err = errPanicked
		}
	}()
	storage, closeStorage, err = f.options.Open(ctx)
	if err == nil && storage == nil {
		err = errors.New("there is no storage")
	}
	return storage, closeStorage, err
}

// use hands the storage to requests: at once if nothing has failed before, otherwise after a probe.
func (f *Fleet) use(s *session) {
	f.mu.Lock()
	f.current = s
	degraded := f.degraded
	f.mu.Unlock()
	if !degraded {
		return
	}
	if _, err := f.probe(s); err == nil {
		f.recovered()
	} else {
		f.degrade(s, err)
		s.failed <- struct{}{}
	}
}

// drop takes the storage from requests and closes it. It does not wait long for that.
func (f *Fleet) drop(s *session) {
	f.mu.Lock()
	if f.current == s {
		f.current = nil
	}
	f.mu.Unlock()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		defer func() { _ = recover() }()
		s.close()
	}()
	wait(closed, f.stopWait())
}

// sleep reports whether the time has passed, and Stop has not been called.
func (f *Fleet) sleep(d time.Duration) bool {
	wait(f.ctx.Done(), d)
	return f.ctx.Err() == nil
}

// wait waits until the event has come, but not longer than the limit, and reports whether it has come.
func wait(event <-chan struct{}, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-event:
		return true
	case <-timer.C:
		return false
	}
}
