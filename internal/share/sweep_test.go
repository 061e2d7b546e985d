package share

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"
	"time"
)

// TestSweep deletes what lies among the records, or was left by a probe, and was not written for two days, and
// nothing else.
func TestSweep(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		others := []string{"certificates/a", "http_helper/tokens-of-others/b", "http_helper/tokens/../../certificates/a"}
		for _, name := range append(others, tokenPrefix+"old", tokenPrefix+"folder/old", probePrefix+"old") {
			storage.put(name, []byte("old"))
		}
		storage.put(tokenPrefix+"unknown", nil)
		storage.modified[tokenPrefix+"unknown"] = time.Time{}
		time.Sleep(24 * time.Hour) // the first sweep of the fleet finds nothing old, and the second does
		x := newFixture(t, datedStorage{storage})
		x.Start()
		mustStore(t, x.slot("i"), "content")
		if storage.callsOf("list") != 0 {
			t.Error("sweeps at the start")
		}
		time.Sleep(24 * time.Hour)
		if storage.callsOf("list") != 1 || storage.callsOf("delete") != 0 {
			t.Errorf("%d sweeps, %d deleted in a day", storage.callsOf("list"), storage.callsOf("delete"))
		}
		time.Sleep(24 * time.Hour)
		name := newPlace(testKey(1), []byte("i")).name
		want := append(others, name, tokenPrefix+"unknown")
		slices.Sort(want)
		if got := storage.names(); !slices.Equal(got, want) {
			t.Errorf("left %q, want %q", got, want)
		}
		if x.count("list ok") != 2 || x.count("delete ok") != 3 {
			t.Errorf("counted %s", x.counted())
		}
		time.Sleep(48 * time.Hour)
		if slices.Contains(storage.names(), name) {
			t.Error("a record that is not written any more stays")
		}
		x.wantLogs()
	})
}

// TestSweepThatFails warns, and does not make the storage fail.
func TestSweepThatFails(t *testing.T) {
	for _, broken := range []string{"list", "modified", "delete"} {
		t.Run(broken, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				storage := newStorage()
				storage.put(tokenPrefix+"old", nil)
				time.Sleep(48*time.Hour + 1)
				storage.setFault(func(_ context.Context, operation, _ string) error {
					if operation == broken {
						return errors.New(moduleText)
					}
					return nil
				})
				x := newFixture(t, datedStorage{storage})
				x.Start()
				time.Sleep(24 * time.Hour)
				x.wantLogs("WARN old shared tokens cannot be deleted from the token storage")
				x.wantState("on", "")
			})
		})
	}
}

// TestSweepPastDamage: a key that cannot be dated keeps no other one from being deleted, whereas a storage that
// does not respond ends the sweep.
func TestSweepPastDamage(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(context.Context) error
		left  int
	}{
		"one damaged": {func(context.Context) error { return errors.New(moduleText) }, 1},
		"hanging":     {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				storage := newStorage()
				for _, name := range []string{"a", "b", "c"} {
					storage.put(tokenPrefix+name, nil)
				}
				time.Sleep(48*time.Hour + 1)
				first := ""
				storage.setFault(func(ctx context.Context, operation, key string) error {
					if operation != "modified" || first != "" && first != key {
						return nil
					}
					first = key
					return c.fault(ctx)
				})
				x := newFixture(t, datedStorage{storage})
				x.Start()
				time.Sleep(24 * time.Hour)
				if left := storage.names(); len(left) != c.left {
					t.Errorf("left %q, want %d", left, c.left)
				}
				x.wantLogs("WARN old shared tokens cannot be deleted from the token storage")
			})
		})
	}
}

// TestSweepBesideOthers: what another replica has deleted meanwhile is no failure, and neither is an empty
// storage.
func TestSweepBesideOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, datedStorage{storage})
		x.Start()
		time.Sleep(24 * time.Hour)
		storage.put(tokenPrefix+"a", nil)
		storage.setFault(func(_ context.Context, operation, _ string) error {
			switch operation {
			case "list": // of many keys
				time.Sleep(20 * time.Second)
			case "modified":
				return fs.ErrNotExist
			}
			return nil
		})
		time.Sleep(72 * time.Hour)
		x.wantLogs()
		if n := x.count("list ok"); n < 3 {
			t.Errorf("%d sweeps", n)
		}
	})
}

// TestNoSweepWhileDegraded: a storage that is left alone is not swept.
func TestNoSweepWhileDegraded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		storage.setFault(failing)
		x := newFixture(t, datedStorage{storage})
		_, _ = x.slot("i").Load(t.Context())
		time.Sleep(72 * time.Hour)
		if storage.callsOf("list") != 0 {
			t.Error("swept")
		}
	})
}

// TestStorageThatTellsNoTimes is not swept.
func TestStorageThatTellsNoTimes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		x.Start()
		time.Sleep(72 * time.Hour)
		if len(storage.takeCalls()) != 0 {
			t.Error("something is done with the storage")
		}
		x.wantLogs()
	})
}
