package tokentest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// Fetcher hands out token-1, token-2 and so on, each good for an hour, unless told otherwise.
type Fetcher struct {
	Respond func(ctx context.Context, call int) (*oauth.Token, error)
	Looked  func() (string, error)
	then    func() (string, error) // from the look after the next on
	Takes   time.Duration

	mu    sync.Mutex
	Calls []time.Time
	Looks []time.Time
}

func (f *Fetcher) Fetch(ctx context.Context) (*oauth.Token, string, error) {
	fingerprint := f.Fingerprint()
	t, err := f.request(ctx)
	return t, fingerprint, err
}

func (f *Fetcher) request(ctx context.Context) (*oauth.Token, error) {
	f.mu.Lock()
	f.Calls = append(f.Calls, time.Now())
	call, takes, answer := len(f.Calls), f.Takes, f.Respond
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
		return Token(call, time.Hour), nil
	}
	t, err := answer(ctx, call)
	if t != nil && t.Sent.IsZero() {
		t.Sent = sent
	}
	return t, err
}

func (f *Fetcher) Fingerprint() string {
	f.mu.Lock()
	f.Looks = append(f.Looks, time.Now())
	looked := f.Looked
	if f.then != nil {
		f.Looked, f.then = f.then, nil
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

// SetRespond changes the answers from now on.
func (f *Fetcher) SetRespond(answer func(context.Context, int) (*oauth.Token, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Respond = answer
}

// Slow changes how long token requests take from now on.
func (f *Fetcher) Slow(takes time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Takes = takes
}

// LookOnce changes what the next look at the credentials finds, and what later ones do.
func (f *Fetcher) LookOnce(next, then func() (string, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Looked, f.then = next, then
}

func (f *Fetcher) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.Calls)
}

// Token is a token whose life begins when it is made.
func Token(number int, life time.Duration) *oauth.Token {
	return &oauth.Token{Value: fmt.Sprintf("token-%d", number), Type: "Bearer", Sent: time.Now(), Lifetime: life, HasExpiresIn: true}
}

// Simulated runs a test in a world of its own, whose clock goes as fast as it can.
func Simulated(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, test)
}

// tokenGetter gets tokens, as a source does.
type tokenGetter interface {
	Token(ctx context.Context) (*oauth.Token, error)
}

func MustToken(t *testing.T, s tokenGetter) *oauth.Token {
	t.Helper()
	token, err := s.Token(t.Context())
	if err != nil {
		t.Fatalf("no token: %v", err)
	}
	return token
}

func WantToken(t *testing.T, s tokenGetter, value string) {
	t.Helper()
	if token := MustToken(t, s); token.Value != value {
		t.Fatalf("got %s, want %s", token.Value, value)
	}
}

func WantCalls(t *testing.T, f *Fetcher, want int) {
	t.Helper()
	synctest.Wait()
	if got := f.Count(); got != want {
		t.Fatalf("%d token requests, want %d", got, want)
	}
}
