package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

func grants(life time.Duration) func(context.Context, int) (*oauth.Token, error) {
	return func(_ context.Context, call int) (*oauth.Token, error) { return tokentest.Token(call, life), nil }
}

func fails(err error) func(context.Context, int) (*oauth.Token, error) {
	return func(context.Context, int) (*oauth.Token, error) { return nil, err }
}

var (
	errTestConfiguration = &oauth.Error{Class: oauth.ClassConfiguration, Status: http.StatusBadGateway, Code: "invalid_client", Message: "refused"}
	errTestOutage        = &oauth.Error{Class: oauth.ClassOutage, Status: http.StatusServiceUnavailable, Message: "out of order"}
	errTestTransient     = &oauth.Error{Class: oauth.ClassOutage, Status: http.StatusServiceUnavailable, Message: "shaky", Transient: true}
)

// testIdentity is that of the test's tokens.
func testIdentity(t testing.TB, more ...any) Key {
	return sha256.Sum256(fmt.Append(nil, t.Name(), more))
}

// pool holds the sources of the tests by key, as the plugin does.
var pool struct {
	mu      sync.Mutex
	sources map[Key]*Source
}

// acquireTokenSource attaches u to the source of a key.
func acquireTokenSource(key Key, u *User) *Source {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	s := pool.sources[key]
	if s == nil {
		s = NewSource()
		if pool.sources == nil {
			pool.sources = make(map[Key]*Source)
		}
		pool.sources[key] = s
	}
	s.Attach(u)
	return s
}

// pooled reports whether a source is in the pool.
func (s *Source) pooled() bool {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	return slices.Contains(slices.Collect(maps.Values(pool.sources)), s)
}

// releaseUser detaches u, and ends the source with its last user.
func (s *Source) releaseUser(u *User) {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if s.Detach(u) && len(s.users) == 0 {
		maps.DeleteFunc(pool.sources, func(_ Key, other *Source) bool { return other == s })
		_ = s.Destruct()
	}
}

// startSource is a source with one started user, in the pool under the test's name.
func startSource(t *testing.T, f *tokentest.Fetcher, settings ...func(*User)) (*Source, *User) {
	t.Helper()
	s, u := acquireTestSource(t, f, settings...)
	s.Start(u)
	return s, u
}

func acquireTestSource(t *testing.T, f *tokentest.Fetcher, settings ...func(*User)) (*Source, *User) {
	t.Helper()
	u := &User{Name: "billing", Fetcher: f}
	for _, set := range settings {
		set(u)
	}
	s := acquireTokenSource(testIdentity(t), u)
	t.Cleanup(func() { s.releaseUser(u) })
	return s, u
}

// fakeOwner is an owner of a source's user that does this, if it is set.
type fakeOwner struct {
	endpoint string
	observed func(Event)
	removed  func(*oauth.Token)
}

func (o fakeOwner) Endpoint() string { return o.endpoint }

func (o fakeOwner) Observe(event Event) {
	if o.observed != nil {
		o.observed(event)
	}
}

func (o fakeOwner) Removed(last *oauth.Token) {
	if o.removed != nil {
		o.removed(last)
	}
}

func warm(u *User) { u.Warm = true }

func wantFailure(t *testing.T, s *Source, want *oauth.Error) *oauth.Error {
	t.Helper()
	token, err := s.Token(t.Context())
	if err == nil {
		t.Fatalf("got %s, want an error", token.Value)
	}
	var got *oauth.Error
	if !errors.As(err, &got) {
		t.Fatalf("got a %T, want a tokenError", err)
	}
	if got.Class != want.Class || got.Status != want.Status || got.Code != want.Code || got.Message != want.Message {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	return got
}

// result is what one of many requests got, and when.
type result struct {
	token *oauth.Token
	err   error
	at    time.Time
}

// crowd asks a thousand times at once.
func crowd(ask func() (*oauth.Token, error)) []result {
	outcomes := make([]result, 1000)
	var all sync.WaitGroup
	for i := range outcomes {
		all.Go(func() {
			token, err := ask()
			outcomes[i] = result{token, err, time.Now()}
		})
	}
	all.Wait()
	return outcomes
}

func TestFirstRequestsShareOneTokenRequest(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
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
	tokentest.Simulated(t, func(t *testing.T) {
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
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second, Respond: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		end := time.Now().Add(time.Second)
		for _, o := range crowd(func() (*oauth.Token, error) { return s.Token(t.Context()) }) {
			var failed *oauth.Error
			if !errors.As(o.err, &failed) || failed.Code != "invalid_client" || failed.RetryAfter < time.Second {
				t.Fatalf("got %+v", o)
			}
			if !o.at.Equal(end) {
				t.Fatalf("answered %v after the attempt's end", o.at.Sub(end))
			}
		}
		tokentest.WantCalls(t, f, 1)
	})
}

func TestWaiterLeavesAlone(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
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
	tokentest.Simulated(t, func(t *testing.T) {
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
	tokentest.Simulated(t, func(t *testing.T) {
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

func TestPanicIsAnOutage(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call == 1 {
				panic("hunter2")
			}
			return tokentest.Token(call, time.Hour), nil
		}}
		core, logs := observer.New(zap.DebugLevel)
		s, _ := startSource(t, f, func(u *User) { u.Logger = zap.New(core) })
		wantFailure(t, s, errPanicked)
		synctest.Wait()
		if panics := logs.FilterMessage("panic while fetching a token"); panics.Len() != 1 {
			t.Fatalf("logged %v", logs.All())
		}
		for _, entry := range logs.All() {
			if strings.Contains(fmt.Sprint(entry), "hunter2") {
				t.Fatalf("the panic's text is in the log: %v", entry)
			}
		}
		time.Sleep(2 * time.Second)
		tokentest.WantToken(t, s, "token-2")
	})
}

func TestUnknownErrorIsAnOutage(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		s, _ := startSource(t, &tokentest.Fetcher{Respond: fails(errors.New("hunter2"))})
		wantFailure(t, s, &oauth.Error{Class: oauth.ClassOutage, Status: 503, Message: "fetching a token failed"})
	})
}

