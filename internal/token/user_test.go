package token

import (
	"context"
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

func TestReloadsKeepTheToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
		tokentest.WantCalls(t, f, 1) // no longer refreshed ahead
		time.Sleep(15 * time.Second)
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
	synctest.Test(t, func(t *testing.T) {
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
			synctest.Test(t, func(t *testing.T) {
				var got string
				f := &tokentest.Fetcher{Respond: grants(test.life)}
				s, u := acquireTestSource(t, f, func(u *User) {
					u.Observer = fakeObserver{removed: func(token *oauth.Token) { got = token.Value }}
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
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, u := startSource(t, f, func(u *User) {
			u.Observer = fakeObserver{removed: func(*oauth.Token) { t.Error("the token was handed over") }}
		})
		tokentest.WantToken(t, s, "token-1")
		startSource(t, f)
		s.releaseUser(u)
		synctest.Wait()
	})
}

func TestPanicWhileATokenIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, u := startSource(t, &tokentest.Fetcher{}, func(u *User) {
			u.Observer = fakeObserver{removed: func(*oauth.Token) { panic("hunter2") }}
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
				s := acquireTokenSource(testKey(t), u)
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
	if pool.sources[testKey(t)] != nil {
		t.Error("the source is still in the pool")
	}
}

// TestReleasedUsersAreForgotten: a user keeps all of its config alive.
func TestReleasedUsersAreForgotten(t *testing.T) {
	acquire := func() (*Source, *User) {
		u := new(User)
		return acquireTokenSource(testKey(t), u), u
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
