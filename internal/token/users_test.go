package token

import (
	"context"
	"crypto/tls"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

func TestRejectedTokenIsReplacedOnce(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		refused := tokentest.MustToken(t, s)
		synctest.Wait()
		f.Slow(time.Second)
		for _, o := range crowd(func() (*oauth.Token, error) { return s.Replace(t.Context(), refused), nil }) {
			if o.token == nil || o.token.Value != "token-2" {
				t.Fatalf("got %v", o.token)
			}
		}
		tokentest.WantCalls(t, f, 2)
		if late := s.Replace(t.Context(), refused); late == nil || late.Value != "token-2" {
			t.Errorf("a latecomer got %v", late)
		}
		tokentest.WantCalls(t, f, 2)
		tokentest.WantToken(t, s, "token-2")
		if got := s.Status().Rejected; got != 1 {
			t.Errorf("%d rejections", got)
		}
	})
}

func TestAPIThatRejectsEveryTokenCostsLittle(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: 50 * time.Millisecond}
		s, _ := startSource(t, f)
		tokentest.MustToken(t, s)
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
					if newer := s.Replace(t.Context(), token); newer != nil {
						s.Replace(t.Context(), newer)
					}
					time.Sleep(30 * time.Millisecond)
				}
			})
		}
		all.Wait()
		tokentest.WantCalls(t, f, 1+6)
		for i := 2; i < len(f.Calls); i++ {
			if pause := f.Calls[i].Sub(f.Calls[i-1]); pause < minReplacePause {
				t.Errorf("token requests %v apart", pause)
			}
		}
	})
}

func TestTokenInHandIsUsedOnAfterASecondRejection(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		newer := s.Replace(t.Context(), tokentest.MustToken(t, s))
		if again := s.Replace(t.Context(), newer); again != nil {
			t.Errorf("got %v", again)
		}
		tokentest.WantToken(t, s, "token-2")
		time.Sleep(minReplacePause)
		if again := s.Replace(t.Context(), newer); again == nil || again.Value != "token-3" {
			t.Errorf("got %v", again)
		}
	})
}

func TestRejectionThatYieldsTheSameToken(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(context.Context, int) (*oauth.Token, error) {
			return &oauth.Token{Value: "always", Lifetime: time.Hour}, nil
		}}
		s, _ := startSource(t, f)
		for range 100 {
			if newer := s.Replace(t.Context(), tokentest.MustToken(t, s)); newer != nil {
				t.Fatalf("got %v", newer)
			}
		}
		tokentest.WantToken(t, s, "always")
		tokentest.WantCalls(t, f, 2)
	})
}

func TestRejectionInsideTheBackoff(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		refused := tokentest.MustToken(t, s)
		synctest.Wait()
		f.SetRespond(fails(errTestOutage))
		if err := s.Refresh(t.Context()); err == nil {
			t.Fatal("the refresh did not fail")
		}
		if newer := s.Replace(t.Context(), refused); newer != nil {
			t.Errorf("got %v", newer)
		}
		tokentest.WantCalls(t, f, 2)
		wantFailure(t, s, errTestOutage)
	})
}

func TestRejectionWhileTheEndpointFails(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		refused := tokentest.MustToken(t, s)
		synctest.Wait()
		f.SetRespond(fails(errTestOutage))
		if newer := s.Replace(t.Context(), refused); newer != nil {
			t.Errorf("got %v", newer)
		}
		wantFailure(t, s, errTestOutage)
		f.SetRespond(nil)
		time.Sleep(2 * time.Second)
		tokentest.WantToken(t, s, "token-3")
	})
}

func TestRejectionBySomebodyWhoDoesNotWait(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		refused := tokentest.MustToken(t, s)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if newer := s.Replace(ctx, refused); newer != nil {
			t.Errorf("got %v", newer)
		}
		tokentest.WantCalls(t, f, 1)
		tokentest.WantToken(t, s, "token-2")
	})
}

