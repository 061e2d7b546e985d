package share

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestLock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		a, b := newFixture(t, storage), newFixture(t, storage)
		unlock, err := a.slot("i").Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.slot("other").Lock(t.Context()); err != nil {
			t.Error(err)
		}
		time.AfterFunc(10*time.Second-1, unlock)
		took(t, 10*time.Second, func() { // longer than an operation may take
			if unlock, err = b.slot("i").Lock(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
		unlock()
		unlock() // does nothing
		synctest.Wait()
		if storage.locked() != 1 {
			t.Error("the lock is not released")
		}
		a.wantCounts("lock ok:1 provision ok:1 unlock ok:1")
		b.wantCounts("lock ok:2 provision ok:1 unlock ok:1")
		a.wantDegraded()
		b.wantDegraded()
	})
}

// TestLockHasNoFailures: whatever a lock does, the storage stays in use.
func TestLockHasNoFailures(t *testing.T) {
	for name, test := range map[string]struct {
		fault func(context.Context, string, string) error
		want  string
		count string
	}{
		"error":    {failing, "lock: the storage reports an error", "lock error"},
		"panic":    {func(context.Context, string, string) error { panic(moduleText) }, "lock: the storage panicked", "lock error"},
		"own time": {returning(context.DeadlineExceeded), "lock: no response in time", "lock timeout"},
		"hanging":  {hangUntilCancelled, context.DeadlineExceeded.Error(), "lock held"},
		"held": {func(ctx context.Context, _, _ string) error {
			time.Sleep(time.Hour)
			return errors.New(moduleText)
		}, context.DeadlineExceeded.Error(), "lock held"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				storage := newStorage()
				x := newFixture(t, storage)
				mustStore(t, x.slot("i"), "content")
				storage.setFault(test.fault)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				unlock, err := x.slot("i").Lock(ctx)
				if unlock != nil || err == nil || err.Error() != test.want {
					t.Errorf("lock %t, %v", unlock != nil, err)
				}
				synctest.Wait()
				x.wantCounts(test.count + ":1 provision ok:1 store ok:1")
				storage.setFault(nil)
				mustLoad(t, x.slot("i"), "content")
				x.wantLogs()
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

// TestLateLock: a lock that comes after the end of the context is no lock, and is released at once.
func TestLateLock(t *testing.T) {
	for name, afterLock := range map[string]func(context.Context){
		"nil at the context's end": func(ctx context.Context) { <-ctx.Done() },
		"seconds late":             func(context.Context) { time.Sleep(5 * time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				storage := newStorage()
				storage.afterLock = afterLock
				x := newFixture(t, storage)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				took(t, time.Second, func() {
					if unlock, err := x.slot("i").Lock(ctx); unlock != nil || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("lock %t, %v", unlock != nil, err)
					}
				})
				time.Sleep(4*time.Second + time.Millisecond)
				if storage.locked() != 0 {
					t.Error("the lock is not released")
				}
				x.wantCounts("lock held:1 lock late:1 provision ok:1 unlock ok:1")
			})
		})
	}
}

// TestLockThatIsNotExclusive gives everybody the lock. Nothing else comes of it.
func TestLockThatIsNotExclusive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		storage.notExclusive = true
		x := newFixture(t, storage)
		for range 2 {
			unlock, err := x.slot("i").Lock(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer unlock()
		}
		mustStore(t, x.slot("i"), "content")
		mustLoad(t, x.slot("i"), "content")
	})
}

// TestLocksThatHang ignore their contexts for ever. They hold few goroutines, and records are still shared.
func TestLocksThatHang(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		release := make(chan struct{})
		defer close(release)
		storage.setFault(func(_ context.Context, operation, _ string) error {
			if operation == "lock" {
				<-release
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for i := range 200 {
			go func() {
				if _, err := x.slot(fmt.Sprint(i)).Lock(ctx); err == nil {
					t.Error("got a lock")
				}
			}()
		}
		time.Sleep(time.Minute)
		if now, _ := storage.atOnce(); now != maxLocks {
			t.Errorf("%d locks under way", now)
		}
		took(t, 0, func() {
			mustStore(t, x.slot("i"), "content")
			mustLoad(t, x.slot("i"), "content")
		})
		x.wantDegraded()
	})
}

// TestContextOfALock lives as long as the lock is held, because storages keep locks alive with it.
func TestContextOfALock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		var held context.Context
		storage.afterLock = func(ctx context.Context) { held = ctx }
		x := newFixture(t, storage)
		ctx, cancel := context.WithCancel(t.Context())
		unlock, err := x.slot("i").Lock(ctx)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		synctest.Wait()
		if held.Err() != nil {
			t.Error("the context ends while the lock is held")
		}
		unlock()
		synctest.Wait()
		if held.Err() == nil {
			t.Error("the context does not end with the lock")
		}
	})
}

