package share

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestStorageThatFails has every kind of failure. Each costs one operation's timeout at most, once.
func TestStorageThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		fault     func(context.Context, string, string) error
		takes     time.Duration
		lastError string
		result    string
	}{
		"error":             {failing, 0, "the storage reports an error", "error"},
		"panic":             {func(context.Context, string, string) error { panic(moduleText) }, 0, "the storage panicked", "error"},
		"hanging":           {hangUntilCancelled, testTimeout, "no response within 500ms", "timeout"},
		"full disk":         {returning(fmt.Errorf("hunter2: %w", syscall.ENOSPC)), 0, "no space is left", "error"},
		"read-only":         {returning(syscall.EROFS), 0, "it is read-only", "error"},
		"permissions":       {returning(&fs.PathError{Op: "open", Path: "/hunter2", Err: syscall.EACCES}), 0, "permission denied", "error"},
		"refused":           {returning(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), 0, "connection refused", "error"},
		"reset":             {returning(syscall.ECONNRESET), 0, "connection reset", "error"},
		"no such host":      {returning(&net.DNSError{Name: "hunter2"}), 0, "its host name cannot be resolved", "error"},
		"connection's time": {returning(&net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}), 0, "its connection timed out", "error"},
		"own time":          {returning(fmt.Errorf("hunter2: %w", context.DeadlineExceeded)), 0, "no response within 500ms", "timeout"},
		"cancelled":         {returning(context.Canceled), 0, "cancelled", "error"},
	} {
		for _, operation := range []string{"load", "store"} {
			t.Run(name+" "+operation, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					storage := newStorage()
					x := newFixture(t, storage)
					s := x.slot("i")
					mustLoad(t, s, "")
					storage.setFault(test.fault)
					do := func() error { return s.Store(t.Context(), []byte("content")) }
					if operation == "load" {
						do = func() error { _, err := s.Load(t.Context()); return err }
					}
					took(t, test.takes, func() {
						if err := do(); err == nil || err.Error() != operation+": "+test.lastError {
							t.Errorf("error %v", err)
						}
					})
					x.wantState("degraded", operation+": "+test.lastError)
					x.wantDegraded(true)
					x.wantLogs(failsLine)
					took(t, 0, func() {
						if err := do(); !errors.Is(err, errLeftAlone) {
							t.Errorf("error %v", err)
						}
					})
					if x.count(operation+" "+test.result) != 1 || x.count(operation+" skipped") != 1 {
						t.Errorf("counted %s", x.counted())
					}
				})
			})
		}
	}
}

func returning(err error) func(context.Context, string, string) error {
	return func(context.Context, string, string) error { return err }
}

// TestOperationThatIgnoresItsContext: nobody waits longer than the timeout for a storage that is slow by
// 5s, and what comes late changes nothing.
func TestOperationThatIgnoresItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		mustStore(t, x.slot("i"), "content")
		storage.setFault(func(context.Context, string, string) error {
			time.Sleep(5 * time.Second)
			return nil
		})
		took(t, testTimeout, func() {
			if content, err := x.slot("i").Load(t.Context()); content != nil || err == nil {
				t.Errorf("loaded %q, %v", content, err)
			}
		})
		time.Sleep(20 * time.Second)
		x.wantState("degraded", "probe: no response within 500ms")
		x.wantLogs(failsLine)
		storage.setFault(nil)
		time.Sleep(maxPause)
		x.wantLogs(failsLine, worksLine)
		mustLoad(t, x.slot("i"), "content")
	})
}

