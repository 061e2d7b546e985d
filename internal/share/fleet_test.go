package share

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// opening sets the function that opens the storage.
func opening(open func(ctx context.Context, x *fixture) (Storage, func(), error)) func(*fixture, *Options) {
	return func(x *fixture, o *Options) {
		o.Open = func(ctx context.Context) (Storage, func(), error) { return open(ctx, x) }
	}
}

// TestProvisioningBeginsWithTheFirst of Start and Slot, once.
func TestProvisioningBeginsWithTheFirst(t *testing.T) {
	for name, begin := range map[string]func(*fixture){
		"Start": func(x *fixture) { x.Start() },
		"Slot":  func(x *fixture) { x.slot("i") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				x := newFixture(t, newStorage())
				time.Sleep(time.Minute)
				if len(x.openedAt()) != 0 {
					t.Error("the storage is opened before")
				}
				begin(x)
				synctest.Wait()
				x.Start()
				mustLoad(t, x.slot("i"), "")
				x.Stop()
				x.Stop()
				if len(x.openedAt()) != 1 || x.timesClosed() != 1 {
					t.Errorf("opened %d times, closed %d times", len(x.openedAt()), x.timesClosed())
				}
				x.wantLogs()
			})
		})
	}
}

// TestStorageThatOpensSlowly: requests wait for it until the timeout after the start, and not again.
func TestStorageThatOpensSlowly(t *testing.T) {
	slowly := func(takes time.Duration) func(*fixture, *Options) {
		storage := newStorage()
		return opening(func(context.Context, *fixture) (Storage, func(), error) {
			time.Sleep(takes)
			return storage, nil, nil
		})
	}
	t.Run("in time", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			x := newFixture(t, nil, slowly(400*time.Millisecond))
			took(t, 400*time.Millisecond, func() { mustLoad(t, x.slot("i"), "") })
			x.wantDegraded()
			x.wantCounts("load ok:1 provision ok:1")
		})
	})
	t.Run("too slowly", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			x := newFixture(t, nil, slowly(20*time.Second))
			x.Start()
			time.Sleep(100 * time.Millisecond)
			load := func() {
				if _, err := x.slot("i").Load(t.Context()); !errors.Is(err, errLeftAlone) {
					t.Error(err)
				}
			}
			took(t, 400*time.Millisecond, load)
			took(t, 0, load)
			x.wantState("degraded", "provision: not finished after 500ms")
			time.Sleep(20 * time.Second)
			mustLoad(t, x.slot("i"), "")
			x.wantDegraded(true, false)
			x.wantLogs(failsLine, worksLine)
			x.wantCounts("load ok:1 load skipped:2 probe ok:1 provision ok:1")
		})
	})
	t.Run("caller leaves", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			x := newFixture(t, nil, slowly(400*time.Millisecond))
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			took(t, 100*time.Millisecond, func() {
				if _, err := x.slot("i").Load(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		})
	})
}

// TestStorageThatDoesNotOpen is tried again with a back-off, whether it fails or panics.
func TestStorageThatDoesNotOpen(t *testing.T) {
	for name, test := range map[string]struct {
		fail   func() error
		reason string
	}{
		"error":      {func() error { return errors.New(moduleText) }, "the storage reports an error"},
		"refused":    {func() error { return fmt.Errorf("hunter2: %w", syscall.ECONNREFUSED) }, "connection refused"},
		"panic":      {func() error { panic(moduleText) }, "the storage panicked"},
		"no storage": {func() error { return nil }, "the storage reports an error"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				storage := newStorage()
				x := newFixture(t, storage, opening(func(_ context.Context, x *fixture) (Storage, func(), error) {
					if len(x.openedAt()) < 8 {
						return nil, nil, test.fail()
					}
					return storage, x.noteClosed, nil
				}))
				start := time.Now()
				x.Start()
				time.Sleep(testTimeout + 1)
				x.wantState("degraded", "provision: "+test.reason)
				time.Sleep(62 * time.Second)
				x.wantState("degraded", "provision: "+test.reason)
				took(t, 0, func() {
					if _, err := x.slot("i").Load(t.Context()); err == nil {
						t.Error("no error")
					}
				})
				time.Sleep(59 * time.Second)
				var at []string
				for _, opened := range x.openedAt() {
					at = append(at, opened.Sub(start).String())
				}
				if got := strings.Join(at, " "); got != "0s 1s 3s 7s 15s 31s 1m1s 1m31s" {
					t.Errorf("opened at %s", got)
				}
				mustLoad(t, x.slot("i"), "")
				x.wantLogs(failsLine, worksLine)
				x.wantCounts("load ok:1 load skipped:1 probe ok:1 provision error:7 provision ok:1")
			})
		})
	}
}