// TestPanicWhileReadingCredentials inside of a back-off ends neither the process nor the back-off.
func TestPanicWhileReadingCredentials(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTestConfiguration)
		f.LookOnce(func() (string, error) { panic("hunter2") }, nil)
		wantFailure(t, s, errTestConfiguration)
	})
}

func TestTransientFailuresAreRetriedQuickly(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call < 3 {
				return nil, errTestTransient
			}
			return tokentest.Token(call, time.Hour), nil
		}}
		s, _ := startSource(t, f)
		start := time.Now()
		tokentest.WantToken(t, s, "token-3")
		if took := time.Since(start); took < 200*time.Millisecond || took > 600*time.Millisecond {
			t.Errorf("took %v", took)
		}
		synctest.Wait()
		if st := s.Status(); st.Requests != 3 || st.Failures != 2 || st.State != StateReady {
			t.Errorf("got %+v", st)
		}
	})
}

func TestRetriesEnd(t *testing.T) {
	for name, test := range map[string]struct {
		fetcher *tokentest.Fetcher
		calls   int
		want    *oauth.Error
	}{
		"transient":        {&tokentest.Fetcher{Respond: fails(errTestTransient)}, 3, errTestTransient},
		"outage":           {&tokentest.Fetcher{Respond: fails(errTestOutage)}, 1, errTestOutage},
		"configuration":    {&tokentest.Fetcher{Respond: fails(errTestConfiguration)}, 1, errTestConfiguration},
		"timeout":          {&tokentest.Fetcher{Takes: time.Minute}, 1, ErrTimeout},
		"second times out": {&tokentest.Fetcher{Takes: 6 * time.Second, Respond: fails(errTestTransient)}, 2, ErrTimeout},
		"no time left":     {&tokentest.Fetcher{Takes: 9990 * time.Millisecond, Respond: fails(errTestTransient)}, 1, errTestTransient},
	} {
		t.Run(name, func(t *testing.T) {
			tokentest.Simulated(t, func(t *testing.T) {
				s, _ := startSource(t, test.fetcher)
				start := time.Now()
				wantFailure(t, s, test.want)
				if took := time.Since(start); took > DefaultTokenTimeout {
					t.Errorf("took %v", took)
				}
				tokentest.WantCalls(t, test.fetcher, test.calls)
			})
		})
	}
}

func TestOutageAtTheDeadlineIsATimeout(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(ctx context.Context, _ int) (*oauth.Token, error) {
			<-ctx.Done()
			return nil, errTestTransient
		}}
		s, _ := startSource(t, f)
		wantFailure(t, s, ErrTimeout)
		tokentest.WantCalls(t, f, 1)
		if got := s.Status().LastError; got == nil || got.Message != ErrTimeout.Message {
			t.Errorf("remembered %+v", got)
		}
	})
}

func TestConfigurationErrorAtTheDeadlineStays(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(ctx context.Context, _ int) (*oauth.Token, error) {
			<-ctx.Done()
			return nil, errTestConfiguration
		}}
		s, _ := startSource(t, f)
		_, _ = s.Token(t.Context())
		synctest.Wait()
		wantFailure(t, s, errTestConfiguration)
	})
}

