package httphelper

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
)

// fakeFetcher hands out token-1, token-2 and so on, each good for an hour, unless told otherwise.
type fakeFetcher struct {
	answer func(ctx context.Context, call int) (*grantedToken, error)
	looked func() (string, error)
	then   func() (string, error) // from the look after the next on
	takes  time.Duration

	mu    sync.Mutex
	calls []time.Time
	looks []time.Time
}

func (f *fakeFetcher) fetch(ctx context.Context) (*grantedToken, string, error) {
	fingerprint := f.fingerprint()
	t, err := f.request(ctx)
	return t, fingerprint, err
}

func (f *fakeFetcher) request(ctx context.Context) (*grantedToken, error) {
	f.mu.Lock()
	f.calls = append(f.calls, time.Now())
	call, takes, answer := len(f.calls), f.takes, f.answer
	f.mu.Unlock()
	sent := time.Now()
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if answer == nil {
		return tokenFor(call, time.Hour), nil
	}
	t, err := answer(ctx, call)
	if t != nil && t.sent.IsZero() {
		t.sent = sent
	}
	return t, err
}

func (f *fakeFetcher) fingerprint() string {
	f.mu.Lock()
	f.looks = append(f.looks, time.Now())
	looked := f.looked
	if f.then != nil {
		f.looked, f.then = f.then, nil
	}
	f.mu.Unlock()
	if looked == nil {
		return "same"
	}
	fingerprint, err := looked()
	if err != nil {
		return "unreadable: " + err.Error()
	}
	return fingerprint
}

