package token

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

const fleetSize = 20

// TestColdStart has many replicas need their first token at one moment.
func TestColdStart(t *testing.T) {
	for name, test := range map[string]struct {
		takes, storage time.Duration
	}{
		"fast":          {},
		"slow endpoint": {takes: 8 * time.Second},
		"slow storage":  {takes: time.Second, storage: 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := newEndpoint(), newStorage()
				f.Takes = test.takes
				replicas := newReplicas(t, fleetSize, s, f, func(r *replica) {
					r.slot.load, r.slot.store = takes(test.storage), takes(test.storage)
				})
				each(replicas, func(r *replica) { tokentest.WantToken(t, r, "token-1") })
				tokentest.WantCalls(t, f, 1)
				if s.get().Announce != nil {
					t.Error("a token request is announced that is over")
				}
				adopted := 0
				for _, r := range replicas {
					if st := r.Status(); st.State != StateReady || st.Failures != 0 || st.Adopted != (st.Adoptions == 1) || st.Adopted != (st.Requests == 0) {
						t.Errorf("status %+v", st)
					} else if st.Adopted {
						adopted++
					}
				}
				if adopted != fleetSize-1 {
					t.Errorf("%d have adopted it", adopted)
				}
			})
		})
	}
}

// TestRefreshAheadOfAFleet: one token request for each life.
func TestRefreshAheadOfAFleet(t *testing.T) {
	for _, life := range []time.Duration{time.Minute, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			f, s := newEndpoint(), newStorage()
			f.Respond, f.Takes = grants(life), 100*time.Millisecond
			replicas := newReplicas(t, fleetSize, s, f)
			each(replicas, func(r *replica) { tokentest.MustToken(t, r) })
			each(replicas, until(time.Now().Add(10*life), life/200, func(r *replica) {
				start := time.Now()
				tokentest.MustToken(t, r)
				if waited := time.Since(start); waited != 0 {
					t.Errorf("waited %v", waited)
				}
			}))
			synctest.Wait()
			// Refreshed after 75 to 95 % of its life by the first that is due.
			if got := f.Count(); got < 10 || got > 15 {
				t.Errorf("%d token requests in 10 lives", got)
			}
		})
	}
}

// TestRestart: a new process goes on with the token of the one before.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		obtained := time.Now()
		f.Respond = func(_ context.Context, call int) (*oauth.Token, error) {
			token := tokentest.Token(call, time.Hour)
			token.Granted, token.Missing = []string{"a"}, []string{"b"}
			return token, nil
		}
		first := newReplica(t, s, f)
		tokentest.WantToken(t, first, "token-1")
		synctest.Wait()
		first.stop()
		time.Sleep(30 * time.Minute)

		var events []Event
		second := newReplica(t, s, f, func(r *replica) {
			r.user.Observer = fakeObserver{observed: func(e Event) { events = append(events, e) }}
		})
		tokentest.WantToken(t, second, "token-1")
		tokentest.WantCalls(t, f, 1)
		st := second.Status()
		expires := obtained.Add(time.Hour - 30*time.Second)
		if !st.Adopted || st.Adoptions != 1 || st.Requests != 0 || !st.Obtained.Equal(obtained) || !st.Expires.Equal(expires) {
			t.Errorf("status %+v", st)
		}
		if fmt.Sprint(st.Granted, st.Missing) != "[a] [b]" {
			t.Errorf("scopes %v %v", st.Granted, st.Missing)
		}
		if len(events) != 1 || !events[0].Adopted || !events[0].Expires.Equal(expires) || events[0].Err != nil {
			t.Errorf("events %+v", events)
		}
		if first.Status().Adopted {
			t.Error("the first has adopted its own token")
		}
		time.Sleep(time.Hour)
		tokentest.WantToken(t, second, "token-2")
		if st := second.Status(); st.Adopted {
			t.Errorf("status %+v", st)
		}
	})
}

// TestUsableTokenTouchesNoStorage, and none is touched without an identity or a slot.
func TestUsableTokenTouchesNoStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		r := newReplica(t, s, f)
		tokentest.MustToken(t, r)
		synctest.Wait()
		before := s.operations()
		for range 1000 {
			tokentest.MustToken(t, r)
			time.Sleep(time.Second)
		}
		if got := s.operations(); got != before {
			t.Errorf("%d operations", got-before)
		}
		none := newReplica(t, newStorage(), new(tokentest.Fetcher))
		tokentest.WantToken(t, none, "token-1")
		synctest.Wait()
		if got := none.slot.operations(); got != 0 {
			t.Errorf("%d operations without an identity", got)
		}
		if none.Shares(none.Current()) || !r.Shares(r.Current()) {
			t.Error("Shares is wrong")
		}
		noSlot := newReplica(t, newStorage(), newEndpoint(), func(r *replica) { r.user.Shared = nowhere{} })
		tokentest.WantToken(t, noSlot, "token-1")
	})
}

