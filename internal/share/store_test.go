package share

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestReplicasShareARecord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		a, b := newFixture(t, storage), newFixture(t, storage)
		mustLoad(t, a.slot("i"), "")
		mustStore(t, a.slot("i"), "one")
		mustLoad(t, b.slot("i"), "one")
		mustStore(t, b.slot("i"), "two")
		mustLoad(t, a.slot("i"), "two")
		mustLoad(t, a.slot("other"), "")
		a.wantState("on", "")
		a.wantDegraded()
		a.wantCounts("load ok:3 provision ok:1 store ok:1")
		a.wantLogs()
	})
}

// TestStorageShowsNothing looks for what is secret in everything that the storage gets, in the spellings
// that it may have.
func TestStorageShowsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const identity, token = "client-id billing client-secret", "access-token-value"
		storage := newStorage()
		x := newFixture(t, storage)
		s := x.slot(identity)
		mustStore(t, s, token)
		unlock, err := s.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		unlock()
		synctest.Wait()
		secrets := []string{identity, token, "billing", string(testKey(1))}
		if found := showing(storage, secrets); len(found) > 0 {
			t.Errorf("the storage shows %q", found)
		}
		// The same search finds them where they are.
		for _, secret := range secrets {
			storage.put("http_helper/plain", []byte("{"+base64.StdEncoding.EncodeToString([]byte(secret))+"}"))
			if found := showing(storage, secrets); !slices.Contains(found, secret) {
				t.Errorf("the search does not find %q", secret)
			}
		}
		_ = storage.Lock(t.Context(), "locks/"+identity)
		if found := showing(storage, secrets); !slices.Contains(found, identity) {
			t.Error("the search does not find the name of a lock")
		}
	})
}

// showing returns the secrets that a storage shows in keys, values or names of locks.
func showing(s *fakeStorage, secrets []string) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all strings.Builder
	for key, value := range s.values {
		fmt.Fprintf(&all, "%s\n%s\n", key, value)
	}
	for _, c := range s.calls {
		fmt.Fprintln(&all, c.key)
	}
	for _, secret := range secrets {
		for _, spelling := range []string{
			secret, hex.EncodeToString([]byte(secret)),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		} {
			if strings.Contains(all.String(), spelling) {
				found = append(found, secret)
				break
			}
		}
	}
	return found
}

// TestDamagedRecordCountsAsAbsent damages what lies in the storage in several ways. It is warned about
// once, and overwritten.
func TestDamagedRecordCountsAsAbsent(t *testing.T) {
	for name, damage := range map[string]func(s *fakeStorage, key string){
		"truncated":    func(s *fakeStorage, key string) { s.put(key, s.content()[key][:20]) },
		"empty":        func(s *fakeStorage, key string) { s.put(key, []byte{}) },
		"something":    func(s *fakeStorage, key string) { s.put(key, []byte(`{"token":"hunter2"}`)) },
		"flipped bits": func(s *fakeStorage, key string) { v := bytes.Clone(s.content()[key]); v[30] ^= 4; s.put(key, v) },
		"moved": func(s *fakeStorage, key string) {
			p := newPlace(testKey(1), []byte("other"))
			s.put(key, p.seal(record{time.Now(), []byte("other's")}))
		},
		"older version": func(s *fakeStorage, key string) {
			p := newPlace(testKey(1), []byte("i"))
			p.aead = newAEAD(derive([]byte("older"), "record"))
			s.put(key, p.seal(record{time.Now(), []byte("older")}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				storage := newStorage()
				x := newFixture(t, storage)
				mustStore(t, x.slot("i"), "content")
				key := storage.names()[0]
				for want := 1; want <= 2; want++ {
					damage(storage, key)
					for range 3 {
						mustLoad(t, x.slot("i"), "")
					}
					x.wantLogs(slices.Repeat([]string{damagedLine}, want)...)
					mustStore(t, x.slot("i"), "content")
					mustLoad(t, x.slot("i"), "content")
				}
				x.wantState("on", "")
			})
		})
	}
}

// TestRecordThatTheStorageCannotRead counts as absent too, and does not make the storage fail.
func TestRecordThatTheStorageCannotRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		mustStore(t, x.slot("i"), "content")
		damaged := storage.names()[0]
		storage.setFault(func(_ context.Context, operation, key string) error {
			if operation == "load" && key == damaged {
				return errors.New(moduleText)
			}
			return nil
		})
		for range 3 {
			mustLoad(t, x.slot("i"), "")
		}
		mustStore(t, x.slot("i"), "content")
		storage.setFault(nil)
		mustLoad(t, x.slot("i"), "content")
		x.wantLogs(damagedLine)
		x.wantState("on", "")
	})
}

// TestAbsentAfterTheTimeout: a storage that says at the end of its time that there is no record has not looked.
func TestAbsentAfterTheTimeout(t *testing.T) {
	for range 20 { // whichever comes first, the storage's error or the end of the wait for it
		bubble(t, func(t *testing.T) {
			storage := newStorage()
			x := newFixture(t, storage)
			mustStore(t, x.slot("i"), "content")
			storage.setFault(func(ctx context.Context, _, _ string) error {
				<-ctx.Done()
				return fs.ErrNotExist
			})
			took(t, testTimeout, func() {
				if content, err := x.slot("i").Load(t.Context()); err == nil {
					t.Errorf("loaded %q", content)
				}
			})
			x.wantState("degraded", "load: no response within 500ms")
		})
	}
}