// answers changes the answers from now on.
func (f *fakeFetcher) answers(answer func(context.Context, int) (*grantedToken, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// slow changes how long token requests take from now on.
func (f *fakeFetcher) slow(takes time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takes = takes
}

// lookOnce changes what the next look at the credentials finds, and what later ones do.
func (f *fakeFetcher) lookOnce(next, then func() (string, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looked, f.then = next, then
}

func (f *fakeFetcher) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.calls)
}

// tokenFor is a token whose life begins when it is made.
func tokenFor(number int, life time.Duration) *grantedToken {
	return &grantedToken{value: fmt.Sprintf("token-%d", number), kind: "Bearer", sent: time.Now(), lifetime: life, hasExpiresIn: true}
}

func grants(life time.Duration) func(context.Context, int) (*grantedToken, error) {
	return func(_ context.Context, call int) (*grantedToken, error) { return tokenFor(call, life), nil }
}

func fails(err error) func(context.Context, int) (*grantedToken, error) {
	return func(context.Context, int) (*grantedToken, error) { return nil, err }
}

var (
	errTestConfiguration = &tokenError{class: classConfiguration, status: http.StatusBadGateway, code: "invalid_client", message: "refused"}
	errTestOutage        = &tokenError{class: classOutage, status: http.StatusServiceUnavailable, message: "out of order"}
	errTestTransient     = &tokenError{class: classOutage, status: http.StatusServiceUnavailable, message: "shaky", transient: true}
)

// testIdentity is that of the test's tokens.
func testIdentity(t testing.TB, more ...any) tokenKey {
	return sha256.Sum256(fmt.Append(nil, t.Name(), more))
}

// pool holds the sources of the tests by key, as the plugin does.
var pool struct {
	mu      sync.Mutex
	sources map[tokenKey]*tokenSource
}

// acquireTokenSource attaches u to the source of a key.
func acquireTokenSource(key tokenKey, u *sourceUser) *tokenSource {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	s := pool.sources[key]
	if s == nil {
		s = newTokenSource()
		if pool.sources == nil {
			pool.sources = make(map[tokenKey]*tokenSource)
		}
		pool.sources[key] = s
	}
	s.attach(u)
	return s
}

// pooled reports whether a source is in the pool.
func (s *tokenSource) pooled() bool {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	return slices.Contains(slices.Collect(maps.Values(pool.sources)), s)
}

// releaseUser detaches u, and ends the source with its last user.
func (s *tokenSource) releaseUser(u *sourceUser) {
	pool.mu.Lock()
	defer pool.mu.Unlock()
	if s.detach(u) && len(s.users) == 0 {
		maps.DeleteFunc(pool.sources, func(_ tokenKey, other *tokenSource) bool { return other == s })
		_ = s.Destruct()
	}
}

// startSource is a source with one started user, in the pool under the test's name.
func startSource(t *testing.T, f *fakeFetcher, settings ...func(*sourceUser)) (*tokenSource, *sourceUser) {
	t.Helper()
	s, u := acquireTestSource(t, f, settings...)
	s.start(u)
	return s, u
}

func acquireTestSource(t *testing.T, f *fakeFetcher, settings ...func(*sourceUser)) (*tokenSource, *sourceUser) {
	t.Helper()
	u := &sourceUser{name: "billing", fetcher: f}
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
	observed func(fetchEvent)
	removed  func(*grantedToken)
}

func (o fakeOwner) shownEndpoint() string { return o.endpoint }

func (o fakeOwner) observe(event fetchEvent) {
	if o.observed != nil {
		o.observed(event)
	}
}

func (o fakeOwner) revokeRemoved(last *grantedToken) {
	if o.removed != nil {
		o.removed(last)
	}
}

func warm(u *sourceUser) { u.warm = true }

// simulated runs a test in a world of its own, whose clock goes as fast as it can.
func simulated(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// tokenGetter gets tokens, as a source does.
type tokenGetter interface {
	Token(ctx context.Context) (*grantedToken, error)
}

func mustToken(t *testing.T, s tokenGetter) *grantedToken {
	t.Helper()
	token, err := s.Token(t.Context())
	if err != nil {
		t.Fatalf("no token: %v", err)
	}
	return token
}

func wantToken(t *testing.T, s tokenGetter, value string) {
	t.Helper()
	if token := mustToken(t, s); token.value != value {
		t.Fatalf("got %s, want %s", token.value, value)
	}
}

func wantFailure(t *testing.T, s *tokenSource, want *tokenError) *tokenError {
	t.Helper()
	token, err := s.Token(t.Context())
	if err == nil {
		t.Fatalf("got %s, want an error", token.value)
	}
	var got *tokenError
	if !errors.As(err, &got) {
		t.Fatalf("got a %T, want a tokenError", err)
	}
	if got.class != want.class || got.status != want.status || got.code != want.code || got.message != want.message {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	return got
}

func wantCalls(t *testing.T, f *fakeFetcher, want int) {
	t.Helper()
	synctest.Wait()
	if got := f.count(); got != want {
		t.Fatalf("%d token requests, want %d", got, want)
	}
}

// result is what one of many requests got, and when.
type result struct {
	token *grantedToken
	err   error
	at    time.Time
}

// crowd asks a thousand times at once.
func crowd(ask func() (*grantedToken, error)) []result {
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
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: time.Second}
		s, _ := startSource(t, f)
		for _, o := range crowd(func() (*grantedToken, error) { return s.Token(t.Context()) }) {
			if o.err != nil || o.token.value != "token-1" {
				t.Fatalf("got %v", o)
			}
		}
		wantCalls(t, f, 1)
	})
}

func TestRequestsAfterExpiryShareOneTokenRequest(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: time.Second, answer: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		wantToken(t, s, "token-1")
		time.Sleep(100 * time.Second)
		for _, o := range crowd(func() (*grantedToken, error) { return s.Token(t.Context()) }) {
			if o.err != nil || o.token.value != "token-2" {
				t.Fatalf("got %v", o)
			}
		}
		wantCalls(t, f, 2)
	})
}

func TestRequestsShareAFailure(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: time.Second, answer: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		end := time.Now().Add(time.Second)
		for _, o := range crowd(func() (*grantedToken, error) { return s.Token(t.Context()) }) {
			var failed *tokenError
			if !errors.As(o.err, &failed) || failed.code != "invalid_client" || failed.retryAfter < time.Second {
				t.Fatalf("got %+v", o)
			}
			if !o.at.Equal(end) {
				t.Fatalf("answered %v after the attempt's end", o.at.Sub(end))
			}
		}
		wantCalls(t, f, 1)
	})
}

func TestWaiterLeavesAlone(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: time.Second}
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
		if o := <-stays; o.err != nil || o.token.value != "token-1" {
			t.Fatalf("the other got %+v", o)
		}
		wantCalls(t, f, 1)
	})
}

func TestFetchGoesOnWithoutWaiters(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: time.Second}
		s, _ := startSource(t, f)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := s.Token(ctx); err == nil {
			t.Fatal("got a token too early")
		}
		time.Sleep(time.Second)
		if token := s.peek(); token == nil || token.value != "token-1" {
			t.Fatalf("holds %v", token)
		}
	})
}