// TestOpeningThatHangs is cancelled after 30s. What it returns late is closed.
func TestOpeningThatHangs(t *testing.T) {
	for name, hangs := range map[string]func(context.Context){
		"cancelled": func(ctx context.Context) { <-ctx.Done() },
		"late":      func(context.Context) { time.Sleep(40 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				x := newFixture(t, nil, opening(func(ctx context.Context, x *fixture) (Storage, func(), error) {
					if len(x.openedAt()) == 1 {
						hangs(ctx)
					}
					return newStorage(), x.noteClosed, nil
				}))
				x.Start()
				time.Sleep(42 * time.Second)
				if len(x.openedAt()) != 2 || x.timesClosed() != 1 {
					t.Errorf("opened %d times, closed %d times", len(x.openedAt()), x.timesClosed())
				}
				x.wantState("on", "")
				x.wantCounts("probe ok:1 provision ok:1 provision timeout:1")
			})
		})
	}
}

// TestStorageIsOpenedAnew when it has failed for 5 minutes, even if closing it hangs.
func TestStorageIsOpenedAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		first, second := newStorage(), newStorage()
		release := make(chan struct{})
		defer close(release)
		var held context.Context
		x := newFixture(t, nil, opening(func(ctx context.Context, x *fixture) (Storage, func(), error) {
			if len(x.openedAt()) == 1 {
				held = ctx
				return first, func() { <-release }, nil
			}
			return second, x.noteClosed, nil
		}))
		s := x.slot("i")
		mustLoad(t, s, "")
		first.setFault(hangUntilCancelled)
		second.setFault(failing)
		_, _ = s.Load(t.Context())
		time.Sleep(reopenAfter - time.Second)
		if len(x.openedAt()) != 1 || held.Err() != nil {
			t.Error("opened again too soon")
		}
		time.Sleep(3 * time.Second)
		if len(x.openedAt()) != 2 || held.Err() == nil {
			t.Error("not opened again")
		}
		x.wantState("degraded", "probe: the storage reports an error")
		second.setFault(nil)
		time.Sleep(maxPause)
		mustStore(t, s, "content")
		if len(second.names()) != 1 {
			t.Error("the new storage is not used")
		}
		x.wantLogs(failsLine, worksLine)
	})
}

// TestSlotAfterStop: nothing is done with the storage any more.
func TestSlotAfterStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x := newFixture(t, newStorage())
		s := x.slot("i")
		mustStore(t, s, "content")
		took(t, 0, x.Stop)
		if x.Slot([]byte("i")) != nil {
			t.Error("there is a slot")
		}
		took(t, 0, func() {
			if _, err := s.Load(t.Context()); err == nil {
				t.Error("loaded")
			}
			if err := s.Store(t.Context(), nil); err == nil {
				t.Error("stored")
			}
			if _, err := s.Lock(t.Context()); err == nil {
				t.Error("locked")
			}
		})
		x.wantState("on", "")
		x.wantLogs()

		never := newFixture(t, newStorage())
		never.Stop()
		never.Start()
		synctest.Wait()
		if len(never.openedAt()) != 0 {
			t.Error("opened after Stop")
		}
	})
}

// TestStopReleasesLocks: an attempt that is about to end may store its token and release its lock. What
// takes longer loses the lock.
func TestStopReleasesLocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		s, other := x.slot("i"), x.slot("other")
		unlock, err := s.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(testTimeout/2, func() {
			mustStore(t, s, "content")
			unlock()
		})
		time.AfterFunc(testTimeout/4, func() {
			if _, err := other.Lock(t.Context()); !errors.Is(err, errLeftAlone) {
				t.Errorf("lock during Stop: %v", err)
			}
		})
		took(t, testTimeout/2, x.Stop)
		if storage.locked() != 0 || len(storage.names()) != 1 || x.timesClosed() != 1 {
			t.Errorf("%d locks, %d records, closed %d times", storage.locked(), len(storage.names()), x.timesClosed())
		}

		y := newFixture(t, storage)
		if _, err = y.slot("i").Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		took(t, testTimeout, y.Stop)
		if storage.locked() != 0 || y.timesClosed() != 1 {
			t.Errorf("%d locks, closed %d times", storage.locked(), y.timesClosed())
		}
	})
}