func TestRejectingWaitEndsWithTheClient(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		refused := tokentest.MustToken(t, s)
		synctest.Wait()
		f.Slow(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if newer := s.Replace(ctx, refused); newer != nil || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", newer, time.Since(start))
		}
		tokentest.WantToken(t, s, "token-2")
		tokentest.WantCalls(t, f, 2)
	})
}

func TestWarmSourceKeepsATokenReady(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: grants(100 * time.Second)}
		s, u := acquireTestSource(t, f, warm)
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, 0) // its config does not run

		s.Start(u)
		tokentest.WantCalls(t, f, 1)
		for range 3600 {
			time.Sleep(time.Second)
			synctest.Wait()
			if s.Current() == nil {
				t.Fatal("there is no token ready")
			}
		}
		// One in about 80 seconds.
		if got := f.Count(); got < 43 || got > 48 {
			t.Errorf("%d token requests in an hour", got)
		}

		calls := f.Count()
		s.releaseUser(u)
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, calls)
	})
}

func TestWarmSourceGoesOnTrying(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestOutage)}
		s, _ := startSource(t, f, warm)
		time.Sleep(20 * time.Second)
		// After 1s, 2s, 4s and 8s.
		if got := f.Count(); got < 4 || got > 6 {
			t.Errorf("%d attempts in 20s", got)
		}
		synctest.Wait()
		f.SetRespond(nil)
		time.Sleep(20 * time.Second)
		if s.Current() == nil {
			t.Error("there is no token ready")
		}
	})
}

func TestWarmSourceReplacesARejectedToken(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f, warm)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s.Replace(ctx, tokentest.MustToken(t, s))
		synctest.Wait()
		if token := s.Current(); token == nil || token.Value != "token-2" {
			t.Errorf("holds %v", token)
		}
	})
}

// The timers of a machine that sleeps stand still.
func TestWarmSourceNoticesASuspend(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		var asleep atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(asleep.Load())) }
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			token := tokentest.Token(call, time.Hour)
			token.Sent = now()
			return token, nil
		}}
		s, u := acquireTestSource(t, f, warm)
		s.now = now
		s.Start(u)
		tokentest.WantCalls(t, f, 1)
		asleep.Store(int64(10 * time.Hour))
		time.Sleep(maxTimer)
		tokentest.WantCalls(t, f, 2)
	})
}

func TestSourceIsWarmAsLongAsOneUserIs(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		tokentest.WantCalls(t, f, 0)
		_, hot := startSource(t, f, warm)
		tokentest.WantCalls(t, f, 1)
		time.Sleep(85 * time.Second)
		synctest.Wait()
		calls := f.Count()
		s.releaseUser(hot)
		if s.Current() == nil {
			t.Error("the token went with the warm user")
		}
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, calls)
	})
}

func TestWarmReloadFetchesNothing(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		startSource(t, f, warm)
		tokentest.WantCalls(t, f, 1)
	})
}

func TestHealthCheckKeepsAFailedSourceTrying(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestOutage)}
		s, u := startSource(t, f)
		s.RetryInBackground()
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, 0) // nothing has failed yet

		wantFailure(t, s, errTestOutage)
		time.Sleep(10 * time.Minute)
		if got := f.Count(); got < 12 || got > 20 {
			t.Errorf("%d attempts in ten minutes", got)
		}

		synctest.Wait()
		f.SetRespond(grants(100 * time.Second))
		time.Sleep(time.Minute)
		if s.Current() == nil {
			t.Error("it does not recover")
		}
		calls := f.Count()
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, calls) // it has had a token
		s.releaseUser(u)
	})
}

func TestFailedSourceRestsUntilAHealthCheckAsks(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestOutage)}
		s, u := startSource(t, f)
		wantFailure(t, s, errTestOutage)
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, 1)

		s.RetryInBackground() // the back-off is long over
		tokentest.WantCalls(t, f, 2)
		s.RetryInBackground()
		tokentest.WantCalls(t, f, 2)
		time.Sleep(3 * time.Second)
		tokentest.WantCalls(t, f, 3)

		s.releaseUser(u)
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, 3)
	})
}

