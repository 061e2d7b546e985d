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
		s := acquireTokenSource(testIdentity(t, i), u)
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
	tokentest.Simulated(t, func(t *testing.T) {
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

// TestRequestsDoNotQueue has a host that answers refreshes slowly. A request without a token must
// not wait for its turn behind them.
func TestRequestsDoNotQueue(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
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
	tokentest.Simulated(t, func(t *testing.T) {
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
