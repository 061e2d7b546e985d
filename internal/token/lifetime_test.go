package token

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

// at returns now with each of its clocks moved by its own amount.
func at(now time.Time, wall, monotonic time.Duration) time.Time {
	moved := now.Add(wall)
	// No function of package time moves one clock alone. The monotonic reading is the second word.
	reading := (*[2]int64)(unsafe.Pointer(&moved))
	reading[1] += int64(monotonic - wall)
	return moved
}

// clocks is a wall clock and a monotonic one that a test moves apart.
type clocks struct{ wall, monotonic atomic.Int64 }

func (c *clocks) now() time.Time {
	return at(time.Now(), time.Duration(c.wall.Load()), time.Duration(c.monotonic.Load()))
}

func (c *clocks) move(wall, monotonic time.Duration) {
	c.wall.Add(int64(wall))
	c.monotonic.Add(int64(monotonic))
}

func TestElapsedIsTheClockThatAdvancedFurther(t *testing.T) {
	start := time.Now()
	for name, test := range map[string]struct{ wall, monotonic, want time.Duration }{
		"both":                    {time.Minute, time.Minute, time.Minute},
		"suspended":               {time.Hour, time.Minute, time.Hour},
		"clock set forward":       {24 * time.Hour, time.Second, 24 * time.Hour},
		"clock set back":          {-time.Hour, time.Minute, time.Minute},
		"clock set back a little": {time.Second, time.Minute, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			if got := clock.Elapsed(start, at(start, test.wall, test.monotonic)); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestExpiryIsTheEarlierOfBothClocks(t *testing.T) {
	for name, test := range map[string]struct {
		wall, monotonic time.Duration
		usable          bool
	}{
		"fresh":                    {time.Minute, time.Minute, true},
		"suspended":                {2 * time.Hour, time.Minute, false},
		"before the hard margin":   {time.Hour - 10*time.Second, time.Minute, true},
		"inside the hard margin":   {time.Hour - 5*time.Second, time.Minute, false},
		"clock set back, fresh":    {-24 * time.Hour, time.Minute, true},
		"clock set back, too old":  {-24 * time.Hour, time.Hour, false},
		"monotonic in hard margin": {time.Minute, time.Hour - 5*time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			var c clocks
			f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
				token := tokentest.Token(call, time.Hour)
				token.Sent = c.now()
				return token, nil
			}}
			s, _ := acquireTestSource(t, f)
			s.now = c.now
			tokentest.WantToken(t, s, "token-1")
			c.move(test.wall, test.monotonic)
			if got := s.Current() != nil; got != test.usable {
				t.Fatalf("usable: %v", got)
			}
			if !test.usable {
				tokentest.WantToken(t, s, "token-2")
			}
		})
	}
}

func TestRefreshMargin(t *testing.T) {
	for name, test := range map[string]struct {
		life, refreshBefore, hard, want time.Duration
	}{
		"a day":                       {24 * time.Hour, 0, 5 * time.Second, 5 * time.Minute},
		"an hour":                     {time.Hour, 0, 5 * time.Second, 5 * time.Minute},
		"twenty minutes":              {20 * time.Minute, 0, 5 * time.Second, 4 * time.Minute},
		"a hundred seconds":           {100 * time.Second, 0, 5 * time.Second, 20 * time.Second},
		"forty seconds":               {40 * time.Second, 0, 4 * time.Second, 8 * time.Second},
		"a second":                    {time.Second, 0, 100 * time.Millisecond, 200 * time.Millisecond},
		"refresh_before":              {time.Hour, 10 * time.Minute, 5 * time.Second, 10 * time.Minute},
		"refresh_before too large":    {time.Hour, 2 * time.Hour, 5 * time.Second, 30 * time.Minute},
		"refresh_before too small":    {time.Hour, time.Second, 5 * time.Second, 10 * time.Second},
		"refresh_before and a second": {time.Second, time.Hour, 100 * time.Millisecond, 500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			if got := hardMargin(test.life); got != test.hard {
				t.Errorf("hard margin %v, want %v", got, test.hard)
			}
			if got := refreshMargin(test.life, test.refreshBefore); got != test.want {
				t.Errorf("refresh margin %v, want %v", got, test.want)
			}
		})
	}
}

func TestRefreshIsJittered(t *testing.T) {
	const life, margin = time.Hour, 5 * time.Minute
	least, most := life, time.Duration(0)
	for range 1000 {
		c := newCached(tokentest.Token(1, life), nil, 0, time.Now())
		least, most = min(least, life-c.refreshAfter), max(most, life-c.refreshAfter)
	}
	if least < margin*9/10 || most > margin*11/10 {
		t.Errorf("margins from %v to %v", least, most)
	}
	if least > margin*92/100 || most < margin*108/100 {
		t.Errorf("margins only from %v to %v", least, most)
	}
}