func TestHealthCheckLeavesASourceThatHasWorkedAlone(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call == 1 {
				return tokentest.Token(call, time.Second), nil
			}
			return nil, errTestOutage
		}}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		time.Sleep(time.Second)
		wantFailure(t, s, errTestOutage)
		s.RetryInBackground()
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, 2)
	})
}

func TestReloadsKeepTheToken(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second}
		var current atomic.Pointer[Source]
		s, u := startSource(t, f)
		current.Store(s)
		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		for range 10 {
			load.Go(func() {
				for ctx.Err() == nil {
					if token, err := current.Load().Token(t.Context()); err != nil || token.Value != "token-1" {
						t.Errorf("got %v, %v", token, err)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		for i := range 50 {
			next, v := acquireTestSource(t, f, func(v *User) { v.Warm = i%2 == 0 })
			next.Start(v)
			current.Store(next)
			time.Sleep(5 * time.Millisecond)
			s.releaseUser(u)
			s.releaseUser(u) // a module may be cleaned up twice
			s, u = next, v
			time.Sleep(50 * time.Millisecond)
		}
		stop()
		load.Wait()
		tokentest.WantCalls(t, f, 1)
	})
}

func TestRejectedReloadChangesNothing(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f, other := &tokentest.Fetcher{}, &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		failing, v := acquireTestSource(t, other, warm, func(v *User) {
			v.Timeout, v.RefreshBefore = time.Hour, 30*time.Minute
		})
		if failing != s {
			t.Fatal("not the same source")
		}
		synctest.Wait()
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := s.Status(); st.Expires.Sub(st.Refresh) > 6*time.Minute {
			t.Errorf("refreshed %v before expiry", st.Expires.Sub(st.Refresh))
		}
		time.Sleep(2 * time.Hour)
		tokentest.WantCalls(t, f, 2) // not warm
		failing.releaseUser(v)
		failing.Start(v) // too late
		time.Sleep(24 * time.Hour)
		tokentest.WantCalls(t, other, 0)
		tokentest.WantCalls(t, f, 2)
		if s.Current() == nil {
			tokentest.WantToken(t, s, "token-3")
		}
		if len(s.users) != 1 {
			t.Errorf("%d users", len(s.users))
		}
	})
}

func TestNewestConfigFetches(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		first := &tokentest.Fetcher{}
		second := &tokentest.Fetcher{Respond: func(context.Context, int) (*oauth.Token, error) { return tokentest.Token(2, time.Hour), nil }}
		s, u := startSource(t, first)
		tokentest.WantToken(t, s, "token-1")
		_, v := startSource(t, second, func(v *User) { v.RefreshBefore = 20 * time.Minute })
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		tokentest.WantCalls(t, first, 1)
		tokentest.WantCalls(t, second, 1)
		if st := s.Status(); st.Expires.Sub(st.Refresh) < 18*time.Minute {
			t.Errorf("refreshed %v before expiry", st.Expires.Sub(st.Refresh))
		}
		s.releaseUser(u)
		if s.primary() != v || s.lastUser != nil {
			t.Error("the old config is still held")
		}
	})
}

func TestConfigThatGoesAgainLeavesTheOldOneInCharge(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		first, second := &tokentest.Fetcher{}, &tokentest.Fetcher{}
		s, _ := startSource(t, first)
		_, v := startSource(t, second)
		s.releaseUser(v)
		tokentest.WantToken(t, s, "token-1")
		tokentest.WantCalls(t, first, 1)
		tokentest.WantCalls(t, second, 0)
	})
}