// nowhere is a Shared that shares nothing now.
type nowhere struct{}

func (nowhere) Slot([]byte) Slot { return nil }

// TestRevokedTokenOfAFleet: one token request replaces it for all.
func TestRevokedTokenOfAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Takes = 100 * time.Millisecond
		replicas := newReplicas(t, fleetSize, s, f)
		each(replicas, func(r *replica) { tokentest.WantToken(t, r, "token-1") })
		time.Sleep(time.Minute)
		each(replicas, func(r *replica) {
			wantRetry(t, r.Replace(t.Context(), tokentest.MustToken(t, r)), "token-2")
			tokentest.WantToken(t, r, "token-2")
		})
		tokentest.WantCalls(t, f, 2)
	})
}

// TestAPIThatRejectsEverythingOfAFleet: one token request in ten seconds, for all together, and few looks at
// the record.
func TestAPIThatRejectsEverythingOfAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Takes = 50 * time.Millisecond
		replicas := newReplicas(t, fleetSize, s, f)
		each(replicas, func(r *replica) { tokentest.MustToken(t, r) })
		time.Sleep(time.Minute)
		loads := s.loads.Load()
		each(replicas, until(time.Now().Add(59*time.Second), 30*time.Millisecond, func(r *replica) {
			if newer := r.Replace(t.Context(), tokentest.MustToken(t, r)); newer != nil {
				r.ReplaceAdopted(t.Context(), newer)
			}
		}))
		tokentest.WantCalls(t, f, 1+6)
		for i := 2; i < len(f.Calls); i++ {
			if pause := f.Calls[i].Sub(f.Calls[i-1]); pause < replacePause {
				t.Errorf("token requests %v apart", pause)
			}
		}
		// Once a second, and some more for each of the 6 tokens.
		if got := (s.loads.Load() - loads) / fleetSize; got > 59+6*8 {
			t.Errorf("%d looks of each replica in a minute", got)
		}
	})
}

// TestFailuresAreShared: an endpoint that fails gets one attempt per step of the back-off from all replicas
// together.
func TestFailuresAreShared(t *testing.T) {
	responded := *errTestOutage
	responded.Responded = true
	refused := *errTestConfiguration
	refused.Responded = true
	for name, failure := range map[string]*oauth.Error{"outage": &responded, "invalid_client": &refused} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := newEndpoint(), newStorage()
				f.Respond, f.Takes = fails(failure), 100*time.Millisecond
				replicas := newReplicas(t, fleetSize, s, f)
				each(replicas, until(time.Now().Add(60*time.Second), 20*time.Millisecond, func(r *replica) {
					wantFailure(t, r.Source, failure)
				}))
				// After 0, 1, 3, 7, 15 and 31 s.
				if got := f.Count(); got < 5 || got > 7 {
					t.Errorf("%d token requests in a minute", got)
				}
				for _, r := range replicas {
					st := r.Status()
					if st.State != StateDown || st.LastError == nil || st.LastError.Code != failure.Code || st.NextAttempt.IsZero() {
						t.Errorf("status %+v", st)
					}
				}
				f.SetRespond(nil)
				each(replicas, until(time.Now().Add(65*time.Second), 20*time.Millisecond, func(r *replica) { _, _ = r.Token(t.Context()) }))
				each(replicas, func(r *replica) {
					if got, want := tokentest.MustToken(t, r).Value, fmt.Sprint("token-", f.Count()); got != want {
						t.Errorf("%s, want %s", got, want)
					}
				})
			})
		})
	}
}

// TestDeadEndpointOfAFleet does not respond at all, so each replica believes the others for 5 s only.
func TestDeadEndpointOfAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Respond, f.Takes = fails(errTestOutage), 100*time.Millisecond
		replicas := newReplicas(t, fleetSize, s, f)
		each(replicas, until(time.Now().Add(60*time.Second), 20*time.Millisecond, func(r *replica) {
			wantFailure(t, r.Source, errTestOutage)
		}))
		// After 0, 1, 3 and 7 s, then every 5 s.
		if got := f.Count(); got < 10 || got > 17 {
			t.Errorf("%d token requests in a minute", got)
		}
	})
}

