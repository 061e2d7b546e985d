package share

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// fakeStorage is a storage in memory with faults.
type fakeStorage struct {
	// fault is called before each operation: load, store, delete, list, lock, unlock, modified. It may
	// return an error, wait or panic. nil: no faults.
	fault func(ctx context.Context, operation, key string) error
	// afterLock is called before Lock returns nil.
	afterLock func(ctx context.Context)
	// damage changes what Load returns.
	damage       func([]byte) []byte
	notExclusive bool

	mu         sync.Mutex
	values     map[string][]byte
	modified   map[string]time.Time
	locks      map[string]bool
	calls      []call
	underWay   int
	mostAtOnce int
}

type call struct {
	operation, key string
	at             time.Time
}

func newStorage() *fakeStorage {
	return &fakeStorage{values: make(map[string][]byte), modified: make(map[string]time.Time), locks: make(map[string]bool)}
}

// begin notes a call and makes its fault. The returned function ends it.
func (s *fakeStorage) begin(ctx context.Context, operation, key string) (end func(), err error) {
	s.mu.Lock()
	s.calls = append(s.calls, call{operation, key, time.Now()})
	s.underWay++
	s.mostAtOnce = max(s.mostAtOnce, s.underWay)
	fault := s.fault
	s.mu.Unlock()
	end = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.underWay--
	}
	if fault != nil {
		err = fault(ctx, operation, key)
	}
	return end, err
}

func (s *fakeStorage) setFault(fault func(ctx context.Context, operation, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

func (s *fakeStorage) Load(ctx context.Context, key string) ([]byte, error) {
	end, err := s.begin(ctx, "load", key)
	defer end()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[key]
	if !ok {
		return nil, fmt.Errorf("module: %s: %w", key, fs.ErrNotExist)
	}
	if s.damage != nil {
		value = s.damage(bytes.Clone(value))
	}
	return value, nil
}

func (s *fakeStorage) Store(ctx context.Context, key string, value []byte) error {
	end, err := s.begin(ctx, "store", key)
	defer end()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key], s.modified[key] = bytes.Clone(value), time.Now()
	return nil
}

func (s *fakeStorage) Delete(ctx context.Context, key string) error {
	end, err := s.begin(ctx, "delete", key)
	defer end()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.values, key)
	return nil
}

func (s *fakeStorage) List(ctx context.Context, prefix string, _ bool) ([]string, error) {
	end, err := s.begin(ctx, "list", prefix)
	defer end()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for key := range s.values {
		if strings.HasPrefix(key, prefix) { // wrong for a folder with a longer name, as some storages are
			keys = append(keys, key)
		}
	}
	if keys == nil {
		return nil, fs.ErrNotExist
	}
	return keys, nil
}

func (s *fakeStorage) Lock(ctx context.Context, name string) error {
	end, err := s.begin(ctx, "lock", name)
	defer end()
	if err != nil {
		return err
	}
	for !s.tryLock(name) {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if s.afterLock != nil {
		s.afterLock(ctx)
	}
	return nil
}

func (s *fakeStorage) tryLock(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[name] && !s.notExclusive {
		return false
	}
	s.locks[name] = true
	return true
}

func (s *fakeStorage) Unlock(ctx context.Context, name string) error {
	end, err := s.begin(ctx, "unlock", name)
	defer end()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.locks[name] {
		return errors.New("module: not locked")
	}
	delete(s.locks, name)
	return nil
}

// forceUnlock releases all locks.
func (s *fakeStorage) forceUnlock() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.locks)
}

func (s *fakeStorage) locked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.locks)
}

func (s *fakeStorage) setDamage(damage func([]byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damage = damage
}

// atOnce returns how many operations are under way, and the most that have been.
func (s *fakeStorage) atOnce() (now, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.underWay, s.mostAtOnce
}

// takeCalls returns the calls since the last time.
func (s *fakeStorage) takeCalls() []call {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// callsOf returns how often an operation has been called.
func (s *fakeStorage) callsOf(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.calls {
		if c.operation == operation {
			n++
		}
	}
	return n
}

// content returns a copy of what is stored.
func (s *fakeStorage) content() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.values)
}

func (s *fakeStorage) names() []string { return slices.Sorted(maps.Keys(s.content())) }

func (s *fakeStorage) put(key string, value []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[key], s.modified[key] = value, time.Now()
}

// datedStorage is a fakeStorage that tells when a key was written.
type datedStorage struct{ *fakeStorage }

