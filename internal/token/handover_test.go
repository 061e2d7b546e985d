package token

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

// reload gives the replica a new config, with a storage module of its own. That of the old one is stopped.
func (r *replica) reload() {
	old, stopped := r.user, r.slot
	r.slot = &slot{storage: stopped.storage}
	r.user = &User{Name: old.Name, Fetcher: old.Fetcher, Shared: r.slot, Timeout: old.Timeout}
	r.Attach(r.user)
	r.Start(r.user)
	r.Detach(old)
	stopped.stop()
}

// responded returns a failure with which the token endpoint responds.
func responded(failure *oauth.Error) *oauth.Error {
	f := *failure
	f.Responded = true
	return &f
}

// TestReloadInABackoff: a token that another replica has fetched ends it as without the reload.
func TestReloadInABackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		failure := responded(busy(5 * time.Minute))
		f.Respond = fails(failure)
		replicas := newReplicas(t, 2, s, f)
		each(replicas, func(r *replica) { wantFailure(t, r.Source, failure) })
		synctest.Wait()
		replicas[1].reload()
		f.SetRespond(nil)
		if err := replicas[0].Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		tokentest.WantToken(t, replicas[1], "token-2")
		tokentest.WantCalls(t, f, 2)
	})
}

// TestReloadThatCannotLook tries it once.
func TestReloadThatCannotLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		failure := responded(busy(time.Minute))
		f.Respond = fails(failure)
		r := newReplica(t, s, f)
		wantFailure(t, r.Source, failure)
		prepared := 0
		f.Unprepared = func() error { prepared++; return errTestConfiguration }
		r.reload()
		for range 10 {
			time.Sleep(time.Second)
			wantFailure(t, r.Source, failure)
		}
		if prepared != 1 {
			t.Errorf("prepared %d times", prepared)
		}
	})
}

// TestReloadDuringATokenRequest: it is announced, and its result stored, in the storage of the new config.
func TestReloadDuringATokenRequest(t *testing.T) {
	for name, reloadAfter := range map[string]time.Duration{"at once": 0, "later": 3 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := newEndpoint(), newStorage()
				f.Takes = 8 * time.Second
				first, second := newReplica(t, s, f), newReplica(t, s, f)
				go func() { _, _ = first.Token(t.Context()) }()
				time.Sleep(reloadAfter)
				synctest.Wait()
				first.reload()
				tokentest.WantToken(t, second, "token-1")
				tokentest.WantToken(t, first, "token-1")
				tokentest.WantCalls(t, f, 1)
				if !first.Shares(first.Current()) {
					t.Error("the token is not shared")
				}
			})
		})
	}
}

// TestReloadDuringAnOperation that fails because of it.
func TestReloadDuringAnOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		r := newReplica(t, s, f)
		slow := r.slot
		slow.store = func(context.Context) error { r.reload(); return errStorage }
		tokentest.WantToken(t, r, "token-1")
		synctest.Wait()
		if s.get().Token == nil {
			t.Error("the token is not stored")
		}
	})
}

// TestReloadWhileWaiting for another replica continues to wait.
func TestReloadWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Takes = 8 * time.Second
		first, second := newReplica(t, s, f), newReplica(t, s, f)
		go func() { _, _ = first.Token(t.Context()) }()
		synctest.Wait()
		go func() { time.Sleep(3 * time.Second); second.reload() }()
		tokentest.WantToken(t, second, "token-1")
		tokentest.WantCalls(t, f, 1)
	})
}

// TestReloadWithoutSharing during a token request stores nothing.
func TestReloadWithoutSharing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Takes = time.Second
		r := newReplica(t, s, f)
		go func() { _, _ = r.Token(t.Context()) }()
		synctest.Wait()
		next := &User{Name: "billing", Fetcher: f}
		r.Attach(next)
		r.Start(next)
		r.Detach(r.user)
		r.user = next
		tokentest.WantToken(t, r, "token-1")
		synctest.Wait()
		if s.get().Token != nil {
			t.Error("the token is stored")
		}
	})
}