// TestHangingEndpointOfAFleet gets one request in each token_timeout.
func TestHangingEndpointOfAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Takes = time.Hour
		replicas := newReplicas(t, fleetSize, s, f)
		each(replicas, func(r *replica) {
			start := time.Now()
			wantFailure(t, r.Source, ErrTimeout)
			if waited := time.Since(start); waited > DefaultTimeout {
				t.Errorf("waited %v", waited)
			}
		})
		tokentest.WantCalls(t, f, 1)
		// The others have made no token request.
		for _, r := range replicas {
			if st := r.Status(); st.Requests != st.Failures {
				t.Errorf("status %+v", st)
			}
		}
	})
}

// TestHolderDies while the endpoint is slow: the lock stays locked, and the announcements end.
func TestHolderDies(t *testing.T) {
	for name, test := range map[string]struct {
		timeout, takes, dies time.Duration
	}{
		"at once":        {10 * time.Second, 3 * time.Second, 0},
		"later":          {10 * time.Second, 3 * time.Second, 2 * time.Second},
		"short timeout":  {3 * time.Second, 500 * time.Millisecond, 300 * time.Millisecond},
		"fast otherwise": {10 * time.Second, 10 * time.Millisecond, 5 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := newEndpoint(), newStorage()
				f.Takes = test.takes
				setTimeout := func(r *replica) { r.user.Timeout = test.timeout }
				doomed := &tokentest.Fetcher{Identity: []byte("equal"), Takes: time.Hour}
				dead := make(chan struct{})
				dies := func(ctx context.Context) error {
					select {
					case <-dead:
						<-ctx.Done()
						return ctx.Err()
					default:
						return nil
					}
				}
				holder := newReplica(t, s, doomed, setTimeout, func(r *replica) {
					r.slot.load, r.slot.store = dies, dies
					r.slot.notExclusive = true // it does not unlock
				})
				s.lock <- struct{}{}
				go func() { _, _ = holder.Token(t.Context()) }()
				synctest.Wait()
				replicas := newReplicas(t, fleetSize, s, f, setTimeout)
				go func() { time.Sleep(test.dies); close(dead) }()
				start := time.Now()
				each(replicas, func(r *replica) { tokentest.MustToken(t, r) })
				if waited := time.Since(start); waited > test.timeout {
					t.Errorf("waited %v", waited)
				}
				if got := f.Count(); got < 1 || got > 3 {
					t.Errorf("%d token requests", got)
				}
			})
		})
	}
}

// TestOldRecordsThatAreReplayed by whoever can write to the storage make nobody wait: only a later
// announcement than before counts.
func TestOldRecordsThatAreReplayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		var loads int
		old := func(at time.Time) []byte {
			r := record{Announce: &announcement{At: at, Replica: "another"}}
			return r.encode()
		}
		records := [][]byte{old(time.Now().Add(-time.Minute)), old(time.Now().Add(-time.Hour))}
		r := newReplica(t, s, f, func(r *replica) {
			r.slot.torn = func([]byte) []byte { loads++; return records[loads%2] }
		})
		start := time.Now()
		tokentest.MustToken(t, r)
		if waited := time.Since(start); waited > patienceFor(DefaultTimeout)+longestPause {
			t.Errorf("waited %v", waited)
		}
	})
}