// TestDamageWhileReading: a torn or disturbed read costs this one load.
func TestDamageWhileReading(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"torn":         func(b []byte) []byte { return b[:len(b)/2] },
		"flipped bits": func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				storage := newStorage()
				x := newFixture(t, storage)
				mustStore(t, x.slot("i"), "content")
				storage.setDamage(damage)
				mustLoad(t, x.slot("i"), "")
				storage.setDamage(nil)
				mustLoad(t, x.slot("i"), "content")
				x.wantLogs(damagedLine)
				x.wantDegraded()
			})
		})
	}
}

// TestRotation replaces the key in the three steps of the manual, replica by replica. At no moment does a
// replica fail to see what another one has written.
func TestRotation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		a, b := newFixture(t, storage), newFixture(t, storage)
		before, after := testKey(1), testKey(2)
		n := 0
		exchange := func() {
			t.Helper()
			for _, pair := range [][2]*fixture{{a, b}, {b, a}} {
				n++
				time.Sleep(time.Second)
				mustStore(t, pair[0].slot("i"), fmt.Sprint(n))
				mustLoad(t, pair[1].slot("i"), fmt.Sprint(n))
				mustLoad(t, pair[0].slot("i"), fmt.Sprint(n))
			}
		}
		exchange()
		for _, step := range [][][]byte{{before, after}, {after, before}, {after}} {
			a.setKeys(step...)
			exchange()
			b.setKeys(step...)
			exchange()
		}
		a.wantLogs()
		b.wantLogs()
	})
}

// TestRecordUnderTheSecondKeyIsSealedAnew: one load is enough to drop the old key.
func TestRecordUnderTheSecondKeyIsSealedAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		mustStore(t, x.slot("i"), "content")
		x.setKeys(testKey(2), testKey(1))
		mustLoad(t, x.slot("i"), "content")
		stored := storage.callsOf("store")
		mustLoad(t, x.slot("i"), "content")
		if storage.callsOf("store") != stored {
			t.Error("a record under the first key is sealed again")
		}
		x.setKeys(testKey(2))
		mustLoad(t, x.slot("i"), "content")
	})
}

// TestSealingAnewThatFails still returns the record, and does not wait for longer than for an operation.
func TestSealingAnewThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		fault func(context.Context, string, string) error
		takes time.Duration
	}{
		"full disk": {failing, 0},
		"hanging":   {hangUntilCancelled, testTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				storage := newStorage()
				x := newFixture(t, storage)
				mustStore(t, x.slot("i"), "content")
				x.setKeys(testKey(2), testKey(1))
				storage.setFault(func(ctx context.Context, operation, key string) error {
					if operation == "store" {
						return test.fault(ctx, operation, key)
					}
					return nil
				})
				took(t, test.takes, func() { mustLoad(t, x.slot("i"), "content") })
				x.wantDegraded(true)
			})
		})
	}
}

// TestNewestRecordCounts has two keys, and clocks that differ: what a replica stores after it has loaded
// counts as newer, whatever the clocks say.
func TestNewestRecordCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		x.setKeys(testKey(1), testKey(2))
		ahead := newPlace(testKey(2), []byte("i"))
		storage.put(ahead.name, ahead.seal(record{time.Now().Add(time.Hour), []byte("ahead")}))
		s := x.slot("i")
		mustLoad(t, s, "ahead")
		mustStore(t, s, "newer")
		mustStore(t, s, "newest")
		mustLoad(t, s, "newest")
		mustLoad(t, x.slot("i"), "newest")
	})
}

// TestLoadsUnderAllKeysAtOnce: a second key makes a load no slower.
func TestLoadsUnderAllKeysAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		x.setKeys(testKey(1), testKey(2), testKey(3))
		mustStore(t, x.slot("i"), "content")
		storage.setFault(func(context.Context, string, string) error {
			time.Sleep(testTimeout / 2)
			return nil
		})
		took(t, testTimeout/2, func() { mustLoad(t, x.slot("i"), "content") })
	})
}

// TestCallerLeaves: whoever waits for an operation may leave, and the operation continues.
func TestCallerLeaves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		storage := newStorage()
		x := newFixture(t, storage)
		mustLoad(t, x.slot("i"), "")
		storage.setFault(func(context.Context, string, string) error {
			time.Sleep(testTimeout / 2)
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), testTimeout/4)
		defer cancel()
		took(t, testTimeout/4, func() {
			if err := x.slot("i").Store(ctx, []byte("content")); err != context.DeadlineExceeded { //nolint:errorlint // exactly this
				t.Error(err)
			}
		})
		mustLoad(t, x.slot("i"), "content")
		x.wantDegraded()
		x.wantCounts("load ok:2 provision ok:1 store ok:1")
	})
}