// TestSlowStorageIsUsed as long as its operations fit into half of the time for a token.
func TestSlowStorageIsUsed(t *testing.T) {
	for name, test := range map[string]struct{ timeout, takes time.Duration }{
		"beside a short timeout": {2 * time.Second, 700 * time.Millisecond},
		"0.7 s":                  {DefaultTimeout, 700 * time.Millisecond},
		"as slow as allowed":     {DefaultTimeout, 4900 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := newEndpoint(), newStorage()
				for range 3 {
					r := newReplica(t, s, f, func(r *replica) {
						r.user.Timeout = test.timeout
						r.slot.load, r.slot.store, r.slot.locking = takes(test.takes), takes(test.takes), takes(test.takes)
					})
					start := time.Now()
					tokentest.WantToken(t, r, "token-1")
					if waited := time.Since(start); waited > test.timeout/2 {
						t.Errorf("waited %v", waited)
					}
					time.Sleep(30 * time.Second)
				}
				tokentest.WantCalls(t, f, 1)
			})
		})
	}
}

// TestRejectionDuringARefresh that fails is noted in the record.
func TestRejectionDuringARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		r := newReplica(t, s, f)
		tokentest.WantToken(t, r, "token-1")
		time.Sleep(58 * time.Minute)
		f.SetTakes(time.Second)
		f.SetRespond(fails(responded(errTestOutage)))
		tokentest.WantToken(t, r, "token-1") // which begins to refresh it
		synctest.Wait()
		wantRetry(t, r.Replace(t.Context(), tokentest.MustToken(t, r)), "")
		tokentest.WantCalls(t, f, 2)
		if record := s.get(); !record.Token.Rejected || record.Replaced.IsZero() {
			t.Errorf("record %+v", record)
		}
	})
}

// TestLateFailure does not replace what another replica has obtained since.
func TestLateFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, late := newStorage(), newEndpoint(), newEndpoint()
		late.Respond, late.Takes = fails(responded(errTestConfiguration)), 5*time.Second
		first, second := newReplica(t, s, f), newReplica(t, s, late)
		failed := make(chan error)
		go func() { failed <- second.Refresh(t.Context()) }()
		time.Sleep(1100 * time.Millisecond) // not while it is announced
		if err := first.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if <-failed == nil {
			t.Fatal("no failure")
		}
		synctest.Wait()
		if record := s.get(); record.Failure != nil || record.Token == nil {
			t.Errorf("record %+v", record)
		}
		tokentest.WantToken(t, newReplica(t, s, f), "token-1")
	})
}

// TestSameTokenThatLivesLonger is adopted.
func TestSameTokenThatLivesLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Respond = func(context.Context, int) (*oauth.Token, error) {
			return &oauth.Token{Value: "always", Lifetime: time.Hour, HasExpiresIn: true}, nil
		}
		first, second := newReplica(t, s, f), newReplica(t, s, f)
		tokentest.WantToken(t, first, "always")
		tokentest.WantToken(t, second, "always")
		time.Sleep(30 * time.Minute)
		if err := first.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(28 * time.Minute)
		tokentest.WantToken(t, second, "always")
		synctest.Wait()
		time.Sleep(10 * time.Minute)
		tokentest.WantToken(t, second, "always")
		tokentest.WantCalls(t, f, 2)
		if expires := second.Status().Expires; time.Until(expires) < 20*time.Minute {
			t.Errorf("it expires at %v", expires)
		}
		// After its end too, but not without news, and not once it is rejected.
		second.Replace(t.Context(), tokentest.MustToken(t, second))
		tokentest.WantCalls(t, f, 3)
	})
}

// TestRetryReadsAgain: each token request is made with the values as they are then.
func TestRetryReadsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		f.SetRespond(func(_ context.Context, call int) (*oauth.Token, error) {
			if call < 3 {
				return nil, errTestTransient
			}
			return tokentest.Token(call, time.Hour), nil
		})
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-3")
		if got := len(f.Reads); got != 3 {
			t.Errorf("read %d times for 3 token requests", got)
		}
	})
}