// TestFaultsOfTheStorage cost token requests at most.
func TestFaultsOfTheStorage(t *testing.T) {
	hang := func(release <-chan struct{}) func(context.Context) error {
		return func(context.Context) error { <-release; return errStorage }
	}
	const timeout = 2 * time.Second
	for name, test := range map[string]struct {
		fault func(*slot, <-chan struct{})
		most  int // token requests
	}{
		"lock not exclusive": {func(s *slot, _ <-chan struct{}) { s.notExclusive = true }, fleetSize},
		"lock fails":         {func(s *slot, _ <-chan struct{}) { s.locking = broken }, fleetSize},
		"lock late": {func(s *slot, _ <-chan struct{}) {
			s.locking = func(context.Context) error { time.Sleep(time.Minute); return nil }
		}, 3},
		"lock hangs":    {func(s *slot, r <-chan struct{}) { s.locking = hang(r) }, 3},
		"load fails":    {func(s *slot, _ <-chan struct{}) { s.load = broken }, fleetSize},
		"store fails":   {func(s *slot, _ <-chan struct{}) { s.store = broken }, fleetSize},
		"load is slow":  {func(s *slot, _ <-chan struct{}) { s.load = takes(5 * time.Second) }, fleetSize},
		"store is slow": {func(s *slot, _ <-chan struct{}) { s.store = takes(5 * time.Second) }, fleetSize},
		"load hangs":    {func(s *slot, r <-chan struct{}) { s.load = hang(r) }, fleetSize},
		"store hangs":   {func(s *slot, r <-chan struct{}) { s.store = hang(r) }, fleetSize},
		"panic": {func(s *slot, _ <-chan struct{}) {
			s.load = func(context.Context) error { panic("hunter2") }
		}, fleetSize},
		"torn":  {func(s *slot, _ <-chan struct{}) { s.torn = func(b []byte) []byte { return b[:len(b)/2] } }, fleetSize},
		"other": {func(s *slot, _ <-chan struct{}) { s.torn = func([]byte) []byte { return []byte(`{"version":2}`) } }, fleetSize},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				defer close(release)
				f, s := newEndpoint(), newStorage()
				f.Takes = 100 * time.Millisecond
				replicas := newReplicas(t, fleetSize, s, f, func(r *replica) {
					test.fault(r.slot, release)
					r.user.Timeout = timeout
				})
				each(replicas, func(r *replica) { tokentest.MustToken(t, r) })
				synctest.Wait()
				if got := f.Count(); got > test.most {
					t.Errorf("%d token requests, want at most %d", got, test.most)
				}
				time.Sleep(time.Hour)
				each(replicas, func(r *replica) { tokentest.MustToken(t, r) })
				each(replicas, func(r *replica) {
					if r.Replace(t.Context(), tokentest.MustToken(t, r)) == nil {
						t.Error("a rejected token is not replaced")
					}
				})
				time.Sleep(time.Hour) // what is late comes
			})
		})
	}
}

// TestLateLockIsReleased at once, so that others can have it.
func TestLateLockIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		r := newReplica(t, s, f, func(r *replica) {
			r.slot.locking = func(context.Context) error { time.Sleep(time.Minute); return nil }
		})
		tokentest.MustToken(t, r)
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case s.lock <- struct{}{}:
		default:
			t.Error("it is still locked")
		}
	})
}

// TestClocksThatDiffer by less than is allowed for let no expired token go out, and those that differ by more
// cost token requests.
func TestClocksThatDiffer(t *testing.T) {
	for name, by := range map[string]time.Duration{"ahead": 5 * time.Minute, "behind": -5 * time.Minute, "a little ahead": 20 * time.Second, "a little behind": -20 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const life = 20 * time.Minute
				little := by.Abs() <= maxSkew
				f, s := newEndpoint(), newStorage()
				var granted sync.Map // when, by value
				f.Respond = func(_ context.Context, call int) (*oauth.Token, error) {
					token := tokentest.Token(call, life)
					granted.Store(token.Value, token.Sent)
					return token, nil
				}
				core, logs := observer.New(zap.WarnLevel)
				right := newReplica(t, s, f, func(r *replica) { r.user.Logger = zap.New(core) })
				wrong := newReplica(t, s, f, withClock(f, by))
				for range 3 * 3600 {
					for _, r := range []*replica{wrong, right} {
						token := tokentest.MustToken(t, r)
						sent, _ := granted.Load(token.Value)
						if age := time.Since(sent.(time.Time)); age > life && little {
							t.Fatalf("a token %v after its end", age-life)
						}
					}
					time.Sleep(time.Second)
				}
				if got := f.Count(); little && got > 14 || got > 30 {
					t.Errorf("%d token requests in 9 lives", got)
				}
				if got := logs.Len(); got > 1 || (got == 1) != (by > maxSkew) {
					t.Errorf("logged %v", logs.All())
				}
			})
		})
	}
}

