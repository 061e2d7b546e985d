package token

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

// storage is a storage with one record, which replicas share.
type storage struct {
	mu     sync.Mutex
	record []byte
	lock   chan struct{} // holds one element while it is locked

	loads, stores, locks atomic.Int64
}

func newStorage() *storage { return &storage{lock: make(chan struct{}, 1)} }

// get returns the record.
func (s *storage) get() record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return parseRecord(s.record)
}

// set replaces the record.
func (s *storage) set(r record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record = r.encode()
}

// operations returns how many operations there were.
func (s *storage) operations() int64 { return s.loads.Load() + s.stores.Load() + s.locks.Load() }

// slot is the storage as one replica sees it. Each function may be nil; it runs before the operation, and
// its error is that of the operation.
type slot struct {
	*storage
	load, store, locking func(context.Context) error
	torn                 func([]byte) []byte // what is loaded instead of the record
	notExclusive         bool
	stopped              atomic.Bool // all operations fail
	open                 func()      // runs before the slot is there
}

func (s *slot) stop() { s.stopped.Store(true) }

// setLoad sets load while the slot is in use.
func (s *slot) setLoad(load func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load = load
}

// before runs before an operation.
func (s *slot) before(ctx context.Context, operation *func(context.Context) error) error {
	if s.stopped.Load() {
		return errStorage
	}
	s.mu.Lock()
	run := *operation
	s.mu.Unlock()
	if run == nil {
		return nil
	}
	return run(ctx)
}

func (s *slot) Load(ctx context.Context) ([]byte, error) {
	s.loads.Add(1)
	if err := s.before(ctx, &s.load); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.torn != nil {
		return s.torn(s.record), nil
	}
	return s.record, nil
}

func (s *slot) Store(ctx context.Context, record []byte) error {
	s.stores.Add(1)
	if err := s.before(ctx, &s.store); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !json.Valid(record) {
		return errors.New("not JSON")
	}
	s.record = record
	return nil
}

func (s *slot) Lock(ctx context.Context) (func(), error) {
	s.locks.Add(1)
	if err := s.before(ctx, &s.locking); err != nil {
		return nil, err
	}
	if s.notExclusive {
		return func() {}, nil
	}
	select {
	case s.storage.lock <- struct{}{}:
		return func() { <-s.storage.lock }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Slot implements Shared: everybody has the same identity.
func (s *slot) Slot([]byte) Slot {
	if s.open != nil {
		s.open()
	}
	return s
}

// errStorage is a failure of the storage.
var errStorage = errors.New("hunter2")

func broken(context.Context) error { return errStorage }

// takes delays an operation. It ends with its context.
func takes(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// replica is one process with a source.
type replica struct {
	*Source
	user *User
	slot *slot
}

// newEndpoint returns the token endpoint of replicas that may share its tokens.
func newEndpoint() *tokentest.Fetcher { return &tokentest.Fetcher{Identity: []byte("equal")} }

// newReplica starts a replica.
func newReplica(t *testing.T, s *storage, f Fetcher, settings ...func(*replica)) *replica {
	t.Helper()
	r := &replica{Source: NewSource(), slot: &slot{storage: s}}
	r.user = &User{Name: "billing", Fetcher: f, Shared: r.slot}
	for _, set := range settings {
		set(r)
	}
	r.Attach(r.user)
	r.Start(r.user)
	t.Cleanup(func() {
		r.stop()
		time.Sleep(time.Minute) // what still runs ends
	})
	return r
}

// stop ends the replica.
func (r *replica) stop() {
	if r.Detach(r.user) {
		_ = r.Destruct()
	}
}

// newReplicas starts n replicas.
func newReplicas(t *testing.T, n int, s *storage, f Fetcher, settings ...func(*replica)) []*replica {
	t.Helper()
	replicas := make([]*replica, n)
	for i := range replicas {
		replicas[i] = newReplica(t, s, f, settings...)
	}
	return replicas
}

// each runs use for each replica at the same time.
func each(replicas []*replica, use func(*replica)) {
	var all sync.WaitGroup
	for _, r := range replicas {
		all.Go(func() { use(r) })
	}
	all.Wait()
}

// until returns a use of a replica again and again until then.
func until(end time.Time, pause time.Duration, use func(*replica)) func(*replica) {
	return func(r *replica) {
		for time.Now().Before(end) {
			use(r)
			time.Sleep(pause)
		}
	}
}

// skewed is a fetcher, and a replica, whose clock differs from the others'.
type skewed struct {
	*tokentest.Fetcher
	by time.Duration
}

func (f skewed) Prepare(ctx context.Context) (Prepared, string, error) {
	p, fingerprint, err := f.Fetcher.Prepare(ctx)
	return skewedRequest{p, f.by}, fingerprint, err
}

type skewedRequest struct {
	Prepared
	by time.Duration
}

func (r skewedRequest) Fetch(ctx context.Context) (*oauth.Token, error) {
	t, err := r.Prepared.Fetch(ctx)
	if t != nil {
		t.Sent = t.Sent.Add(r.by)
	}
	return t, err
}

// withClock lets the replica's clock differ from the others'.
func withClock(f *tokentest.Fetcher, by time.Duration) func(*replica) {
	return func(r *replica) {
		r.now = func() time.Time { return time.Now().Add(by) }
		r.user.Fetcher = skewed{f, by}
	}
}

// containsSecret reports whether a text shows what a storage or a server has said.
func containsSecret(text string) bool { return strings.Contains(text, "hunter2") }
