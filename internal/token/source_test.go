package token

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

func TestFirstRequestsShareOneTokenRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second}
		s, _ := startSource(t, f)
		for _, o := range crowd(func() (*oauth.Token, error) { return s.Token(t.Context()) }) {
			if o.err != nil || o.token.Value != "token-1" {
				t.Fatalf("got %v", o)
			}
		}
		tokentest.WantCalls(t, f, 1)
	})
}

func TestRequestsAfterExpiryShareOneTokenRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second, Respond: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		time.Sleep(100 * time.Second)
		for _, o := range crowd(func() (*oauth.Token, error) { return s.Token(t.Context()) }) {
			if o.err != nil || o.token.Value != "token-2" {
				t.Fatalf("got %v", o)
			}
		}
		tokentest.WantCalls(t, f, 2)
	})
}

func TestRequestsShareAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second, Respond: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		end := time.Now().Add(time.Second)
		for _, o := range crowd(func() (*oauth.Token, error) { return s.Token(t.Context()) }) {
			var failed *oauth.Error
			if !errors.As(o.err, &failed) || failed.Code != "invalid_client" || failed.RetryAfter < time.Second {
				t.Fatalf("got %+v", o)
			}
			if !o.at.Equal(end) {
				t.Fatalf("failed %v after the attempt's end", o.at.Sub(end))
			}
		}
		tokentest.WantCalls(t, f, 1)
	})
}

func TestWaiterLeavesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second}
		s, _ := startSource(t, f)
		stays := make(chan result)
		go func() {
			token, err := s.Token(t.Context())
			stays <- result{token: token, err: err}
		}()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if _, err := s.Token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		if waited := time.Since(start); waited != time.Second/2 {
			t.Fatalf("left after %v", waited)
		}
		if o := <-stays; o.err != nil || o.token.Value != "token-1" {
			t.Fatalf("the other got %+v", o)
		}
		tokentest.WantCalls(t, f, 1)
	})
}

func TestFetchGoesOnWithoutWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second}
		s, _ := startSource(t, f)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := s.Token(ctx); err == nil {
			t.Fatal("got a token too early")
		}
		time.Sleep(time.Second)
		if token := s.Current(); token == nil || token.Value != "token-1" {
			t.Fatalf("holds %v", token)
		}
	})
}

func TestRequestThatHasLeftStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Token(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		tokentest.WantCalls(t, f, 0)
	})
}

func TestRejectedTokenIsReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		f.SetTakes(time.Second)
		for _, o := range crowd(func() (*oauth.Token, error) { return s.Replace(t.Context(), rejected), nil }) {
			if o.token == nil || o.token.Value != "token-2" {
				t.Fatalf("got %v", o.token)
			}
		}
		tokentest.WantCalls(t, f, 2)
		if late := s.Replace(t.Context(), rejected); late == nil || late.Value != "token-2" {
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
	synctest.Test(t, func(t *testing.T) {
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

func TestTokenStaysInUseAfterASecondRejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
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
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		f.SetRespond(fails(errTestOutage))
		if err := s.Refresh(t.Context()); err == nil {
			t.Fatal("the refresh did not fail")
		}
		if newer := s.Replace(t.Context(), rejected); newer != nil {
			t.Errorf("got %v", newer)
		}
		tokentest.WantCalls(t, f, 2)
		wantFailure(t, s, errTestOutage)
	})
}

func TestRejectionWhileTheEndpointFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		f.SetRespond(fails(errTestOutage))
		if newer := s.Replace(t.Context(), rejected); newer != nil {
			t.Errorf("got %v", newer)
		}
		wantFailure(t, s, errTestOutage)
		f.SetRespond(nil)
		time.Sleep(2 * time.Second)
		tokentest.WantToken(t, s, "token-3")
	})
}

func TestRejectionBySomebodyWhoDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if newer := s.Replace(ctx, rejected); newer != nil {
			t.Errorf("got %v", newer)
		}
		tokentest.WantCalls(t, f, 1)
		tokentest.WantToken(t, s, "token-2")
	})
}

func TestRejectingWaitEndsWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		f.SetTakes(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if newer := s.Replace(ctx, rejected); newer != nil || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", newer, time.Since(start))
		}
		tokentest.WantToken(t, s, "token-2")
		tokentest.WantCalls(t, f, 2)
	})
}

func TestHotPathAllocatesNothing(t *testing.T) {
	s, _ := startSource(t, &tokentest.Fetcher{})
	tokentest.MustToken(t, s)
	if got := testing.AllocsPerRun(1000, func() { _, _ = s.Token(t.Context()) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkToken(b *testing.B) {
	s := benchmarkSource(b)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = s.Token(b.Context())
	}
}

func BenchmarkTokenParallel(b *testing.B) {
	s := benchmarkSource(b)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, _ = s.Token(b.Context())
		}
	})
}

// BenchmarkTokenDuringBackoff is the hot path while refreshing the live token fails.
func BenchmarkTokenDuringBackoff(b *testing.B) {
	var failing atomic.Bool
	f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
		if failing.Load() {
			return nil, errTestOutage
		}
		token := tokentest.Token(call, time.Hour)
		token.Sent = token.Sent.Add(-58 * time.Minute)
		return token, nil
	}}
	u := &User{Name: "billing", Fetcher: f}
	s := acquireTokenSource(testKey(b), u)
	b.Cleanup(func() { s.releaseUser(u) })
	if err := s.Refresh(b.Context()); err != nil {
		b.Fatal(err)
	}
	failing.Store(true)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, _ = s.Token(b.Context())
		}
	})
}

func benchmarkSource(b *testing.B) *Source {
	u := &User{Name: "billing", Fetcher: &tokentest.Fetcher{}}
	s := acquireTokenSource(testKey(b), u)
	b.Cleanup(func() { s.releaseUser(u) })
	if err := s.Refresh(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s
}
