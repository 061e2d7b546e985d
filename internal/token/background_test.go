package token

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

// scale is how many connections the tests of many connections have; their aims are for 10000.
var scale = flag.Int("scale", 500, "connections in the tests of many connections")

// fleet is many sources whose tokens come from one host.
type fleet struct {
	sources       []*Source
	running, most atomic.Int64 // token requests at a time
	takes         time.Duration
	fetchers      []*tokentest.Fetcher
	life          time.Duration
}

func newFleet(t *testing.T, takes, life time.Duration, settings ...func(*User)) *fleet {
	t.Helper()
	c := &fleet{takes: takes, life: life}
	for i := range *scale {
		f := &tokentest.Fetcher{Respond: c.grant}
		u := &User{Name: fmt.Sprint("c", i), Host: t.Name(), Fetcher: f}
		for _, set := range settings {
			set(u)
		}
		s := acquireTokenSource(testKey(t, i), u)
		t.Cleanup(func() { s.releaseUser(u) })
		s.Start(u)
		c.sources, c.fetchers = append(c.sources, s), append(c.fetchers, f)
	}
	return c
}

func (c *fleet) grant(ctx context.Context, call int) (*oauth.Token, error) {
	sent := time.Now()
	running := c.running.Add(1)
	defer c.running.Add(-1)
	for most := c.most.Load(); running > most && !c.most.CompareAndSwap(most, running); most = c.most.Load() {
	}
	select {
	case <-time.After(c.takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	token := tokentest.Token(call, c.life)
	token.Sent = sent
	return token, nil
}

// TestManyRefreshesAreSpread has many warm connections get their first tokens at one moment. Their
// refreshes must neither come at one moment again nor ever be more than the host can bear.
func TestManyRefreshesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFleet(t, 50*time.Millisecond, time.Hour, warm)
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := c.most.Load(); got > maxInBackground {
			t.Errorf("%d token requests at a time, want at most %d", got, maxInBackground)
		}
		perSecond := make(map[int64]int)
		for _, f := range c.fetchers {
			if len(f.Calls) != 2 {
				t.Fatalf("%d token requests of one connection in an hour, want 2", len(f.Calls))
			}
			perSecond[f.Calls[1].Unix()]++
		}
		// The margin is 5 min ± 10 %: a minute, in which they come evenly.
		busiest := 0
		for _, n := range perSecond {
			busiest = max(busiest, n)
		}
		if even := *scale / 60; busiest > 2*even+15 {
			t.Errorf("%d refreshes in one second, %d would be even", busiest, even)
		}
	})
}

// TestRequestsDoNotQueue has a host that responds to refreshes slowly. A request without a token must
// not wait for its turn behind them.
func TestRequestsDoNotQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFleet(t, time.Second, time.Hour, warm)
		s := c.sources[len(c.sources)-1]
		asked := time.Now()
		tokentest.MustToken(t, s)
		if waited := time.Since(asked); waited > 2*time.Second {
			t.Errorf("the request waited %v for a token that takes 1s", waited)
		}
		time.Sleep(time.Duration(*scale/maxInBackground+2) * time.Second)
		synctest.Wait()
		for i, s := range c.sources {
			if s.Current() == nil {
				t.Fatalf("source %d has no token", i)
			}
		}
		if got := len(c.fetchers[len(c.fetchers)-1].Calls); got != 1 {
			t.Errorf("%d token requests, want 1: the turn in the queue was not needed any more", got)
		}
	})
}

// TestQueueEndsWithItsSource has sources go away while they wait for their turn.
func TestQueueEndsWithItsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newFleet(t, time.Second, time.Hour, warm)
		for _, s := range slices.Clone(c.sources) {
			for _, u := range slices.Clone(s.users) {
				s.releaseUser(u)
			}
		}
		time.Sleep(time.Duration(*scale) * time.Second)
		synctest.Wait()
		fetched := 0
		for _, f := range c.fetchers {
			fetched += len(f.Calls)
		}
		if fetched > maxInBackground {
			t.Errorf("%d token requests, although all sources were gone after the first %d", fetched, maxInBackground)
		}
	})
}

func TestRefreshAheadKeepsEverybodyFromWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		f.SetTakes(5 * time.Second)
		for range 10000 { // a thousand seconds
			start := time.Now()
			token := tokentest.MustToken(t, s)
			if waited := time.Since(start); waited != 0 {
				t.Fatalf("waited %v", waited)
			}
			if age := time.Since(token.Sent); age >= 95*time.Second {
				t.Fatalf("got a token %v old", age)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := f.Count(); got < 12 || got > 14 {
			t.Errorf("%d token requests in 1000s", got)
		}
	})
}

func TestIdleSourceMakesNoRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		if s.timer != nil {
			t.Error("a timer is set")
		}
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, 1)
	})
}

func TestFailedRefreshIsSilentWhileTheTokenLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call == 1 {
				return tokentest.Token(call, 100*time.Second), nil
			}
			return nil, errTestOutage
		}}
		s, _ := startSource(t, f)
		obtained := time.Now()
		for time.Since(obtained) < 95*time.Second {
			tokentest.WantToken(t, s, "token-1")
			time.Sleep(50 * time.Millisecond)
		}
		synctest.Wait()
		// Refreshed first after about 80s, then after 1s, 2s, 4s and 8s more.
		if got := f.Count() - 1; got < 3 || got > 5 {
			t.Errorf("%d attempts to refresh", got)
		}
		wantFailure(t, s, errTestOutage)
	})
}

func TestRefreshRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call == 2 {
				return nil, errTestOutage
			}
			return tokentest.Token(call, 100*time.Second), nil
		}}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		time.Sleep(85 * time.Second)
		tokentest.WantToken(t, s, "token-1")
		tokentest.WantCalls(t, f, 2)
		tokentest.WantToken(t, s, "token-1")
		tokentest.WantCalls(t, f, 2)
		time.Sleep(1500 * time.Millisecond)
		tokentest.WantToken(t, s, "token-1")
		tokentest.WantCalls(t, f, 3)
		tokentest.WantToken(t, s, "token-3")
	})
}

func TestWarmSourceKeepsATokenReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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

// TestWarmSourceNoticesASuspend: timers stand still while a machine sleeps.
func TestWarmSourceNoticesASuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		startSource(t, f, warm)
		tokentest.WantCalls(t, f, 1)
	})
}

// probe has a health check ask every ten seconds for a while.
func probe(s *Source, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Second) {
		s.RetryInBackground()
	}
}

func TestHealthCheckKeepsAFailedSourceTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestOutage)}
		s, u := startSource(t, f)
		probe(s, time.Hour)
		tokentest.WantCalls(t, f, 0) // nothing has failed yet

		wantFailure(t, s, errTestOutage)
		probe(s, 10*time.Minute)
		if got := f.Count(); got < 12 || got > 20 {
			t.Errorf("%d attempts in ten minutes", got)
		}

		synctest.Wait()
		f.SetRespond(grants(100 * time.Second))
		probe(s, time.Minute)
		if s.Current() == nil {
			t.Error("it does not recover")
		}
		calls := f.Count()
		probe(s, time.Hour)
		tokentest.WantCalls(t, f, calls) // its last attempt has not failed
		s.releaseUser(u)
	})
}

func TestFailedSourceRestsUntilAHealthCheckAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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

func TestFailedSourceRestsWhenNoHealthCheckAsksAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestOutage)}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTestOutage)
		s.RetryInBackground()
		time.Sleep(4 * time.Minute)
		calls := f.Count()
		time.Sleep(time.Minute)
		if f.Count() == calls {
			t.Error("no attempt in the fifth minute")
		}
		calls = f.Count()
		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, calls)
	})
}

// TestHealthCheckKeepsASourceTryingThatHasWorked, once its token is gone, so that readiness comes back by
// itself (rule 24).
func TestHealthCheckKeepsASourceTryingThatHasWorked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		f.SetRespond(fails(errTestConfiguration))
		time.Sleep(85 * time.Second)
		tokentest.WantToken(t, s, "token-1") // and it is refreshed
		probe(s, 10*time.Second)
		tokentest.WantCalls(t, f, 2) // the token still lives

		time.Sleep(time.Hour)
		tokentest.WantCalls(t, f, 2) // nobody asks
		probe(s, 10*time.Minute)
		if got := f.Count(); got < 12 || got > 22 {
			t.Errorf("%d attempts in ten minutes", got-2)
		}
		f.SetRespond(grants(100 * time.Second))
		probe(s, time.Minute)
		if s.Current() == nil {
			t.Error("it does not recover")
		}
	})
}

// TestExpiredTokenOfAWarmSource is replaced without a request.
func TestExpiredTokenOfAWarmSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		s, _ := startSource(t, f, warm)
		tokentest.WantCalls(t, f, 1)
		s.Expire(s.Current())
		tokentest.WantCalls(t, f, 2)
	})
}

func TestManySourcesDoNotRefreshAtOneMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		for i := range 1000 {
			u := &User{Name: "billing", Fetcher: f, Warm: true}
			s := acquireTokenSource(testKey(t, i), u)
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