func TestTimeoutIsTheLongestOfTheUsers(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: 8 * time.Second}
		s, _ := startSource(t, f, func(u *User) { u.Timeout = 9 * time.Second })
		acquireTestSource(t, f, func(u *User) { u.Timeout = time.Hour }) // of a config that does not run
		startSource(t, f, func(u *User) { u.Timeout = 2 * time.Second })
		tokentest.WantToken(t, s, "token-1")

		f.Slow(time.Minute)
		start := time.Now()
		if err := s.Refresh(t.Context()); err == nil || time.Since(start) != 9*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestStuckFetcherKeepsNobodyWaiting(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		stuck := make(chan struct{})
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			<-stuck
			return tokentest.Token(call, time.Hour), nil
		}}
		s, _ := startSource(t, f)
		start := time.Now()
		for range 3 {
			if got := wantFailure(t, s, ErrTimeout); got.RetryAfter != time.Second {
				t.Errorf("retry after %v", got.RetryAfter)
			}
		}
		if took := time.Since(start); took != DefaultTokenTimeout {
			t.Errorf("took %v", took)
		}
		tokentest.WantCalls(t, f, 1)
		close(stuck)
		synctest.Wait()
		tokentest.WantToken(t, s, "token-1")
	})
}

func TestTokenThatComesTooLateIsNotSent(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		sent := time.Now()
		f := &tokentest.Fetcher{Takes: 9 * time.Second, Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			late := tokentest.Token(call, 5*time.Second)
			late.Sent = sent
			return late, nil
		}}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTooLate)
		if s.Current() != nil {
			t.Error("it is held")
		}
	})
}

func TestRefreshAheadKeepsEverybodyFromWaiting(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		f.Slow(5 * time.Second)
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
	tokentest.Simulated(t, func(t *testing.T) {
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
	tokentest.Simulated(t, func(t *testing.T) {
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
	tokentest.Simulated(t, func(t *testing.T) {
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

func TestShortLifeDoesNotMeanARequestPerCall(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
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
			tokentest.Simulated(t, func(t *testing.T) {
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
					if pause := f.Calls[i].Sub(f.Calls[i-1]); pause < minSameTokenPause {
						t.Errorf("request %d came %v after the one before", i+1, pause)
					}
				}
			})
		})
	}
}

func TestUndatedSameTokenGetsNoYoungerUntilItDies(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
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
		if anew := tokentest.MustToken(t, s); anew.Sent.Equal(first.Sent) {
			t.Error("the token is dead for ever")
		}
		tokentest.WantCalls(t, f, 3)
	})
}

func TestForcedRefresh(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")

		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := s.Refresh(t.Context()); err != nil {
					t.Errorf("refreshing: %v", err)
				}
			})
		}
		synctest.Wait()
		tokentest.WantToken(t, s, "token-1") // without waiting
		all.Wait()
		tokentest.WantCalls(t, f, 2)
		tokentest.WantToken(t, s, "token-2")

		f.SetRespond(fails(errTestConfiguration))
		var failed *oauth.Error
		if err := s.Refresh(t.Context()); !errors.As(err, &failed) || failed.Code != "invalid_client" {
			t.Errorf("got %v", err)
		}
		tokentest.WantToken(t, s, "token-2")
		if st := s.Status(); st.State != StateFailing {
			t.Errorf("state %s", st.State)
		}
	})
}

func TestForcedRefreshEndsTheBackoff(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		retry := *errTestOutage
		retry.RetryAfter = time.Minute
		f := &tokentest.Fetcher{Respond: fails(&retry)}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTestOutage)
		f.SetRespond(nil)
		wantFailure(t, s, errTestOutage)
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		tokentest.WantToken(t, s, "token-2")
	})
}

func TestRequestsWaitForAForcedRefreshInTheBackoff(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestOutage)}
		s, _ := startSource(t, f)
		for f.Count() < 5 {
			wantFailure(t, s, errTestOutage)
			time.Sleep(100 * time.Millisecond)
		}
		f.Slow(time.Second)
		go func() { _ = s.Refresh(t.Context()) }()
		synctest.Wait()
		start := time.Now()
		failed := wantFailure(t, s, errTestOutage)
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("waited %v", waited)
		}
		if failed.RetryAfter > 2*time.Second {
			t.Errorf("the back-off after it is %v", failed.RetryAfter)
		}
		tokentest.WantCalls(t, f, 6)
	})
}

func TestForcedRefreshLeavesWithItsCaller(t *testing.T) {
	tokentest.Simulated(t, func(t *testing.T) {
		s, _ := startSource(t, &tokentest.Fetcher{Takes: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := s.Refresh(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
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
	s := acquireTokenSource(testIdentity(b), u)
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
	s := acquireTokenSource(testIdentity(b), u)
	b.Cleanup(func() { s.releaseUser(u) })
	if err := s.Refresh(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s
}
