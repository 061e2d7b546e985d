package httphelper

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// apiTarget is the place of one connection's API, and what every request to it carries.
type apiTarget struct {
	base     *url.URL       // its path has no trailing slash
	dial     string         // host:port of base
	insecure bool           // whether http to other hosts than loopback is allowed
	headers  []forwardField // canonical names
	query    []forwardField
	secrets  []string // that are known to be in it
}

// keys are the values that requests carry and that may be secret. They may be older than what would
// be found now.
func (a *apiTarget) keys() []string {
	keys := slices.Clone(a.secrets)
	for _, field := range slices.Concat(a.headers, a.query) {
		if len(field.Value) >= minSecret {
			keys = append(keys, field.Value)
		}
	}
	return keys
}

// url is where a request for the path and query of u goes.
func (a *apiTarget) url(u *url.URL) *url.URL {
	out := *u
	a.rewrite(&out)
	return &out
}

// rewrite points u, a request's path and query, at the API.
func (a *apiTarget) rewrite(u *url.URL) {
	u.Path, u.RawPath = joinPath(a.base, u)
	u.Scheme, u.Host = a.base.Scheme, a.base.Host
	u.User, u.Opaque, u.Fragment, u.RawFragment = nil, "", "", ""
	if len(a.query) > 0 {
		u.RawQuery = withQuery(u.RawQuery, a.query)
	}
}

// lazyTarget is a target that depends on files or helper flows. It is resolved at the first request,
// and again in the background after each token request.
type lazyTarget struct {
	resolve      func(ctx context.Context) (*apiTarget, error)
	currentToken func() *grantedToken
	timeout      time.Duration

	current atomic.Pointer[resolvedTarget]

	mu      sync.Mutex
	running *targetAttempt
	failure *fetchFailure
}

type resolvedTarget struct {
	*apiTarget
	token *grantedToken // the newest when the target was resolved
}

// targetAttempt is one attempt to resolve a target.
type targetAttempt struct {
	done   chan struct{}
	target *apiTarget
	err    error
}

// get returns the target. It waits only when there is none yet.
func (l *lazyTarget) get(ctx context.Context) (*apiTarget, error) {
	token := l.currentToken()
	current := l.current.Load()
	if current != nil && (current.token == token || token == nil) {
		return current.apiTarget, nil
	}
	attempt, err := l.attempt(token)
	if current != nil {
		return current.apiTarget, nil
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
func (l *lazyTarget) attempt(token *grantedToken) (*targetAttempt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running != nil {
		return l.running, nil
	}
	now := time.Now()
	if l.failure.left(now) > 0 {
		return nil, l.failure.asError(now)
	}
	l.running = &targetAttempt{done: make(chan struct{})}
	go l.run(l.running, token)
	return l.running, nil
}

func (l *lazyTarget) run(attempt *targetAttempt, token *grantedToken) {
	ctx, cancel := context.WithTimeout(context.Background(), l.timeout)
	defer cancel()
	defer func() {
		if recover() != nil {
			attempt.err = asTokenError(errors.New("a helper flow panicked"))
		}
		l.end(attempt, token)
	}()
	attempt.target, attempt.err = l.resolve(ctx)
}

func (l *lazyTarget) end(attempt *targetAttempt, token *grantedToken) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if attempt.err != nil {
		l.failure = newFetchFailure(asTokenError(attempt.err), l.failure, "", time.Now())
	} else {
		l.failure = nil
		l.current.Store(&resolvedTarget{attempt.target, token})
	}
	l.running = nil
	close(attempt.done)
}

// forwardField is a header or query parameter that every request to the API carries.
type forwardField struct{ Name, Value string }
