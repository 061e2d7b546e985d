package httphelper

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"
)

func TestRejectedTokenIsReplacedOnce(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, _ := startSource(t, f)
		refused := mustToken(t, s)
		synctest.Wait()
		f.slow(time.Second)
		for _, o := range crowd(func() (*grantedToken, error) { return s.reject(t.Context(), refused), nil }) {
			if o.token == nil || o.token.value != "token-2" {
				t.Fatalf("got %v", o.token)
			}
		}
		wantCalls(t, f, 2)
		if late := s.reject(t.Context(), refused); late == nil || late.value != "token-2" {
			t.Errorf("a latecomer got %v", late)
		}
		wantCalls(t, f, 2)
		wantToken(t, s, "token-2")
		if got := s.status().rejected; got != 1 {
			t.Errorf("%d rejections", got)
		}
	})
}

func TestAPIThatRejectsEveryTokenCostsLittle(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: 50 * time.Millisecond}
		s, _ := startSource(t, f)
		mustToken(t, s)
		var all sync.WaitGroup
		end := time.Now().Add(59 * time.Second)
		for range 20 {
			all.Go(func() {
				for time.Now().Before(end) {
					token, err := s.Token(t.Context())
					if err != nil {
						t.Errorf("no token: %v", err)
						return
					}
					if newer := s.reject(t.Context(), token); newer != nil {
						s.reject(t.Context(), newer)
					}
					time.Sleep(30 * time.Millisecond)
				}
			})
		}
		all.Wait()
		wantCalls(t, f, 1+6)
		for i := 2; i < len(f.calls); i++ {
			if pause := f.calls[i].Sub(f.calls[i-1]); pause < rejectPause {
				t.Errorf("token requests %v apart", pause)
			}
		}
	})
}

func TestTokenInHandIsUsedOnAfterASecondRejection(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, _ := startSource(t, f)
		newer := s.reject(t.Context(), mustToken(t, s))
		if again := s.reject(t.Context(), newer); again != nil {
			t.Errorf("got %v", again)
		}
		wantToken(t, s, "token-2")
		time.Sleep(rejectPause)
		if again := s.reject(t.Context(), newer); again == nil || again.value != "token-3" {
			t.Errorf("got %v", again)
		}
	})
}

func TestRejectionThatYieldsTheSameToken(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: func(context.Context, int) (*grantedToken, error) {
			return &grantedToken{value: "always", lifetime: time.Hour}, nil
		}}
		s, _ := startSource(t, f)
		for range 100 {
			if newer := s.reject(t.Context(), mustToken(t, s)); newer != nil {
				t.Fatalf("got %v", newer)
			}
		}
		wantToken(t, s, "always")
		wantCalls(t, f, 2)
	})
}

func TestRejectionInsideTheBackoff(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, _ := startSource(t, f)
		refused := mustToken(t, s)
		synctest.Wait()
		f.answers(fails(errTestOutage))
		if err := s.refresh(t.Context()); err == nil {
			t.Fatal("the refresh did not fail")
		}
		if newer := s.reject(t.Context(), refused); newer != nil {
			t.Errorf("got %v", newer)
		}
		wantCalls(t, f, 2)
		wantFailure(t, s, errTestOutage)
	})
}

func TestRejectionWhileTheEndpointFails(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, _ := startSource(t, f)
		refused := mustToken(t, s)
		synctest.Wait()
		f.answers(fails(errTestOutage))
		if newer := s.reject(t.Context(), refused); newer != nil {
			t.Errorf("got %v", newer)
		}
		wantFailure(t, s, errTestOutage)
		f.answers(nil)
		time.Sleep(2 * time.Second)
		wantToken(t, s, "token-3")
	})
}

func TestRejectionBySomebodyWhoDoesNotWait(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, _ := startSource(t, f)
		refused := mustToken(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if newer := s.reject(ctx, refused); newer != nil {
			t.Errorf("got %v", newer)
		}
		wantCalls(t, f, 1)
		wantToken(t, s, "token-2")
	})
}

func TestRejectingWaitEndsWithTheClient(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, _ := startSource(t, f)
		refused := mustToken(t, s)
		synctest.Wait()
		f.slow(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if newer := s.reject(ctx, refused); newer != nil || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", newer, time.Since(start))
		}
		wantToken(t, s, "token-2")
		wantCalls(t, f, 2)
	})
}