// TestValuesThatChangeBeforeARetry: the token of the retry does not belong to the record of the values before.
func TestValuesThatChangeBeforeARetry(t *testing.T) {
	for name, change := range map[string]func(*tokentest.Fetcher){
		"equal":      func(*tokentest.Fetcher) {},
		"different":  func(f *tokentest.Fetcher) { f.Identity = []byte("different") },
		"not shared": func(f *tokentest.Fetcher) { f.Identity = nil },
		"unreadable": func(f *tokentest.Fetcher) { f.Unprepared = func() error { return errTestConfiguration } },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := newEndpoint(), newStorage()
				f.Takes = 3 * time.Second
				f.Respond = func(_ context.Context, call int) (*oauth.Token, error) {
					if call == 1 {
						change(f)
						return nil, responded(errTestTransient)
					}
					return tokentest.Token(call, time.Hour), nil
				}
				r := newReplica(t, s, f)
				_, _ = r.Token(t.Context())
				synctest.Wait()
				record := s.get()
				if stored := record.Token != nil; stored != (name == "equal") || record.Failure != nil {
					t.Errorf("record %+v", record)
				}
				if stored := record.Token != nil; r.Shares(r.Current()) != stored {
					t.Error("Shares is wrong")
				}
				select {
				case s.lock <- struct{}{}:
				default:
					t.Error("it is still locked")
				}
			})
		})
	}
}

// TestLockIsGivenUp when the storage fails while the attempt waits for it: nobody shall get it during the token
// request.
func TestLockIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newEndpoint(), newStorage()
		f.Takes = 5 * time.Second
		given := make(chan struct{})
		r := newReplica(t, s, f, func(r *replica) {
			r.slot.locking = func(ctx context.Context) error {
				r.slot.setLoad(broken)
				<-ctx.Done()
				close(given)
				return ctx.Err()
			}
		})
		go func() { _, _ = r.Token(t.Context()) }()
		time.Sleep(time.Second)
		tokentest.WantCalls(t, f, 1)
		select {
		case <-given:
		default:
			t.Error("it still waits for the lock")
		}
	})
}

// TestBlackHole: a replica whose way to the token endpoint is broken does not hold the others up for long. It
// announces no retries.
func TestBlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, hole := newStorage(), newEndpoint(), newEndpoint()
		hole.Respond, hole.Takes = fails(errTestTransient), 3*time.Second // for a connection
		cut := newReplica(t, s, hole)
		go func() { _, _ = cut.Token(t.Context()) }()
		time.Sleep(time.Second)
		tokentest.WantToken(t, newReplica(t, s, f), "token-1")
		time.Sleep(DefaultTimeout)
		tokentest.WantToken(t, cut, "token-1")
		tokentest.WantCalls(t, hole, 3)
		tokentest.WantCalls(t, f, 1)
	})
}

// TestTimeForTheTokenRequest: whatever the storage does, half of the time is left.
func TestTimeForTheTokenRequest(t *testing.T) {
	for name, slow := range map[string]func(*slot){
		"opening": func(s *slot) {
			s.open, s.load = func() { time.Sleep(DefaultTimeout/2 - time.Second) }, takes(time.Hour)
		},
		"loading":          func(s *slot) { s.load = takes(time.Hour) },
		"everything":       func(s *slot) { s.open, s.load = func() { time.Sleep(DefaultTimeout / 4) }, takes(DefaultTimeout/4-1) },
		"opening for ever": func(s *slot) { s.open = func() { time.Sleep(time.Hour) } },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, s := newEndpoint(), newStorage()
				r := newReplica(t, s, f, func(r *replica) { slow(r.slot) })
				start := time.Now()
				tokentest.WantToken(t, r, "token-1")
				if waited := time.Since(start); waited > DefaultTimeout/2+hangGrace {
					t.Errorf("waited %v", waited)
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}