// TestForcedRefreshOfAFleet makes a token request whatever the record says, and stores its result.
func TestForcedRefreshOfAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		first, second := newReplica(t, s, f), newReplica(t, s, f)
		tokentest.WantToken(t, first, "token-1")
		time.Sleep(time.Second)
		before := s.operations()
		f.SetRespond(func(_ context.Context, call int) (*oauth.Token, error) {
			synctest.Wait()
			if got := s.operations() - before; got != 0 {
				t.Errorf("%d operations before the token request", got)
			}
			return tokentest.Token(call, time.Hour), nil
		})
		if err := second.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		f.SetRespond(nil)
		tokentest.WantToken(t, second, "token-2")
		synctest.Wait()
		if got := s.get().Token.Value; got != "token-2" {
			t.Errorf("the record has %s", got)
		}
		time.Sleep(time.Minute)
		wantRetry(t, first.Replace(t.Context(), tokentest.MustToken(t, first)), "token-2")
		tokentest.WantCalls(t, f, 2)

		refused := *errTestConfiguration
		refused.Responded = true
		f.SetRespond(fails(&refused))
		if err := second.Refresh(t.Context()); err == nil {
			t.Fatal("no failure")
		}
		synctest.Wait()
		f.SetRespond(nil)
		if r := s.get(); r.Failure == nil || r.Token == nil || r.Token.Rejected {
			t.Errorf("record %+v", r)
		}
		if err := first.Refresh(t.Context()); err != nil { // in the back-off of the other
			t.Error(err)
		}
		synctest.Wait()
		if r := s.get(); r.Failure != nil || r.Token.Value != "token-4" {
			t.Errorf("record %+v", r)
		}
	})
}

// TestForcedRefreshDuringAnAttempt that ends without a token request makes one of its own.
func TestForcedRefreshDuringAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Takes = 3 * time.Second
		first, second := newReplica(t, s, f), newReplica(t, s, f)
		go func() { _, _ = first.Token(t.Context()) }()
		synctest.Wait()
		go func() { _, _ = second.Token(t.Context()) }()
		time.Sleep(time.Second)
		if err := second.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
		tokentest.WantToken(t, second, "token-2")
		tokentest.WantCalls(t, f, 2)
	})
}

// TestRejectedTokenIsMarked if no other can be had, so that a starting replica does not use it.
func TestRejectedTokenIsMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		first := newReplica(t, s, f)
		tokentest.WantToken(t, first, "token-1")
		time.Sleep(time.Minute)
		failure := *errTestOutage
		failure.Responded = true
		f.SetRespond(fails(&failure))
		wantRetry(t, first.Replace(t.Context(), tokentest.MustToken(t, first)), "")
		synctest.Wait()
		if r := s.get(); !r.Token.Rejected || r.Failure == nil || r.Replaced.IsZero() {
			t.Errorf("record %+v", r)
		}
		wantFailure(t, newReplica(t, s, f).Source, &failure)
		tokentest.WantToken(t, first, "token-1")
		tokentest.WantCalls(t, f, 2)
		f.SetRespond(nil)
		time.Sleep(2 * time.Second)
		tokentest.WantToken(t, newReplica(t, s, f), "token-3")
	})
}

// TestNoTokenIsSentTwice: a young token is rejected, the previous one, which was adopted, is rejected too, and
// the young one is no token to retry with.
func TestNoTokenIsSentTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		first, second := newReplica(t, s, f), newReplica(t, s, f)
		tokentest.WantToken(t, first, "token-1")
		tokentest.WantToken(t, second, "token-1")
		second.Accept(tokentest.MustToken(t, second))
		time.Sleep(time.Minute)
		if err := second.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		previous := second.Replace(t.Context(), tokentest.MustToken(t, second))
		wantRetry(t, previous, "token-1")
		if again := second.ReplaceAdopted(t.Context(), previous); again != nil && again.Value == "token-2" {
			t.Error("the token that was rejected first is sent again")
		}
	})
}

// TestSecondReplay: an adopted token that is rejected too is replaced by one that the replica requests.
func TestSecondReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		first, second := newReplica(t, s, f), newReplica(t, s, f)
		tokentest.WantToken(t, first, "token-1")
		tokentest.WantToken(t, second, "token-1")
		time.Sleep(time.Minute)
		second.Accept(tokentest.MustToken(t, second))
		if err := first.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		adopted := second.Replace(t.Context(), tokentest.MustToken(t, second))
		wantRetry(t, adopted, "token-2")
		time.Sleep(time.Second)
		later := s.get()
		later.Token = newRecordToken(tokentest.Token(7, time.Hour))
		s.set(later) // which another replica has obtained: it may be as useless
		wantRetry(t, second.ReplaceAdopted(t.Context(), adopted), "token-3")
		tokentest.WantToken(t, second, "token-3")
		// Not for a token that the replica has requested itself, and not twice.
		wantRetry(t, second.ReplaceAdopted(t.Context(), tokentest.MustToken(t, second)), "")
		tokentest.WantCalls(t, f, 3)
		if got := second.Status().Rejected; got != 2 {
			t.Errorf("%d rejections", got)
		}
		synctest.Wait()
		if r := s.get(); r.Replaced.IsZero() {
			t.Errorf("record %+v", r)
		}
	})
}