func TestWarmSourceKeepsATokenReady(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: grants(100 * time.Second)}
		s, u := acquireTestSource(t, f, warm)
		time.Sleep(time.Hour)
		wantCalls(t, f, 0) // its config does not run

		s.start(u)
		wantCalls(t, f, 1)
		for range 3600 {
			time.Sleep(time.Second)
			synctest.Wait()
			if s.peek() == nil {
				t.Fatal("there is no token ready")
			}
		}
		// One in about 80 seconds.
		if got := f.count(); got < 43 || got > 48 {
			t.Errorf("%d token requests in an hour", got)
		}

		calls := f.count()
		s.releaseUser(u)
		time.Sleep(time.Hour)
		wantCalls(t, f, calls)
	})
}

func TestWarmSourceGoesOnTrying(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: fails(errTestOutage)}
		s, _ := startSource(t, f, warm)
		time.Sleep(20 * time.Second)
		// After 1s, 2s, 4s and 8s.
		if got := f.count(); got < 4 || got > 6 {
			t.Errorf("%d attempts in 20s", got)
		}
		synctest.Wait()
		f.answers(nil)
		time.Sleep(20 * time.Second)
		if s.peek() == nil {
			t.Error("there is no token ready")
		}
	})
}

func TestWarmSourceReplacesARejectedToken(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, _ := startSource(t, f, warm)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.reject(ctx, mustToken(t, s))
		synctest.Wait()
		if token := s.peek(); token == nil || token.value != "token-2" {
			t.Errorf("holds %v", token)
		}
	})
}

// The timers of a machine that sleeps stand still.
func TestWarmSourceNoticesASuspend(t *testing.T) {
	simulated(t, func(t *testing.T) {
		var asleep atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(asleep.Load())) }
		f := &fakeFetcher{answer: func(_ context.Context, call int) (*grantedToken, error) {
			token := tokenFor(call, time.Hour)
			token.sent = now()
			return token, nil
		}}
		s, u := acquireTestSource(t, f, warm)
		s.now = now
		s.start(u)
		wantCalls(t, f, 1)
		asleep.Store(int64(10 * time.Hour))
		time.Sleep(maxTimer)
		wantCalls(t, f, 2)
	})
}

func TestSourceIsWarmAsLongAsOneUserIs(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		wantCalls(t, f, 0)
		_, hot := startSource(t, f, warm)
		wantCalls(t, f, 1)
		time.Sleep(85 * time.Second)
		synctest.Wait()
		calls := f.count()
		s.releaseUser(hot)
		if s.peek() == nil {
			t.Error("the token went with the warm user")
		}
		time.Sleep(time.Hour)
		wantCalls(t, f, calls)
	})
}

func TestWarmReloadFetchesNothing(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, _ := startSource(t, f)
		wantToken(t, s, "token-1")
		startSource(t, f, warm)
		wantCalls(t, f, 1)
	})
}

func TestHealthCheckKeepsAFailedSourceTrying(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: fails(errTestOutage)}
		s, u := startSource(t, f)
		s.retryInBackground()
		time.Sleep(time.Hour)
		wantCalls(t, f, 0) // nothing has failed yet

		wantFailure(t, s, errTestOutage)
		time.Sleep(10 * time.Minute)
		if got := f.count(); got < 12 || got > 20 {
			t.Errorf("%d attempts in ten minutes", got)
		}

		synctest.Wait()
		f.answers(grants(100 * time.Second))
		time.Sleep(time.Minute)
		if s.peek() == nil {
			t.Error("it does not recover")
		}
		calls := f.count()
		time.Sleep(time.Hour)
		wantCalls(t, f, calls) // it has had a token
		s.releaseUser(u)
	})
}

func TestFailedSourceRestsUntilAHealthCheckAsks(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: fails(errTestOutage)}
		s, u := startSource(t, f)
		wantFailure(t, s, errTestOutage)
		time.Sleep(time.Hour)
		wantCalls(t, f, 1)

		s.retryInBackground() // the back-off is long over
		wantCalls(t, f, 2)
		s.retryInBackground()
		wantCalls(t, f, 2)
		time.Sleep(3 * time.Second)
		wantCalls(t, f, 3)

		s.releaseUser(u)
		time.Sleep(time.Hour)
		wantCalls(t, f, 3)
	})
}

func TestHealthCheckLeavesASourceThatHasWorkedAlone(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: func(_ context.Context, call int) (*grantedToken, error) {
			if call == 1 {
				return tokenFor(call, time.Second), nil
			}
			return nil, errTestOutage
		}}
		s, _ := startSource(t, f)
		wantToken(t, s, "token-1")
		time.Sleep(time.Second)
		wantFailure(t, s, errTestOutage)
		s.retryInBackground()
		time.Sleep(time.Hour)
		wantCalls(t, f, 2)
	})
}

