package token

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

// endingToken is a token as the response {"expires_in": 0} yields it.
func endingToken(value string) *oauth.Token {
	return &oauth.Token{Value: value, Lifetime: time.Second, HasExpiresIn: true, Ending: true, Default: time.Minute}
}

func datedToken(value string, life time.Duration) *oauth.Token {
	return &oauth.Token{Value: value, Lifetime: life, HasExpiresIn: true, Default: time.Minute}
}

// TestNothingLeftOfALife has servers that say that nothing is left of a token's life. It lives a second,
// unless the next response says so too (rule 5).
func TestNothingLeftOfALife(t *testing.T) {
	for name, test := range map[string]struct {
		responses []*oauth.Token // the last one again and again
		requests  []int          // token requests after each second
	}{
		"once":               {[]*oauth.Token{endingToken("a"), datedToken("b", time.Minute)}, []int{1, 2, 2, 2, 2}},
		"always, new tokens": {[]*oauth.Token{endingToken("a"), endingToken("b"), endingToken("c")}, []int{1, 2, 2, 2, 2}},
		"always, the same":   {[]*oauth.Token{endingToken("a")}, []int{1, 2, 2, 2, 2}},
		"twice, then dated":  {[]*oauth.Token{endingToken("a"), endingToken("a"), datedToken("b", time.Minute)}, []int{1, 2, 2, 2, 2}},
		"now and then":       {[]*oauth.Token{endingToken("a"), datedToken("b", time.Second), endingToken("c"), datedToken("d", time.Minute)}, []int{1, 2, 3, 4, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
					next := *test.responses[min(call, len(test.responses))-1]
					next.Sent = time.Now()
					return &next, nil
				}}
				s, _ := startSource(t, f)
				for second, want := range test.requests {
					for range 100 {
						tokentest.MustToken(t, s)
						time.Sleep(10 * time.Millisecond)
					}
					// A request waits at the end of a second for the next look.
					if got := f.Count(); got != want && got != want+1 {
						t.Errorf("after %d seconds %d token requests, want %d", second+1, got, want)
					}
				}
				for i := 1; i < len(f.Calls); i++ {
					if pause := f.Calls[i].Sub(f.Calls[i-1]); pause < 790*time.Millisecond {
						t.Errorf("request %d came %v after the one before", i+1, pause)
					}
				}
			})
		})
	}
}

// TestDefaultLifetimeCountsWhereNothingIsMeant: a server that always says 0 is asked when the default
// lifetime ends.
func TestDefaultLifetimeCountsWhereNothingIsMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(context.Context, int) (*oauth.Token, error) {
			return endingToken("always"), nil
		}}
		s, _ := startSource(t, f)
		for range 3000 { // five minutes
			tokentest.MustToken(t, s)
			time.Sleep(100 * time.Millisecond)
		}
		if got := f.Count(); got < 6 || got > 40 {
			t.Errorf("%d token requests", got)
		}
	})
}

// TestATokenUntilItsLastSecond has a server that grants the same token until it dies and says how many
// whole seconds are left.
func TestATokenUntilItsLastSecond(t *testing.T) {
	for name, latency := range map[string]time.Duration{"at once": 0, "fast": 5 * time.Millisecond, "slow": 400 * time.Millisecond} {
		for _, life := range []time.Duration{2 * time.Second, 5 * time.Second, 10*time.Second + 700*time.Millisecond, 100 * time.Second} {
			t.Run(name+" "+life.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var born time.Time
					lives := 0
					f := &tokentest.Fetcher{Takes: latency, Respond: func(context.Context, int) (*oauth.Token, error) {
						if time.Since(born) >= life {
							born, lives = time.Now(), lives+1
						}
						left := (life - time.Since(born)).Truncate(time.Second)
						token := datedToken(born.String(), left)
						if left == 0 {
							token = endingToken(born.String())
						}
						return token, nil
					}}
					s, _ := startSource(t, f)
					dead, total := 0, 0
					for lives < 6 {
						total++
						if token := tokentest.MustToken(t, s); token.Value != born.String() || time.Since(born) >= life {
							dead++
						}
						time.Sleep(7 * time.Millisecond)
					}
					if dead > 0 {
						t.Errorf("%d of %d requests with a dead token", dead, total)
					}
					for i := 1; i < len(f.Calls); i++ {
						if pause := f.Calls[i].Sub(f.Calls[i-1]); pause < time.Second {
							t.Errorf("request %d came %v after the one before", i+1, pause)
						}
					}
				})
			})
		}
	}
}

// TestALookAgainEndsInTime: where token_timeout leaves no time to wait for the next look, the token lives
// a second, and a look that comes too early means nothing.
func TestALookAgainEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		responses := []*oauth.Token{datedToken("a", 2*time.Second), endingToken("a"), endingToken("a"), datedToken("b", time.Minute)}
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			next := *responses[min(call, len(responses))-1]
			next.Sent = time.Now()
			return &next, nil
		}}
		s, _ := startSource(t, f, func(u *User) { u.Timeout = 50 * time.Millisecond })
		for range 500 {
			tokentest.MustToken(t, s)
			time.Sleep(10 * time.Millisecond)
		}
		tokentest.WantToken(t, s, "b")
	})
}