// TestStopWhileEverythingHangs leaves the calls that hang, and nothing else.
func TestStopWhileEverythingHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		storage := newStorage()
		x := newFixture(t, datedStorage{storage}, opening(func(_ context.Context, x *fixture) (Storage, func(), error) {
			return datedStorage{storage}, func() { <-release }, nil
		}))
		s := x.slot("i")
		unlock, err := s.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		storage.setFault(hang(release))
		unlock()
		var callers sync.WaitGroup
		for range 3 {
			callers.Go(func() { _, _ = s.Load(t.Context()) })
			callers.Go(func() { _ = s.Store(t.Context(), nil) })
			callers.Go(func() { _, _ = s.Lock(t.Context()) })
		}
		synctest.Wait()
		took(t, 2*testTimeout, x.Stop) // for the operations, and for closing
		callers.Wait()
		synctest.Wait()
		hanging, _ := storage.atOnce()
		if n := goroutinesHere(); hanging != 10 || n != hanging+1 {
			t.Errorf("%d goroutines are left with %d calls that hang, and one that closes", n, hanging)
		}
		close(release)
	})
}

// TestStopWhileOpeningHangs leaves the call that hangs. What it returns is closed.
func TestStopWhileOpeningHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		x := newFixture(t, nil, opening(func(_ context.Context, x *fixture) (Storage, func(), error) {
			<-release
			return newStorage(), x.noteClosed, nil
		}))
		s := x.slot("i")
		go func() { _, _ = s.Load(t.Context()) }()
		synctest.Wait()
		took(t, testTimeout, x.Stop)
		synctest.Wait()
		if n := goroutinesHere(); n != 1 {
			t.Errorf("%d goroutines are left", n)
		}
		close(release)
		synctest.Wait()
		if x.timesClosed() != 1 {
			t.Error("what was opened late is not closed")
		}
	})
}

// TestNothingIsReportedAfterStop: another fleet may have the log and the metric then.
func TestNothingIsReportedAfterStop(t *testing.T) {
	slow := func(_ *fixture, o *Options) { o.Timeout = 5 * time.Second }
	t.Run("failure", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			storage := newStorage()
			x := newFixture(t, storage, slow)
			s := x.slot("i")
			mustLoad(t, s, "")
			storage.setFault(hangUntilCancelled)
			go func() { _, _ = s.Load(t.Context()) }()
			synctest.Wait()
			took(t, time.Second, x.Stop)
			time.Sleep(time.Minute)
			x.wantLogs()
			x.wantDegraded()
		})
	})
	t.Run("recovery", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			storage := newStorage()
			x := newFixture(t, storage, slow)
			s := x.slot("i")
			storage.setFault(failing)
			_, _ = s.Load(t.Context())
			storage.setFault(func(context.Context, string, string) error {
				time.Sleep(1500 * time.Millisecond)
				return nil
			})
			time.Sleep(time.Second + 1)
			x.Stop()
			time.Sleep(time.Minute)
			x.wantLogs(failsLine)
			x.wantDegraded(true)
		})
	})
}

// TestLockThatComesAfterStop is released, although the storage has been closed.
func TestLockThatComesAfterStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		storage.afterLock = func(context.Context) { time.Sleep(time.Minute) }
		x := newFixture(t, storage)
		s := x.slot("i")
		mustLoad(t, s, "")
		go func() {
			if _, err := s.Lock(t.Context()); !errors.Is(err, context.Canceled) {
				t.Errorf("lock: %v", err)
			}
		}()
		synctest.Wait()
		storage.setFault(func(ctx context.Context, _, _ string) error { return ctx.Err() })
		took(t, 0, x.Stop)
		time.Sleep(time.Minute)
		synctest.Wait()
		if storage.locked() != 0 {
			t.Error("the lock is not released")
		}
	})
}

// TestLateNoticeOfASlowStart changes nothing when the storage has been opened.
func TestLateNoticeOfASlowStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x := newFixture(t, newStorage())
		mustLoad(t, x.slot("i"), "")
		x.degrade(nil, &failure{operation: "provision"})
		x.wantState("on", "")
	})
}

// goroutinesHere returns how many goroutines a fleet has.
func goroutinesHere() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	n := 0
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "share.(*Fleet).") {
			n++
		}
	}
	return n
}