// TestProbe: a storage that fails is left alone for 1s, doubling to 30s, and comes back by itself.
func TestProbe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		s := x.slot("i")
		mustStore(t, s, "content")
		storage.setFault(failing)
		if _, err := s.Load(t.Context()); err == nil {
			t.Error("no error")
		}
		storage.takeCalls()
		start := time.Now()
		time.Sleep(95 * time.Second)
		var at []string
		calls := storage.takeCalls()
		for _, c := range calls {
			at = append(at, fmt.Sprint(c.operation, c.at.Sub(start)))
		}
		if got := fmt.Sprint(at); got != "[store1s store3s store7s store15s store31s store1m1s store1m31s]" {
			t.Errorf("probes %v", got)
		}
		x.wantState("degraded", "probe: the storage reports an error")
		storage.setFault(nil)
		time.Sleep(27 * time.Second)
		x.wantState("on", "")
		x.wantDegraded(true, false)
		x.wantLogs(failsLine, worksLine)
		mustLoad(t, s, "content")
		if names := storage.names(); len(names) != 1 {
			t.Errorf("the probe leaves something behind: %v", names)
		}
		if x.count("probe error") != 7 || x.count("probe ok") != 1 {
			t.Errorf("counted %s", x.counted())
		}
		for _, c := range calls {
			if !strings.HasPrefix(c.key, probePrefix) {
				t.Errorf("a probe touches %s", c.key)
			}
		}
	})
}

// TestProbeFindsWhatDoesNotWork: reading and deleting must work too, and give back what was written.
func TestProbeFindsWhatDoesNotWork(t *testing.T) {
	for operation, fault := range map[string]func(*fakeStorage){
		"load":   nil,
		"delete": nil,
		"other":  func(s *fakeStorage) { s.setDamage(func(b []byte) []byte { b[0]++; return b }) },
	} {
		t.Run(operation, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				storage := newStorage()
				x := newFixture(t, storage)
				s := x.slot("i")
				storage.setFault(failing)
				_ = s.Store(t.Context(), nil)
				storage.setFault(func(_ context.Context, o, _ string) error {
					if o == operation {
						return errors.New(moduleText)
					}
					return nil
				})
				if fault != nil {
					fault(storage)
				}
				time.Sleep(10 * time.Second)
				x.wantDegraded(true)
			})
		})
	}
}

// TestFailingAgain: a storage that works for probes only is left alone for longer and longer, so that
// neither requests nor the log suffer. One that has worked for a while starts with 1s again.
func TestFailingAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		broken := func(_ context.Context, _, key string) error {
			if strings.HasPrefix(key, tokenPrefix) {
				return fs.ErrPermission
			}
			return nil
		}
		storage.setFault(broken)
		for range 10 * 60 {
			_, _ = x.slot("i").Load(t.Context())
			time.Sleep(time.Second)
		}
		if n := x.count("load error"); n < 20 || n > 27 {
			t.Errorf("%d failures in 10 minutes", n)
		}
		storage.setFault(nil)
		time.Sleep(2 * time.Minute)
		storage.setFault(failing)
		_, _ = x.slot("i").Load(t.Context())
		storage.setFault(nil)
		time.Sleep(time.Second + 1)
		x.wantState("on", "")
	})
}

// TestHangingProbes: a storage that hangs and ignores contexts holds one probe at most.
func TestHangingProbes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		s := x.slot("i")
		mustStore(t, s, "content")
		release := make(chan struct{})
		storage.setFault(hang(release))
		_, _ = s.Load(t.Context())
		time.Sleep(4 * time.Minute)
		if n, _ := storage.atOnce(); n != 2 {
			t.Errorf("%d operations under way, want the load and a probe", n)
		}
		storage.setFault(nil)
		close(release)
		time.Sleep(maxPause)
		mustLoad(t, s, "content")
	})
}