// TestReplacedTokenOfAFleet: the limit of one token request in 10 s ends with the time in the record.
func TestReplacedTokenOfAFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		r := newReplica(t, s, f)
		tokentest.WantToken(t, r, "token-1")
		time.Sleep(time.Minute)
		now := s.get()
		now.Replaced = time.Now().Add(-9 * time.Second) // by another replica
		s.set(now)
		wantRetry(t, r.Replace(t.Context(), tokentest.MustToken(t, r)), "")
		tokentest.WantCalls(t, f, 1)
		time.Sleep(time.Second)
		wantRetry(t, r.Replace(t.Context(), tokentest.MustToken(t, r)), "token-2")
		synctest.Wait()

		loads := s.loads.Load()
		wantRetry(t, r.Replace(t.Context(), tokentest.MustToken(t, r)), "")
		if s.loads.Load() != loads {
			t.Error("the record is loaded again within a second")
		}
		time.Sleep(time.Second)
		now = s.get()
		now.Token = newRecordToken(tokentest.Token(7, time.Hour))
		s.set(now)
		start := time.Now()
		r.Reject(t.Context(), tokentest.MustToken(t, r))
		synctest.Wait()
		tokentest.WantToken(t, r, "token-7")
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v", waited)
		}
	})
}

// TestSharedTokenIsNotHandedOver: others use it.
func TestSharedTokenIsNotHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		handedOver := 0
		watch := func(r *replica) {
			r.user.Observer = fakeObserver{removed: func(*oauth.Token) { handedOver++ }}
		}
		first, second := newReplica(t, s, f, watch), newReplica(t, s, f, watch)
		old := tokentest.MustToken(t, first)
		tokentest.MustToken(t, second)
		if err := first.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !first.Shares(old) || !first.Shares(first.Current()) || !second.Shares(second.Current()) {
			t.Error("a token is not shared")
		}
		first.stop()
		second.stop()
		synctest.Wait()
		if handedOver != 0 {
			t.Errorf("%d shared tokens were handed over", handedOver)
		}
		f.SetRespond(func(context.Context, int) (*oauth.Token, error) {
			return &oauth.Token{Value: "always", Lifetime: time.Hour}, nil
		})
		again := newReplica(t, newStorage(), f, watch)
		tokentest.MustToken(t, again)
		synctest.Wait()
		again.user.Shared = nil
		if err := again.Refresh(t.Context()); err != nil || !again.Shares(again.Current()) {
			t.Errorf("%v, or a token is not shared any more", err)
		}
		f.SetRespond(nil)
		alone := newReplica(t, s, f, watch, func(r *replica) { r.slot.load = broken })
		tokentest.MustToken(t, alone)
		if alone.Shares(alone.Current()) {
			t.Error("a token is shared that was not stored")
		}
		alone.stop()
		synctest.Wait()
		if handedOver != 1 {
			t.Error("the token that is not shared was not handed over")
		}
	})
}

// TestUnpreparedRequestIsNobodyElsesFailure.
func TestUnpreparedRequestIsNobodyElsesFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		without := newEndpoint()
		without.Unprepared = func() error { return errTestConfiguration }
		wantFailure(t, newReplica(t, s, without).Source, errTestConfiguration)
		synctest.Wait()
		if got := s.operations(); got != 0 {
			t.Errorf("%d operations", got)
		}
		tokentest.WantToken(t, newReplica(t, s, f), "token-1")
	})
}

// TestFetchedTokenEndsTheBackoffOfAll at their next look.
func TestFetchedTokenEndsTheBackoffOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		failure := busy(5 * time.Minute)
		failure.Responded = true
		f.Respond = fails(failure)
		replicas := newReplicas(t, 3, s, f)
		each(replicas, func(r *replica) { wantFailure(t, r.Source, failure) })
		tokentest.WantCalls(t, f, 1)
		f.SetRespond(nil)
		time.Sleep(2 * time.Second)
		each(replicas, func(r *replica) { wantFailure(t, r.Source, failure) })
		if err := replicas[0].Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		each(replicas, func(r *replica) {
			tokentest.WantToken(t, r, "token-2")
			if st := r.Status(); st.State != StateReady || st.LastError != nil {
				t.Errorf("status %+v", st)
			}
		})
		tokentest.WantCalls(t, f, 2)
	})
}