func TestRequestThatHasLeftStartsNothing(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{}
		s, _ := startSource(t, f)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Token(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		wantCalls(t, f, 0)
	})
}

func TestPanicIsAnOutage(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: func(_ context.Context, call int) (*grantedToken, error) {
			if call == 1 {
				panic("hunter2")
			}
			return tokenFor(call, time.Hour), nil
		}}
		core, logs := observer.New(zap.DebugLevel)
		s, _ := startSource(t, f, func(u *sourceUser) { u.logger = zap.New(core) })
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
		wantToken(t, s, "token-2")
	})
}

func TestUnknownErrorIsAnOutage(t *testing.T) {
	simulated(t, func(t *testing.T) {
		s, _ := startSource(t, &fakeFetcher{answer: fails(errors.New("hunter2"))})
		wantFailure(t, s, &tokenError{class: classOutage, status: 503, message: "fetching a token failed"})
	})
}

// TestPanicWhileReadingCredentials inside of a back-off ends neither the process nor the back-off.
func TestPanicWhileReadingCredentials(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTestConfiguration)
		f.lookOnce(func() (string, error) { panic("hunter2") }, nil)
		wantFailure(t, s, errTestConfiguration)
	})
}

func TestTransientFailuresAreRetriedQuickly(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: func(_ context.Context, call int) (*grantedToken, error) {
			if call < 3 {
				return nil, errTestTransient
			}
			return tokenFor(call, time.Hour), nil
		}}
		s, _ := startSource(t, f)
		start := time.Now()
		wantToken(t, s, "token-3")
		if took := time.Since(start); took < 200*time.Millisecond || took > 600*time.Millisecond {
			t.Errorf("took %v", took)
		}
		synctest.Wait()
		if st := s.status(); st.requests != 3 || st.failures != 2 || st.state != stateReady {
			t.Errorf("got %+v", st)
		}
	})
}

func TestRetriesEnd(t *testing.T) {
	for name, test := range map[string]struct {
		fetcher *fakeFetcher
		calls   int
		want    *tokenError
	}{
		"transient":        {&fakeFetcher{answer: fails(errTestTransient)}, 3, errTestTransient},
		"outage":           {&fakeFetcher{answer: fails(errTestOutage)}, 1, errTestOutage},
		"configuration":    {&fakeFetcher{answer: fails(errTestConfiguration)}, 1, errTestConfiguration},
		"timeout":          {&fakeFetcher{takes: time.Minute}, 1, errTokenTimeout},
		"second times out": {&fakeFetcher{takes: 6 * time.Second, answer: fails(errTestTransient)}, 2, errTokenTimeout},
		"no time left":     {&fakeFetcher{takes: 9990 * time.Millisecond, answer: fails(errTestTransient)}, 1, errTestTransient},
	} {
		t.Run(name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				s, _ := startSource(t, test.fetcher)
				start := time.Now()
				wantFailure(t, s, test.want)
				if took := time.Since(start); took > defaultTokenTimeout {
					t.Errorf("took %v", took)
				}
				wantCalls(t, test.fetcher, test.calls)
			})
		})
	}
}

func TestOutageAtTheDeadlineIsATimeout(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: func(ctx context.Context, _ int) (*grantedToken, error) {
			<-ctx.Done()
			return nil, errTestTransient
		}}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTokenTimeout)
		wantCalls(t, f, 1)
		if got := s.status().lastError; got == nil || got.message != errTokenTimeout.message {
			t.Errorf("remembered %+v", got)
		}
	})
}