// TestUnlock is bounded, happens in the background, also while the storage is left alone or many
// operations are under way, and is no failure.
func TestUnlock(t *testing.T) {
	lock := func(t *testing.T, x *fixture) func() {
		t.Helper()
		unlock, err := x.slot("i").Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return unlock
	}
	t.Run("hanging", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			storage := newStorage()
			x := newFixture(t, storage)
			unlock := lock(t, x)
			storage.setFault(hangUntilCancelled)
			took(t, 0, unlock)
			time.Sleep(testTimeout + 1)
			x.wantCounts("lock ok:1 provision ok:1 unlock timeout:1")
			x.wantDegraded()
		})
	})
	t.Run("degraded", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			storage := newStorage()
			x := newFixture(t, storage)
			unlock := lock(t, x)
			storage.setFault(failing)
			_ = x.slot("i").Store(t.Context(), nil)
			storage.setFault(nil)
			unlock()
			synctest.Wait()
			if storage.locked() != 0 {
				t.Error("the lock is not released")
			}
			if _, err := x.slot("i").Lock(t.Context()); !errors.Is(err, errLeftAlone) {
				t.Errorf("lock of a storage that is left alone: %v", err)
			}
		})
	})
	t.Run("no place", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			storage := newStorage()
			x := newFixture(t, storage)
			unlock := lock(t, x)
			storage.setFault(func(context.Context, string, string) error {
				time.Sleep(testTimeout / 2)
				return nil
			})
			for range maxOperations {
				go func() { _, _ = x.slot("i").Load(t.Context()) }()
			}
			synctest.Wait()
			storage.setFault(nil)
			unlock()
			time.Sleep(testTimeout/2 + 1)
			if storage.locked() != 0 {
				t.Error("the lock is not released")
			}
			if _, most := storage.atOnce(); most != maxOperations {
				t.Errorf("%d operations at once", most)
			}
		})
	})
	t.Run("never a place", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			storage := newStorage()
			x := newFixture(t, storage)
			unlock := lock(t, x)
			release := make(chan struct{})
			defer close(release)
			storage.setFault(hang(release))
			for range maxOperations {
				go func() { _, _ = x.slot("i").Load(t.Context()) }()
			}
			synctest.Wait()
			unlock()
			time.Sleep(testTimeout + 1)
			if x.count("unlock skipped") != 1 {
				t.Errorf("counted %s", x.counted())
			}
		})
	})
}

// TestUnlockThatFails is tried again, unless the lock is gone meanwhile or held again.
func TestUnlockThatFails(t *testing.T) {
	failingUnlock := func(_ context.Context, operation, _ string) error {
		if operation == "unlock" {
			return errors.New(moduleText)
		}
		return nil
	}
	start := func(t *testing.T, fault func(context.Context, string, string) error) (*fakeStorage, *fixture) {
		t.Helper()
		storage := newStorage()
		x := newFixture(t, storage)
		unlock, err := x.slot("i").Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		storage.setFault(fault)
		took(t, 0, unlock)
		synctest.Wait()
		return storage, x
	}
	t.Run("for a while", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			storage, x := start(t, failingUnlock)
			time.Sleep(2 * time.Second)
			storage.setFault(nil)
			time.Sleep(2 * time.Second)
			if storage.locked() != 0 {
				t.Error("the lock is not released")
			}
			time.Sleep(time.Hour)
			x.wantCounts("lock ok:1 provision ok:1 unlock error:2 unlock ok:1")
			x.wantDegraded()
		})
	})
	t.Run("for ever", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			_, x := start(t, failingUnlock)
			time.Sleep(time.Hour)
			x.wantCounts(fmt.Sprintf("lock ok:1 provision ok:1 unlock error:%d", 1+unlockRetries))
		})
	})
	t.Run("late", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			storage, x := start(t, func(_ context.Context, operation, _ string) error {
				time.Sleep(2 * testTimeout)
				return nil
			})
			time.Sleep(time.Hour)
			x.wantCounts("lock ok:1 provision ok:1 unlock timeout:1")
			if storage.locked() != 0 {
				t.Error("the lock is not released")
			}
		})
	})
	t.Run("held again", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			storage, x := start(t, failingUnlock)
			storage.setFault(nil)
			storage.forceUnlock()
			if _, err := x.slot("i").Lock(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if storage.locked() != 1 {
				t.Error("the lock of another attempt is released")
			}
		})
	})
	t.Run("stopped", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			_, x := start(t, failingUnlock)
			x.Stop()
			time.Sleep(time.Hour)
			if n := x.count("unlock error"); n != 1 {
				t.Errorf("unlocked %d times", n)
			}
		})
	})
}

// TestReleaseLocks also ends the waiting for locks. Everything else continues.
func TestReleaseLocks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		if _, err := x.slot("i").Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		waited := make(chan error)
		go func() {
			_, err := x.slot("i").Lock(t.Context())
			waited <- err
		}()
		synctest.Wait()
		took(t, 0, x.ReleaseLocks)
		if err := <-waited; !errors.Is(err, context.Canceled) {
			t.Errorf("waiting for a lock: %v", err)
		}
		synctest.Wait()
		if storage.locked() != 0 {
			t.Error("a lock is not released")
		}
		if _, err := x.slot("i").Lock(t.Context()); !errors.Is(err, errLeftAlone) {
			t.Errorf("lock after ReleaseLocks: %v", err)
		}
		mustStore(t, x.slot("i"), "content")
		mustLoad(t, x.slot("i"), "content")
		took(t, 0, x.ReleaseLocks)
		took(t, 0, x.Stop)
	})
}