func TestJitterStaysWithinTheBounds(t *testing.T) {
	for range 1000 {
		short := newCached(tokentest.Token(1, 10*time.Second), nil, 0, time.Now())
		if margin := short.Lifetime - short.refreshAfter; margin < 2*time.Second {
			t.Fatalf("margin %v is under twice the hard margin", margin)
		}
		long := newCached(tokentest.Token(1, time.Hour), nil, 24*time.Hour, time.Now())
		if margin := long.Lifetime - long.refreshAfter; margin > 30*time.Minute {
			t.Fatalf("margin %v is over half of the life", margin)
		}
	}
}

func TestSameTokenIsRefreshedLate(t *testing.T) {
	now := time.Now()
	held := func(age, life time.Duration, dated bool) *oauth.Token {
		return &oauth.Token{Value: "always", Sent: now.Add(-age), Lifetime: life, HasExpiresIn: dated}
	}
	for name, test := range map[string]struct {
		before, again *oauth.Token
		age           time.Duration // of the cached token
		refreshAfter  time.Duration
	}{
		"dated":                    {held(80*time.Second, 100*time.Second, true), held(0, 20*time.Second, true), 0, 16 * time.Second},
		"undated":                  {held(80*time.Second, 100*time.Second, true), held(0, 300*time.Second, false), 80 * time.Second, 90 * time.Second},
		"undated, near its end":    {held(91*time.Second, 100*time.Second, true), held(0, 300*time.Second, false), 91 * time.Second, 93 * time.Second},
		"undated, at its very end": {held(94800*time.Millisecond, 100*time.Second, true), held(0, 300*time.Second, false), 94800 * time.Millisecond, 95 * time.Second},
		"undated, dead":            {held(95*time.Second, 100*time.Second, true), held(0, 300*time.Second, false), 0, 290 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			before := newCached(test.before, nil, 0, now)
			c := newCached(test.again, before, 0, now)
			if got := clock.Elapsed(c.Sent, now); got != test.age {
				t.Errorf("age %v, want %v", got, test.age)
			}
			if c.refreshAfter != test.refreshAfter {
				t.Errorf("refresh after %v, want %v", c.refreshAfter, test.refreshAfter)
			}
		})
	}
}

func TestShortLifeDoesNotMeanARequestPerCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: grants(time.Second)}
		s, _ := startSource(t, f)
		for range 10000 { // ten seconds
			tokentest.MustToken(t, s)
			time.Sleep(time.Millisecond)
		}
		if got := f.Count(); got > 14 {
			t.Errorf("%d token requests in 10s", got)
		}
	})
}

func TestSameTokenDoesNotLoop(t *testing.T) {
	death := 100 * time.Second
	for name, test := range map[string]struct {
		life  func(left time.Duration) time.Duration
		dated bool
		most  int // requests within one life
	}{
		// The server says what is left of the token's life.
		"shrinking": {func(left time.Duration) time.Duration { return max(left, time.Second) }, true, 8},
		// The server says the whole life each time.
		"constant": {func(time.Duration) time.Duration { return 100 * time.Second }, true, 3},
		// The server says nothing: default_lifetime.
		"undated": {func(time.Duration) time.Duration { return 100 * time.Second }, false, 8},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				birth := time.Now()
				f := &tokentest.Fetcher{Respond: func(context.Context, int) (*oauth.Token, error) {
					return &oauth.Token{Value: "always", Lifetime: test.life(death - time.Since(birth)), HasExpiresIn: test.dated}, nil
				}}
				s, _ := startSource(t, f)
				for range 98000 {
					token := tokentest.MustToken(t, s)
					if age := time.Since(token.Sent); age >= token.Lifetime-hardMargin(token.Lifetime) {
						t.Fatalf("got a token %v old that lives %v", age, token.Lifetime)
					}
					time.Sleep(time.Millisecond)
				}
				if got := f.Count(); got < 2 || got > test.most {
					t.Errorf("%d token requests", got)
				}
				for i := 1; i < len(f.Calls); i++ {
					if pause := f.Calls[i].Sub(f.Calls[i-1]); pause < lookPause {
						t.Errorf("request %d came %v after the one before", i+1, pause)
					}
				}
			})
		})
	}
}

func TestUndatedSameTokenGetsNoYoungerUntilItDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(context.Context, int) (*oauth.Token, error) {
			return &oauth.Token{Value: "always", Lifetime: 100 * time.Second}, nil
		}}
		s, _ := startSource(t, f)
		first := tokentest.MustToken(t, s)
		time.Sleep(85 * time.Second)
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if again := tokentest.MustToken(t, s); !again.Sent.Equal(first.Sent) || again.Lifetime != first.Lifetime {
			t.Errorf("sent %v later", again.Sent.Sub(first.Sent))
		}
		time.Sleep(10 * time.Second)
		if newer := tokentest.MustToken(t, s); newer.Sent.Equal(first.Sent) {
			t.Error("the token is dead for ever")
		}
		tokentest.WantCalls(t, f, 3)
	})
}