func TestConfigurationErrorAtTheDeadlineStays(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: func(ctx context.Context, _ int) (*grantedToken, error) {
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
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: 8 * time.Second}
		s, _ := startSource(t, f, func(u *sourceUser) { u.timeout = 9 * time.Second })
		acquireTestSource(t, f, func(u *sourceUser) { u.timeout = time.Hour }) // of a config that does not run
		startSource(t, f, func(u *sourceUser) { u.timeout = 2 * time.Second })
		wantToken(t, s, "token-1")

		f.slow(time.Minute)
		start := time.Now()
		if err := s.refresh(t.Context()); err == nil || time.Since(start) != 9*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestStuckFetcherKeepsNobodyWaiting(t *testing.T) {
	simulated(t, func(t *testing.T) {
		stuck := make(chan struct{})
		f := &fakeFetcher{answer: func(_ context.Context, call int) (*grantedToken, error) {
			<-stuck
			return tokenFor(call, time.Hour), nil
		}}
		s, _ := startSource(t, f)
		start := time.Now()
		for range 3 {
			if got := wantFailure(t, s, errTokenTimeout); got.retryAfter != time.Second {
				t.Errorf("retry after %v", got.retryAfter)
			}
		}
		if took := time.Since(start); took != defaultTokenTimeout {
			t.Errorf("took %v", took)
		}
		wantCalls(t, f, 1)
		close(stuck)
		synctest.Wait()
		wantToken(t, s, "token-1")
	})
}

func TestTokenThatComesTooLateIsNotSent(t *testing.T) {
	simulated(t, func(t *testing.T) {
		sent := time.Now()
		f := &fakeFetcher{takes: 9 * time.Second, answer: func(_ context.Context, call int) (*grantedToken, error) {
			late := tokenFor(call, 5*time.Second)
			late.sent = sent
			return late, nil
		}}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTokenTooLate)
		if s.peek() != nil {
			t.Error("it is held")
		}
	})
}

func TestRefreshAheadKeepsEverybodyFromWaiting(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		wantToken(t, s, "token-1")
		f.slow(5 * time.Second)
		for range 10000 { // a thousand seconds
			start := time.Now()
			token := mustToken(t, s)
			if waited := time.Since(start); waited != 0 {
				t.Fatalf("waited %v", waited)
			}
			if age := time.Since(token.sent); age >= 95*time.Second {
				t.Fatalf("got a token %v old", age)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := f.count(); got < 12 || got > 14 {
			t.Errorf("%d token requests in 1000s", got)
		}
	})
}

func TestIdleSourceMakesNoRequests(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: grants(100 * time.Second)}
		s, _ := startSource(t, f)
		wantToken(t, s, "token-1")
		if s.timer != nil {
			t.Error("a timer is set")
		}
		time.Sleep(time.Hour)
		wantCalls(t, f, 1)
	})
}

func TestFailedRefreshIsSilentWhileTheTokenLives(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: func(_ context.Context, call int) (*grantedToken, error) {
			if call == 1 {
				return tokenFor(call, 100*time.Second), nil
			}
			return nil, errTestOutage
		}}
		s, _ := startSource(t, f)
		obtained := time.Now()
		for time.Since(obtained) < 95*time.Second {
			wantToken(t, s, "token-1")
			time.Sleep(50 * time.Millisecond)
		}
		synctest.Wait()
		// Refreshed first after about 80s, then after 1s, 2s, 4s and 8s more.
		if got := f.count() - 1; got < 3 || got > 5 {
			t.Errorf("%d attempts to refresh", got)
		}
		wantFailure(t, s, errTestOutage)
	})
}

func TestRefreshRecovers(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: func(_ context.Context, call int) (*grantedToken, error) {
			if call == 2 {
				return nil, errTestOutage
			}
			return tokenFor(call, 100*time.Second), nil
		}}
		s, _ := startSource(t, f)
		wantToken(t, s, "token-1")
		time.Sleep(85 * time.Second)
		wantToken(t, s, "token-1")
		wantCalls(t, f, 2)
		wantToken(t, s, "token-1")
		wantCalls(t, f, 2)
		time.Sleep(1500 * time.Millisecond)
		wantToken(t, s, "token-1")
		wantCalls(t, f, 3)
		wantToken(t, s, "token-3")
	})
}

func TestShortLifeDoesNotMeanARequestPerCall(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: grants(time.Second)}
		s, _ := startSource(t, f)
		for range 10000 { // ten seconds
			mustToken(t, s)
			time.Sleep(time.Millisecond)
		}
		if got := f.count(); got > 14 {
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
			simulated(t, func(t *testing.T) {
				birth := time.Now()
				f := &fakeFetcher{answer: func(context.Context, int) (*grantedToken, error) {
					return &grantedToken{value: "always", lifetime: test.life(death - time.Since(birth)), hasExpiresIn: test.dated}, nil
				}}
				s, _ := startSource(t, f)
				for range 98000 {
					token := mustToken(t, s)
					if age := time.Since(token.sent); age >= token.lifetime-hardMargin(token.lifetime) {
						t.Fatalf("got a token %v old that lives %v", age, token.lifetime)
					}
					time.Sleep(time.Millisecond)
				}
				if got := f.count(); got < 2 || got > test.most {
					t.Errorf("%d token requests", got)
				}
				for i := 1; i < len(f.calls); i++ {
					if pause := f.calls[i].Sub(f.calls[i-1]); pause < minSameTokenPause {
						t.Errorf("request %d came %v after the one before", i+1, pause)
					}
				}
			})
		})
	}
}