func (s datedStorage) Modified(ctx context.Context, key string) (time.Time, error) {
	end, err := s.begin(ctx, "modified", key)
	defer end()
	if err != nil {
		return time.Time{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	modified, ok := s.modified[key]
	if !ok {
		return time.Time{}, fs.ErrNotExist
	}
	return modified, nil
}

// hang waits for release, whatever the context says.
func hang(release <-chan struct{}) func(context.Context, string, string) error {
	return func(context.Context, string, string) error {
		<-release
		return nil
	}
}

// hangUntilCancelled waits for the end of the context.
func hangUntilCancelled(ctx context.Context, _, _ string) error {
	<-ctx.Done()
	return ctx.Err()
}

// failing fails with a text that must never be shown.
func failing(context.Context, string, string) error { return errors.New(moduleText) }

const (
	moduleText  = "module text: password hunter2"
	testTimeout = 500 * time.Millisecond
)

// fixture is a fleet whose counts, logs and states are noted.
type fixture struct {
	*Fleet
	t    *testing.T
	logs *observer.ObservedLogs

	mu       sync.Mutex
	counts   map[string]int
	opened   []time.Time
	closed   int
	keyFiles func() ([][]byte, error)
}

func testKey(n byte) []byte { return bytes.Repeat([]byte{n}, keyBytes) }

// newFixture returns a fleet with one key that uses the storage. It is stopped at the end of the test.
func newFixture(t *testing.T, s Storage, set ...func(*fixture, *Options)) *fixture {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	x := &fixture{t: t, logs: logs, counts: make(map[string]int)}
	x.setKeys(testKey(1))
	o := Options{
		Open: func(context.Context) (Storage, func(), error) {
			return s, x.noteClosed, nil
		},
		Keys: func() ([][]byte, error) {
			x.mu.Lock()
			read := x.keyFiles
			x.mu.Unlock()
			return read()
		},
		Timeout: testTimeout,
		Logger:  zap.New(core),
		Count: func(operation, result string) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.counts[operation+" "+result]++
		},
	}
	for _, set := range set {
		set(x, &o)
	}
	open := o.Open
	o.Open = func(ctx context.Context) (Storage, func(), error) {
		x.mu.Lock()
		x.opened = append(x.opened, time.Now())
		x.mu.Unlock()
		return open(ctx)
	}
	x.Fleet = New(o)
	t.Cleanup(x.Stop)
	return x
}

// openedAt returns when the storage has been opened.
func (x *fixture) openedAt() []time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.opened)
}

// timesClosed returns how often a storage has been closed.
func (x *fixture) timesClosed() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.closed
}

func (x *fixture) noteClosed() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.closed++
}

func (x *fixture) setKeys(keys ...[]byte) {
	x.readKeys(func() ([][]byte, error) { return keys, nil })
}

func (x *fixture) readKeys(read func() ([][]byte, error)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.keyFiles = read
}

func (x *fixture) slot(identity string) *Slot {
	x.t.Helper()
	s := x.Slot([]byte(identity))
	if s == nil {
		x.t.Fatal("there is no slot")
	}
	return s
}

func (x *fixture) count(what string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.counts[what]
}

func (x *fixture) counted() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return fmt.Sprint(x.counts)
}

func (x *fixture) wantCounts(want string) {
	x.t.Helper()
	if got := x.counted(); got != "map["+want+"]" {
		x.t.Errorf("counted %s, want %s", got, want)
	}
}

func (x *fixture) wantState(state, lastError string) {
	x.t.Helper()
	gotState, gotError := x.State()
	if gotState != state || gotError != lastError {
		x.t.Errorf("state %q, %q, want %q, %q", gotState, gotError, state, lastError)
	}
}

// wantDegraded compares the changes of state, which are logged.
func (x *fixture) wantDegraded(want ...bool) {
	x.t.Helper()
	var got []bool
	for _, e := range x.logs.All() {
		switch {
		case strings.HasPrefix(e.Message, "the token storage fails"):
			got = append(got, true)
		case strings.HasPrefix(e.Message, "the token storage works again"):
			got = append(got, false)
		}
	}
	if !slices.Equal(got, want) {
		x.t.Errorf("degraded %v, want %v", got, want)
	}
}

// wantLogs compares the log from Info on, as "LEVEL message", and looks for texts that must not be shown.
func (x *fixture) wantLogs(want ...string) {
	x.t.Helper()
	var got []string
	for _, e := range x.logs.All() {
		if text := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(text, "hunter2") {
			x.t.Errorf("the log shows a storage's own text: %s", text)
		}
		if e.Level > zapcore.DebugLevel {
			got = append(got, e.Level.CapitalString()+" "+e.Message)
		}
	}
	if !slices.Equal(got, want) {
		x.t.Errorf("log:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

const (
	failsLine   = "WARN the token storage fails and is left alone; tokens are not shared meanwhile"
	worksLine   = "INFO the token storage works again; tokens are shared"
	damagedLine = "WARN a shared token cannot be opened and counts as absent: it was damaged, moved or sealed with another key"
)

func mustLoad(t *testing.T, s *Slot, want string) {
	t.Helper()
	got, err := s.Load(t.Context())
	if err != nil || string(got) != want {
		t.Errorf("loaded %q, %v, want %q", got, err, want)
	}
	if want == "" && got != nil {
		t.Error("what is absent is not nil")
	}
}

func mustStore(t *testing.T, s *Slot, content string) {
	t.Helper()
	if err := s.Store(t.Context(), []byte(content)); err != nil {
		t.Error(err)
	}
}

// bubble runs the test with a clock that moves when everything waits.
func bubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// took checks how long a function takes.
func took(t *testing.T, want time.Duration, do func()) {
	t.Helper()
	start := time.Now()
	do()
	if got := time.Since(start); got != want {
		t.Errorf("took %v, want %v", got, want)
	}
}