func TestRequestsInFlightOutliveTheSource(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: grants(100 * time.Second)}
		s, u := startSource(t, f, warm)
		tokentest.WantToken(t, s, "token-1")
		s.releaseUser(u)
		if s.pooled() {
			t.Error("the source is still in the pool")
		}
		tokentest.WantToken(t, s, "token-1")
		time.Sleep(85 * time.Second)
		tokentest.WantToken(t, s, "token-1")
		tokentest.WantCalls(t, f, 1) // no refresh ahead any more
		time.Sleep(10 * time.Second)
		tokentest.WantToken(t, s, "token-2")
		if newer := s.Replace(t.Context(), tokentest.MustToken(t, s)); newer == nil || newer.Value != "token-3" {
			t.Errorf("got %v", newer)
		}
		s.RetryInBackground()
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, 3)
		if s.timer != nil {
			t.Error("a timer is set")
		}
	})
}

func TestReleaseDuringAnAttempt(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second}
		s, u := startSource(t, f, warm)
		waiting := make(chan result)
		go func() {
			token, err := s.Token(t.Context())
			waiting <- result{token: token, err: err}
		}()
		synctest.Wait()
		s.releaseUser(u)
		if o := <-waiting; o.err != nil || o.token.Value != "token-1" {
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
			tokentest.Simulated(t, func(t *testing.T) {
				var got string
				f := &tokentest.Fetcher{Respond: grants(test.life)}
				s, u := acquireTestSource(t, f, func(u *User) {
					u.Observer = fakeOwner{removed: func(token *oauth.Token) { got = token.Value }}
				})
				if test.started {
					s.Start(u)
				}
				if test.granted {
					tokentest.WantToken(t, s, "token-1")
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
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, u := startSource(t, f, func(u *User) {
			u.Observer = fakeOwner{removed: func(*oauth.Token) { t.Error("the token was handed over") }}
		})
		tokentest.WantToken(t, s, "token-1")
		startSource(t, f)
		s.releaseUser(u)
		synctest.Wait()
	})
}

func TestPanicWhileATokenIsHandedOver(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		s, u := startSource(t, &tokentest.Fetcher{}, func(u *User) {
			u.Observer = fakeOwner{removed: func(*oauth.Token) { panic("hunter2") }}
		})
		tokentest.WantToken(t, s, "token-1")
		s.releaseUser(u)
		synctest.Wait()
	})
}

func TestUsersComeAndGoUnderLoad(t *testing.T) {
	var f tokentest.Fetcher
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				u := &User{Name: "billing", Fetcher: &f, Warm: true}
				s := acquireTokenSource(testIdentity(t), u)
				s.Start(u)
				token, err := s.Token(t.Context())
				if err != nil {
					t.Errorf("no token: %v", err)
					return
				}
				s.Replace(t.Context(), token)
				_ = s.Refresh(t.Context())
				_ = s.Status()
				s.RetryInBackground()
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
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		for i := range 1000 {
			u := &User{Name: "billing", Fetcher: f, Warm: true}
			s := acquireTokenSource(testIdentity(t, i), u)
			s.Start(u)
			defer s.releaseUser(u)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		perSecond := map[int64]int{}
		for _, call := range f.Calls[1000:] {
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
	tokentest.Simulated(t, func(t *testing.T) {
		s, _ := startSource(t, &tokentest.Fetcher{Respond: fails(errTestOutage)})
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
	acquire := func() (*Source, *User) {
		u := new(User)
		return acquireTokenSource(testIdentity(t), u), u
	}
	// Two connections that share their tokens, and a reload.
	s, first := acquire()
	_, second := acquire()
	_, third := acquire()
	_, fourth := acquire()
	old := []weak.Pointer[User]{weak.Make(first), weak.Make(second)}
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

func TestExpiredTokenThatIsGone(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		s, _ := startSource(t, f)
		old := tokentest.MustToken(t, s)
		old.Certificate = new(tls.Certificate)
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Expire(old)
		tokentest.WantToken(t, s, "token-2")
		tokentest.WantCalls(t, f, 2)
	})
}

// TestExpiredTokenOfAWarmSource is replaced without a request.
func TestExpiredTokenOfAWarmSource(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		s, _ := startSource(t, f, warm)
		tokentest.WantCalls(t, f, 1)
		s.Expire(s.Current())
		tokentest.WantCalls(t, f, 2)
	})
}