func TestUndatedSameTokenGetsNoYoungerUntilItDies(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: func(context.Context, int) (*grantedToken, error) {
			return &grantedToken{value: "always", lifetime: 100 * time.Second}, nil
		}}
		s, _ := startSource(t, f)
		first := mustToken(t, s)
		time.Sleep(85 * time.Second)
		if err := s.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if again := mustToken(t, s); !again.sent.Equal(first.sent) || again.lifetime != first.lifetime {
			t.Errorf("sent %v later", again.sent.Sub(first.sent))
		}
		time.Sleep(10 * time.Second)
		if anew := mustToken(t, s); anew.sent.Equal(first.sent) {
			t.Error("the token is dead for ever")
		}
		wantCalls(t, f, 3)
	})
}

func TestForcedRefresh(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: time.Second}
		s, _ := startSource(t, f)
		wantToken(t, s, "token-1")

		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := s.refresh(t.Context()); err != nil {
					t.Errorf("refreshing: %v", err)
				}
			})
		}
		synctest.Wait()
		wantToken(t, s, "token-1") // without waiting
		all.Wait()
		wantCalls(t, f, 2)
		wantToken(t, s, "token-2")

		f.answers(fails(errTestConfiguration))
		var failed *tokenError
		if err := s.refresh(t.Context()); !errors.As(err, &failed) || failed.code != "invalid_client" {
			t.Errorf("got %v", err)
		}
		wantToken(t, s, "token-2")
		if st := s.status(); st.state != stateFailing {
			t.Errorf("state %s", st.state)
		}
	})
}

func TestForcedRefreshEndsTheBackoff(t *testing.T) {
	simulated(t, func(t *testing.T) {
		retry := *errTestOutage
		retry.retryAfter = time.Minute
		f := &fakeFetcher{answer: fails(&retry)}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTestOutage)
		f.answers(nil)
		wantFailure(t, s, errTestOutage)
		if err := s.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantToken(t, s, "token-2")
	})
}

func TestRequestsWaitForAForcedRefreshInTheBackoff(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: fails(errTestOutage)}
		s, _ := startSource(t, f)
		for f.count() < 5 {
			wantFailure(t, s, errTestOutage)
			time.Sleep(100 * time.Millisecond)
		}
		f.slow(time.Second)
		go func() { _ = s.refresh(t.Context()) }()
		synctest.Wait()
		start := time.Now()
		failed := wantFailure(t, s, errTestOutage)
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("waited %v", waited)
		}
		if failed.retryAfter > 2*time.Second {
			t.Errorf("the back-off after it is %v", failed.retryAfter)
		}
		wantCalls(t, f, 6)
	})
}

func TestForcedRefreshLeavesWithItsCaller(t *testing.T) {
	simulated(t, func(t *testing.T) {
		s, _ := startSource(t, &fakeFetcher{takes: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := s.refresh(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
	})
}

func TestHotPathAllocatesNothing(t *testing.T) {
	s, _ := startSource(t, &fakeFetcher{})
	mustToken(t, s)
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
	f := &fakeFetcher{answer: func(_ context.Context, call int) (*grantedToken, error) {
		if failing.Load() {
			return nil, errTestOutage
		}
		token := tokenFor(call, time.Hour)
		token.sent = token.sent.Add(-58 * time.Minute)
		return token, nil
	}}
	u := &sourceUser{name: "billing", fetcher: f}
	s := acquireTokenSource(testIdentity(b), u)
	b.Cleanup(func() { s.releaseUser(u) })
	if err := s.refresh(b.Context()); err != nil {
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

func benchmarkSource(b *testing.B) *tokenSource {
	u := &sourceUser{name: "billing", fetcher: &fakeFetcher{}}
	s := acquireTokenSource(testIdentity(b), u)
	b.Cleanup(func() { s.releaseUser(u) })
	if err := s.refresh(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s
}
