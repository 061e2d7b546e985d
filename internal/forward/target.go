package forward

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// Target is the place of one connection's API, and what every request to it carries.
type Target struct {
	Base     *url.URL // its path has no trailing slash
	Dial     string   // host:port of base
	Insecure bool     // whether http to other hosts than loopback is allowed
	Headers  []Field  // canonical names
	Query    []Field
	Secrets  []string // that are known to be in it
}

// keys are the values that requests carry and that may be secret. They may be older than what would
// be found now.
func (a *Target) keys() []string {
	keys := slices.Clone(a.Secrets)
	for _, field := range slices.Concat(a.Headers, a.Query) {
		if len(field.Value) >= redact.MinLength {
			keys = append(keys, field.Value)
		}
	}
	return keys
}

// url is where a request for the path and query of u goes.
func (a *Target) url(u *url.URL) *url.URL {
	out := *u
	a.rewrite(&out)
	return &out
}

// rewrite points u, a request's path and query, at the API.
func (a *Target) rewrite(u *url.URL) {
	u.Path, u.RawPath = httpguard.JoinPath(a.Base, u)
	u.Scheme, u.Host = a.Base.Scheme, a.Base.Host
	u.User, u.Opaque, u.Fragment, u.RawFragment = nil, "", "", ""
	if len(a.Query) > 0 {
		u.RawQuery = withQuery(u.RawQuery, a.Query)
	}
}

// LazyTarget is a target that depends on files or helper flows. It is resolved at the first request,
// and again in the background after each token request.
type LazyTarget struct {
	Resolve      func(ctx context.Context) (*Target, error)
	CurrentToken func() *oauth.Token
	Timeout      time.Duration

	current atomic.Pointer[resolvedTarget]

	mu      sync.Mutex
	running *targetAttempt
	failure *token.Failure
}

type resolvedTarget struct {
	*Target
	token *oauth.Token // the newest when the target was resolved
}

// targetAttempt is one attempt to resolve a target.
type targetAttempt struct {
	done   chan struct{}
	target *Target
	err    error
}

// Get returns the target. It waits only when there is none yet.
func (l *LazyTarget) Get(ctx context.Context) (*Target, error) {
	token := l.CurrentToken()
	current := l.current.Load()
	if current != nil && (current.token == token || token == nil) {
		return current.Target, nil
	}
	attempt, err := l.attempt(token)
	if current != nil {
		return current.Target, nil
	}
	if err != nil {
		return nil, err
	}
	select {
	case <-attempt.done:
		return attempt.target, attempt.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// attempt joins the running attempt or starts one, unless the last has just failed.
func (l *LazyTarget) attempt(token *oauth.Token) (*targetAttempt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running != nil {
		return l.running, nil
	}
	now := time.Now()
	if l.failure.Left(now) > 0 {
		return nil, l.failure.AsError(now)
	}
	l.running = &targetAttempt{done: make(chan struct{})}
	go l.run(l.running, token)
	return l.running, nil
}

func (l *LazyTarget) run(attempt *targetAttempt, token *oauth.Token) {
	ctx, cancel := context.WithTimeout(context.Background(), l.Timeout)
	defer cancel()
	defer func() {
		if recover() != nil {
			attempt.err = oauth.AsError(errors.New("a helper flow panicked"))
		}
		l.end(attempt, token)
	}()
	attempt.target, attempt.err = l.Resolve(ctx)
}

func (l *LazyTarget) end(attempt *targetAttempt, newest *oauth.Token) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if attempt.err != nil {
		l.failure = token.NewFailure(oauth.AsError(attempt.err), l.failure, "", time.Now())
	} else {
		l.failure = nil
		l.current.Store(&resolvedTarget{attempt.target, newest})
	}
	l.running = nil
	close(attempt.done)
}

// Field is a header or query parameter that every request to the API carries.
type Field struct{ Name, Value string }
