package token

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// busy is an outage with a Retry-After.
func busy(retryAfter time.Duration) *oauth.Error {
	return &oauth.Error{Class: oauth.ClassOutage, Status: http.StatusServiceUnavailable, Message: "busy", RetryAfter: retryAfter}
}

// testKey returns a key of the test's own.
func testKey(t testing.TB, more ...any) Key {
	return sha256.Sum256(fmt.Append(nil, t.Name(), more))
}

// pool shares the sources of the tests by key, as the plugin does.
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

// startSource returns the source of the test with one more user, which is started.
func startSource(t *testing.T, f *tokentest.Fetcher, settings ...func(*User)) (*Source, *User) {
	t.Helper()
	s, u := acquireTestSource(t, f, settings...)
	s.Start(u)
	return s, u
}

// startWithToken returns a source with one started user and its first token.
func startWithToken(t *testing.T) (*Source, *tokentest.Fetcher, *oauth.Token) {
	t.Helper()
	f := &tokentest.Fetcher{}
	s, _ := startSource(t, f)
	first := tokentest.MustToken(t, s)
	synctest.Wait()
	return s, f, first
}

// acquireTestSource returns the source of the test with one more user, which is not started.
func acquireTestSource(t *testing.T, f *tokentest.Fetcher, settings ...func(*User)) (*Source, *User) {
	t.Helper()
	u := &User{Name: "billing", Fetcher: f}
	for _, set := range settings {
		set(u)
	}
	s := acquireTokenSource(testKey(t), u)
	t.Cleanup(func() { s.releaseUser(u) })
	return s, u
}

// fakeObserver is an observer with these functions, each of which may be nil.
type fakeObserver struct {
	endpoint string
	observed func(Event)
	removed  func(*oauth.Token)
}

func (o fakeObserver) Endpoint() string { return o.endpoint }

func (o fakeObserver) Observe(event Event) {
	if o.observed != nil {
		o.observed(event)
	}
}

func (o fakeObserver) Removed(last *oauth.Token) {
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
		t.Fatalf("got a %T, want an *oauth.Error", err)
	}
	if got.Class != want.Class || got.Status != want.Status || got.Code != want.Code || got.Message != want.Message {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	return got
}

// result is what one of many requests got.
type result struct {
	token *oauth.Token
	err   error
	at    time.Time
}

// crowd calls get a thousand times at once.
func crowd(get func() (*oauth.Token, error)) []result {
	outcomes := make([]result, 1000)
	var all sync.WaitGroup
	for i := range outcomes {
		all.Go(func() {
			token, err := get()
			outcomes[i] = result{token, err, time.Now()}
		})
	}
	all.Wait()
	return outcomes
}