// TestOneOperationTooMany: with 64 operations under way the next ones wait until others have ended, so that many
// connections may begin at the same time.
func TestOneOperationTooMany(t *testing.T) {
	const many = 3 * maxOperations
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		mustLoad(t, x.slot("i"), "")
		storage.setFault(func(context.Context, string, string) error {
			time.Sleep(testTimeout / 10)
			return nil
		})
		var all sync.WaitGroup
		took(t, 4*testTimeout/10, func() {
			for i := range many {
				all.Go(func() { mustLoad(t, x.slot(fmt.Sprint(i)), "") })
			}
			synctest.Wait()
			mustStore(t, x.slot("i"), "content")
			all.Wait()
		})
		for i := range many {
			all.Go(func() {
				if _, err := x.slot(fmt.Sprint(i)).Lock(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if _, most := storage.atOnce(); most != maxOperations {
			t.Errorf("%d operations at once", most)
		}
		x.wantDegraded()
		x.wantCounts("load ok:193 lock ok:192 provision ok:1 store ok:1")
	})
}

// TestNoPlaceInTime: an operation that finds no place takes no longer than any other. It is no failure of the
// storage.
func TestNoPlaceInTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		mustLoad(t, x.slot("i"), "")
		release := make(chan struct{})
		storage.setFault(hang(release))
		for range maxOperations {
			go func() {
				<-x.tryStart(x.current, unlocking, func(ctx context.Context) error { return storage.Unlock(ctx, "") }).returned
			}()
		}
		synctest.Wait()
		took(t, testTimeout, func() {
			if _, err := x.slot("i").Load(t.Context()); !errors.Is(err, errBusy) {
				t.Errorf("error %v", err)
			}
		})
		took(t, testTimeout/2, func() {
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout/2)
			defer cancel()
			if _, err := x.slot("i").Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v", err)
			}
		})
		x.wantDegraded()
		close(release)
		mustStore(t, x.slot("i"), "content")
		x.wantCounts("load ok:1 load skipped:1 lock skipped:1 provision ok:1 store ok:1 unlock timeout:64")
	})
}

// TestWaitingForAFailingStorage: what waits for a place is not tried any more when the storage has failed.
func TestWaitingForAFailingStorage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		mustLoad(t, x.slot("i"), "")
		storage.setFault(func(context.Context, string, string) error {
			time.Sleep(testTimeout / 4) // twice for a load, which then looks for another key
			return errors.New(moduleText)
		})
		var all sync.WaitGroup
		took(t, testTimeout/2, func() {
			for i := range 3 * maxOperations {
				all.Go(func() { _, _ = x.slot(fmt.Sprint(i)).Load(t.Context()) })
			}
			all.Wait()
		})
		if n := x.count("load error"); n != maxOperations {
			t.Errorf("%d loads tried", n)
		}
		x.wantDegraded(true)
	})
}

// TestHangingStorageHoldsFewGoroutines: many requests meet a storage that hangs and ignores contexts.
func TestHangingStorageHoldsFewGoroutines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		mustLoad(t, x.slot("i"), "")
		release := make(chan struct{})
		defer close(release)
		storage.setFault(hang(release))
		for i := range 1000 {
			go func() { _, _ = x.slot(fmt.Sprint(i)).Load(t.Context()) }()
		}
		time.Sleep(time.Minute)
		if now, most := storage.atOnce(); now == 0 || most > maxOperations {
			t.Errorf("%d operations under way, %d at most", now, most)
		}
		x.wantDegraded(true)
	})
}

// TestProbeThatHangsForLong ends with the storage that is opened again.
func TestProbeThatHangsForLong(t *testing.T) {
	bubble(t, func(t *testing.T) {
		first, second := newStorage(), newStorage()
		x := newFixture(t, nil, opening(func(_ context.Context, x *fixture) (Storage, func(), error) {
			if len(x.openedAt()) == 1 {
				return first, nil, nil
			}
			return second, nil, nil
		}))
		s := x.slot("i")
		mustLoad(t, s, "")
		release := make(chan struct{})
		defer close(release)
		first.setFault(hang(release))
		_, _ = s.Load(t.Context())
		time.Sleep(reopenAfter + time.Second)
		mustStore(t, s, "content")
		if n, _ := first.atOnce(); n != 2 || len(second.names()) != 1 {
			t.Errorf("%d operations hang; the new storage has %q", n, second.names())
		}
		x.wantLogs(failsLine, worksLine)
	})
}
