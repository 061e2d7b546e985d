package token

import (
	"context"
	"errors"
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