func TestReloadsKeepTheToken(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: time.Second}
		var current atomic.Pointer[tokenSource]
		s, u := startSource(t, f)
		current.Store(s)
		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		for range 10 {
			load.Go(func() {
				for ctx.Err() == nil {
					if token, err := current.Load().Token(t.Context()); err != nil || token.value != "token-1" {
						t.Errorf("got %v, %v", token, err)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		for i := range 50 {
			next, v := acquireTestSource(t, f, func(v *sourceUser) { v.warm = i%2 == 0 })
			next.start(v)
			current.Store(next)
			time.Sleep(5 * time.Millisecond)
			s.releaseUser(u)
			s.releaseUser(u) // a module may be cleaned up twice
			s, u = next, v
			time.Sleep(50 * time.Millisecond)
		}
		stop()
		load.Wait()
		wantCalls(t, f, 1)
	})
}

func TestRejectedReloadChangesNothing(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f, other := &fakeFetcher{}, &fakeFetcher{}
		s, _ := startSource(t, f)
		wantToken(t, s, "token-1")
		failing, v := acquireTestSource(t, other, warm, func(v *sourceUser) {
			v.timeout, v.refreshBefore = time.Hour, 30*time.Minute
		})
		if failing != s {
			t.Fatal("not the same source")
		}
		synctest.Wait()
		if err := s.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := s.status(); st.expires.Sub(st.refresh) > 6*time.Minute {
			t.Errorf("refreshed %v before expiry", st.expires.Sub(st.refresh))
		}
		time.Sleep(2 * time.Hour)
		wantCalls(t, f, 2) // not warm
		failing.releaseUser(v)
		failing.start(v) // too late
		time.Sleep(24 * time.Hour)
		wantCalls(t, other, 0)
		wantCalls(t, f, 2)
		if s.peek() == nil {
			wantToken(t, s, "token-3")
		}
		if len(s.users) != 1 {
			t.Errorf("%d users", len(s.users))
		}
	})
}

func TestNewestConfigFetches(t *testing.T) {
	simulated(t, func(t *testing.T) {
		first := &fakeFetcher{}
		second := &fakeFetcher{answer: func(context.Context, int) (*grantedToken, error) { return tokenFor(2, time.Hour), nil }}
		s, u := startSource(t, first)
		wantToken(t, s, "token-1")
		_, v := startSource(t, second, func(v *sourceUser) { v.refreshBefore = 20 * time.Minute })
		if err := s.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantCalls(t, first, 1)
		wantCalls(t, second, 1)
		if st := s.status(); st.expires.Sub(st.refresh) < 18*time.Minute {
			t.Errorf("refreshed %v before expiry", st.expires.Sub(st.refresh))
		}
		s.releaseUser(u)
		if s.speaker() != v || s.lastUser != nil {
			t.Error("the old config is still held")
		}
	})
}

func TestConfigThatGoesAgainLeavesTheOldOneInCharge(t *testing.T) {
	simulated(t, func(t *testing.T) {
		first, second := &fakeFetcher{}, &fakeFetcher{}
		s, _ := startSource(t, first)
		_, v := startSource(t, second)
		s.releaseUser(v)
		wantToken(t, s, "token-1")
		wantCalls(t, first, 1)
		wantCalls(t, second, 0)
	})
}

func TestRequestsInFlightOutliveTheSource(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: grants(100 * time.Second)}
		s, u := startSource(t, f, warm)
		wantToken(t, s, "token-1")
		s.releaseUser(u)
		if s.pooled() {
			t.Error("the source is still in the pool")
		}
		wantToken(t, s, "token-1")
		time.Sleep(85 * time.Second)
		wantToken(t, s, "token-1")
		wantCalls(t, f, 1) // no refresh ahead any more
		time.Sleep(10 * time.Second)
		wantToken(t, s, "token-2")
		if newer := s.reject(t.Context(), mustToken(t, s)); newer == nil || newer.value != "token-3" {
			t.Errorf("got %v", newer)
		}
		s.retryInBackground()
		time.Sleep(time.Hour)
		wantCalls(t, f, 3)
		if s.timer != nil {
			t.Error("a timer is set")
		}
	})
}