// TestRecordIsLookedAtOnceASecond inside a back-off.
func TestRecordIsLookedAtOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		failure := busy(time.Minute)
		failure.Responded = true
		f.Respond = fails(failure)
		r := newReplica(t, s, f)
		wantFailure(t, r.Source, failure)
		synctest.Wait()
		loads := s.loads.Load()
		for range 1000 { // ten seconds
			wantFailure(t, r.Source, failure)
			time.Sleep(10 * time.Millisecond)
		}
		if got := s.loads.Load() - loads; got < 9 || got > 11 {
			t.Errorf("%d looks in 10s", got)
		}
		if s.stores.Load() != 1 {
			t.Errorf("%d stores", s.stores.Load())
		}
	})
}

// TestUnansweredReplicaLetsOthersTryFirst: its network may be broken, and not the endpoint.
func TestUnansweredReplicaLetsOthersTryFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage()
		good, bad := newEndpoint(), newEndpoint()
		bad.Respond = fails(errTestOutage)
		cut := newReplica(t, s, bad)
		wantFailure(t, cut.Source, errTestOutage)
		other := newReplica(t, s, good)
		wantFailure(t, other.Source, errTestOutage) // of the other one
		tokentest.WantCalls(t, good, 0)
		end := cut.Status().NextAttempt
		time.Sleep(time.Until(end))
		go func() { time.Sleep(courtesy / 2); tokentest.WantToken(t, other, "token-1") }()
		tokentest.WantToken(t, cut, "token-1")
		tokentest.WantCalls(t, bad, 1)
		tokentest.WantCalls(t, good, 1)
	})
}

// TestUnansweredFailureIsTakenOverBriefly.
func TestUnansweredFailureIsTakenOverBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage()
		good, bad := newEndpoint(), newEndpoint()
		bad.Respond = fails(busy(time.Minute))
		wantFailure(t, newReplica(t, s, bad).Source, busy(time.Minute))
		other := newReplica(t, s, good)
		failed := wantFailure(t, other.Source, busy(time.Minute))
		if failed.RetryAfter != maxUnansweredWait {
			t.Errorf("retry after %v", failed.RetryAfter)
		}
		time.Sleep(maxUnansweredWait)
		tokentest.WantToken(t, other, "token-1")
	})
}

// TestFailuresInARowAreCountedTogether, so that the back-off grows whoever fails.
func TestFailuresInARowAreCountedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		failure := *errTestOutage
		failure.Responded = true
		f.Respond = fails(&failure)
		for i := range 5 {
			wantFailure(t, newReplica(t, s, f).Source, &failure)
			synctest.Wait()
			r := s.get().Failure
			if r.Consecutive != i+1 {
				t.Errorf("%d failures in a row, want %d", r.Consecutive, i+1)
			}
			time.Sleep(time.Until(r.NotBefore))
		}
	})
}

// TestTakenOverFailureAfterASuccess: the server has changed, and not the configuration.
func TestTakenOverFailureAfterASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		had, new := newReplica(t, s, f), newReplica(t, s, f)
		f.Respond = grants(time.Minute)
		tokentest.MustToken(t, had)
		time.Sleep(2 * time.Minute)
		refused := oauth.ConfigurationErrorf("refused")
		refused.Presumed, refused.Responded = true, true
		f.SetRespond(fails(refused))
		wantFailure(t, new.Source, refused)
		if _, err := had.Token(t.Context()); oauth.AsError(err).Class != oauth.ClassOutage {
			t.Errorf("got %v", err)
		}
		tokentest.WantCalls(t, f, 2)
	})
}

