// Package tokentest has what tests need instead of an authorization server: a fake token.Fetcher and
// checks of the tokens that a source yields.
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

// Fetcher is a token.Fetcher. Without settings it grants token-1, token-2 and so on at once, each with
// a lifetime of an hour. Once it is in use, the setters change its settings.
type Fetcher struct {
	// Respond returns the result of a token request; the first call is number 1.
	Respond func(ctx context.Context, call int) (*oauth.Token, error)

	// Takes is how long a token request takes.
	Takes time.Duration

	// Identity is that of the token requests. Without one they are not shared.
	Identity []byte

	// Bind completes a token that another replica has obtained. It may be nil.
	Bind func(t *oauth.Token)

	// Unprepared returns why a token request cannot be prepared, or nil. It may be nil.
	Unprepared func() error

	// Credentials returns the current credentials, or why they cannot be read.
	Credentials func() (string, error)

	mu    sync.Mutex
	Calls []time.Time // when token requests began
	Reads []time.Time // when the credentials were read

	laterCredentials func() (string, error) // replaces Credentials at the next read
}

// Prepared is token.Prepared, which this package cannot import.
type Prepared = interface {
	Fetch(ctx context.Context) (*oauth.Token, error)
	Identity() []byte
	Bind(t *oauth.Token)
}

// Prepare implements token.Fetcher. It reads the credentials.
func (f *Fetcher) Prepare(context.Context) (Prepared, string, error) {
	fingerprint := f.Fingerprint()
	if f.Unprepared != nil {
		if err := f.Unprepared(); err != nil {
			return nil, fingerprint, err
		}
	}
	return prepared{f}, fingerprint, nil
}

// prepared is a token.Prepared.
type prepared struct{ f *Fetcher }

func (p prepared) Fetch(ctx context.Context) (*oauth.Token, error) { return p.f.request(ctx) }
func (p prepared) Identity() []byte                                { return p.f.Identity }

func (p prepared) Bind(t *oauth.Token) {
	if p.f.Bind != nil {
		p.f.Bind(t)
	}
}

func (f *Fetcher) request(ctx context.Context) (*oauth.Token, error) {
	f.mu.Lock()
	f.Calls = append(f.Calls, time.Now())
	call, takes, respond := len(f.Calls), f.Takes, f.Respond
	f.mu.Unlock()
	sent := time.Now()
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if respond == nil {
		return Token(call, time.Hour), nil
	}
	t, err := respond(ctx, call)
	if t != nil && t.Sent.IsZero() {
		t.Sent = sent
	}
	return t, err
}

// Fingerprint implements token.Fetcher.
func (f *Fetcher) Fingerprint() string {
	f.mu.Lock()
	f.Reads = append(f.Reads, time.Now())
	credentials := f.Credentials
	if f.laterCredentials != nil {
		f.Credentials, f.laterCredentials = f.laterCredentials, nil
	}
	f.mu.Unlock()
	if credentials == nil {
		return "same"
	}
	fingerprint, err := credentials()
	if err != nil {
		return "unreadable: " + err.Error()
	}
	return fingerprint
}

// SetRespond sets Respond.
func (f *Fetcher) SetRespond(respond func(context.Context, int) (*oauth.Token, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Respond = respond
}

// SetTakes sets Takes.
func (f *Fetcher) SetTakes(takes time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Takes = takes
}

// SetCredentials sets Credentials for the next read, and for later ones, which may be nil for the same.
func (f *Fetcher) SetCredentials(next, later func() (string, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Credentials, f.laterCredentials = next, later
}

// Count returns the number of token requests.
func (f *Fetcher) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.Calls)
}

// Token returns the token with a number, sent now.
func Token(number int, lifetime time.Duration) *oauth.Token {
	return &oauth.Token{Value: fmt.Sprintf("token-%d", number), Sent: time.Now(), Lifetime: lifetime, HasExpiresIn: true}
}

// Tokens is a token.Source.
type Tokens interface {
	Token(ctx context.Context) (*oauth.Token, error)
}

// MustToken returns the token of a source.
func MustToken(t *testing.T, s Tokens) *oauth.Token {
	t.Helper()
	token, err := s.Token(t.Context())
	if err != nil {
		t.Fatalf("no token: %v", err)
	}
	return token
}

// WantToken checks the token of a source.
func WantToken(t *testing.T, s Tokens, value string) {
	t.Helper()
	if token := MustToken(t, s); token.Value != value {
		t.Fatalf("got %s, want %s", token.Value, value)
	}
}

// WantCalls checks the number of token requests, in a synctest bubble.
func WantCalls(t *testing.T, f *Fetcher, want int) {
	t.Helper()
	synctest.Wait()
	if got := f.Count(); got != want {
		t.Fatalf("%d token requests, want %d", got, want)
	}
}