func TestReleaseDuringAnAttempt(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: time.Second}
		s, u := startSource(t, f, warm)
		waiting := make(chan result)
		go func() {
			token, err := s.Token(t.Context())
			waiting <- result{token: token, err: err}
		}()
		synctest.Wait()
		s.releaseUser(u)
		if o := <-waiting; o.err != nil || o.token.value != "token-1" {
			t.Errorf("got %+v", o)
		}
	})
}

func TestSourceThatGoesAwayHandsOverItsToken(t *testing.T) {
	for name, test := range map[string]struct {
		started, granted bool
		life             time.Duration
		want             string
	}{
		"live":        {true, true, time.Hour, "token-1"},
		"expired":     {true, true, time.Second, ""},
		"never had":   {true, false, time.Hour, ""},
		"not started": {false, true, time.Hour, ""},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				var got string
				f := &fakeFetcher{answer: grants(test.life)}
				s, u := acquireTestSource(t, f, func(u *sourceUser) {
					u.owner = fakeOwner{removed: func(token *grantedToken) { got = token.value }}
				})
				if test.started {
					s.start(u)
				}
				if test.granted {
					wantToken(t, s, "token-1")
				}
				time.Sleep(time.Minute)
				s.releaseUser(u)
				synctest.Wait()
				if got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
			})
		})
	}
}

func TestSourceThatIsStillUsedKeepsItsToken(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, u := startSource(t, f, func(u *sourceUser) {
			u.owner = fakeOwner{removed: func(*grantedToken) { t.Error("the token was handed over") }}
		})
		wantToken(t, s, "token-1")
		startSource(t, f)
		s.releaseUser(u)
		synctest.Wait()
	})
}

func TestPanicWhileATokenIsHandedOver(t *testing.T) {
	simulated(t, func(t *testing.T) {
		s, u := startSource(t, &fakeFetcher{}, func(u *sourceUser) {
			u.owner = fakeOwner{removed: func(*grantedToken) { panic("hunter2") }}
		})
		wantToken(t, s, "token-1")
		s.releaseUser(u)
		synctest.Wait()
	})
}

func TestUsersComeAndGoUnderLoad(t *testing.T) {
	var f fakeFetcher
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				u := &sourceUser{name: "billing", fetcher: &f, warm: true}
				s := acquireTokenSource(testIdentity(t), u)
				s.start(u)
				token, err := s.Token(t.Context())
				if err != nil {
					t.Errorf("no token: %v", err)
					return
				}
				s.reject(t.Context(), token)
				_ = s.refresh(t.Context())
				_ = s.status()
				s.retryInBackground()
				s.releaseUser(u)
			}
		})
	}
	all.Wait()
	if pool.sources[testIdentity(t)] != nil {
		t.Error("the source is still in the pool")
	}
}

func TestManySourcesDoNotRefreshAtOneMoment(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		for i := range 1000 {
			u := &sourceUser{name: "billing", fetcher: f, warm: true}
			s := acquireTokenSource(testIdentity(t, i), u)
			s.start(u)
			defer s.releaseUser(u)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		perSecond := map[int64]int{}
		for _, call := range f.calls[1000:] {
			perSecond[call.Unix()]++
		}
		for second, calls := range perSecond {
			if calls > 60 {
				t.Errorf("%d of 1000 at second %d", calls, second)
			}
		}
	})
}

func TestErrorsOfOthersAreNotShared(t *testing.T) {
	simulated(t, func(t *testing.T) {
		s, _ := startSource(t, &fakeFetcher{answer: fails(errTestOutage)})
		first, second := wantFailure(t, s, errTestOutage), wantFailure(t, s, errTestOutage)
		if first == second || first == errTestOutage {
			t.Error("one error for two requests inside the back-off")
		}
		if errors.Is(first, errTestOutage) {
			t.Error("not a copy")
		}
	})
}

// TestReleasedUsersAreForgotten because each holds all of its config.
func TestReleasedUsersAreForgotten(t *testing.T) {
	acquire := func() (*tokenSource, *sourceUser) {
		u := new(sourceUser)
		return acquireTokenSource(testIdentity(t), u), u
	}
	// Two connections that share their tokens, and a reload.
	s, first := acquire()
	_, second := acquire()
	_, third := acquire()
	_, fourth := acquire()
	old := []weak.Pointer[sourceUser]{weak.Make(first), weak.Make(second)}
	s.releaseUser(first)
	s.releaseUser(second)
	runtime.GC()
	for i, u := range old {
		if u.Value() != nil {
			t.Errorf("user %d is kept", i+1)
		}
	}
	s.releaseUser(third)
	s.releaseUser(fourth)
}