// TestBoundTokens are bound by the replica that adopts them, and refused if they are of another type.
func TestBoundTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, err := oauth.GenerateDPoPKey()
		if err != nil {
			t.Fatal(err)
		}
		s := newStorage()
		f := newEndpoint()
		f.Respond = func(_ context.Context, call int) (*oauth.Token, error) {
			token := tokentest.Token(call, time.Hour)
			token.DPoP = key
			return token, nil
		}
		f.Bind = func(token *oauth.Token) { token.DPoP, token.RequestSecrets = key, []string{"s3cret"} }
		tokentest.WantToken(t, newReplica(t, s, f), "token-1")
		token := tokentest.MustToken(t, newReplica(t, s, f))
		if token.Value != "token-1" || token.DPoP != key || len(token.RequestSecrets) != 1 {
			t.Errorf("got %+v", token)
		}
		tokentest.WantCalls(t, f, 1)
		f.Bind = nil
		tokentest.WantToken(t, newReplica(t, s, f), "token-2")
	})
}

// TestOnlyABetterTokenIsAdoptedAhead of expiry: one that does not live longer means a token request.
func TestOnlyABetterTokenIsAdoptedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Respond = grants(1000 * time.Second)
		r := newReplica(t, s, f)
		tokentest.WantToken(t, r, "token-1")
		synctest.Wait()
		time.Sleep(850 * time.Second)
		other := tokentest.Token(7, 100*time.Second)
		other.Value = "short"
		s.set(record{Token: newRecordToken(other)})
		tokentest.WantToken(t, r, "token-1")
		tokentest.WantCalls(t, f, 2)
		tokentest.WantToken(t, r, "token-2")
	})
}

// TestEndOfTheStoragesPart: the first error ends it, and requests do not wait for the result to be stored.
func TestEndOfTheStoragesPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Takes = 5 * time.Second
		r := newReplica(t, s, f, func(r *replica) { r.slot.load = broken })
		tokentest.WantToken(t, r, "token-1")
		synctest.Wait()
		if got := s.operations(); got != 1 {
			t.Errorf("%d operations", got)
		}
		slow := newReplica(t, newStorage(), f, func(r *replica) { r.slot.store = takes(5 * time.Second) })
		start := time.Now()
		tokentest.WantToken(t, slow, "token-2")
		if waited := time.Since(start); waited != 5*time.Second {
			t.Errorf("waited %v", waited)
		}
	})
}

// TestReloadForgetsTheOldConfig, which the place of the record would keep alive.
func TestReloadForgetsTheOldConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		r := newReplica(t, s, f)
		tokentest.MustToken(t, r)
		another := &User{Name: "orders", Fetcher: f, Shared: r.slot}
		r.Attach(another)
		r.Start(another)
		if err := r.Refresh(t.Context()); err != nil || r.place.request.user != another {
			t.Fatalf("%v, place of %v", err, r.place.request.user)
		}
		r.Detach(another)
		if r.place != nil {
			t.Error("the user that is gone is kept")
		}
		if err := r.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		next := &User{Name: "billing", Fetcher: f, Shared: r.slot}
		r.Attach(next)
		if r.place == nil {
			t.Error("the running config's place is forgotten too early")
		}
		r.Start(next)
		r.Detach(r.user)
		if r.place != nil {
			t.Error("the old config is kept")
		}
		r.Detach(next)
		_ = r.Destruct()
	})
}

// TestErrorsOfTheStorageAreNotShown.
func TestErrorsOfTheStorageAreNotShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		f := newEndpoint()
		f.Respond = fails(errors.New("hunter2"))
		r := newReplica(t, newStorage(), f, func(r *replica) {
			r.slot.load = broken
			r.user.Logger = zap.New(core)
		})
		_, err := r.Token(t.Context())
		synctest.Wait()
		if text := fmt.Sprint(err, logs.All()); err == nil || len(text) == 0 || containsSecret(text) {
			t.Error(text)
		}
	})
}

// TestReplicasComeAndGoUnderLoad, for the race detector.
func TestReplicasComeAndGoUnderLoad(t *testing.T) {
	f, s := newEndpoint(), newStorage()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				r := &replica{Source: NewSource(), slot: &slot{storage: s}}
				r.user = &User{Name: "billing", Fetcher: f, Shared: r.slot, Warm: true}
				r.Attach(r.user)
				r.Start(r.user)
				for range 3 {
					token, err := r.Token(t.Context())
					if err != nil {
						t.Errorf("no token: %v", err)
						return
					}
					if newer := r.Replace(t.Context(), token); newer != nil {
						r.ReplaceAdopted(t.Context(), newer)
					}
					r.Reject(t.Context(), token)
					_ = r.Refresh(t.Context())
					_, _ = r.Status(), r.Shares(token)
				}
				r.stop()
			}
		})
	}
	all.Wait()
}
