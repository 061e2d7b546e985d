package forward

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// Target is the place of a connection's API, and what every request to it carries.
type Target struct {
	Base     *url.URL // the base URL; its path has no trailing slash
	Dial     string   // host:port of Base
	Insecure bool     // http to hosts other than loopback is allowed
	Headers  []Field  // with canonical names
	Query    []Field
	Secrets  []string // of the connection, when the target was resolved; a token has newer ones
}

// Field is a header field or query parameter that every request to the API carries.
type Field struct{ Name, Value string }

// rewrite points u, a request's path and query, at the API.
func (a *Target) rewrite(u *url.URL) {
	u.Path, u.RawPath = httpguard.JoinPath(a.Base, u)
	u.Scheme, u.Host = a.Base.Scheme, a.Base.Host
	u.User, u.Opaque, u.Fragment, u.RawFragment = nil, "", "", ""
	if len(a.Query) > 0 {
		u.RawQuery = withQuery(u.RawQuery, a.Query)
	}
}

// url returns the URL at the API for u, a request's path and query.
func (a *Target) url(u *url.URL) *url.URL {
	out := *u
	a.rewrite(&out)
	return &out
}

// possibleSecrets returns the known secrets, and the header and query values that are long enough to be
// secret.
func (a *Target) possibleSecrets() []string {
	secrets := slices.Clone(a.Secrets)
	for _, field := range slices.Concat(a.Headers, a.Query) {
		if len(field.Value) >= redact.MinLength {
			secrets = append(secrets, field.Value)
		}
	}
	return secrets
}

// LazyTarget is a target that depends on files or helper flows. It is resolved at the first request,
// and again in the background after each token request. Its exported fields must be set before.
type LazyTarget struct {
	Resolve      func(ctx context.Context) (*Target, error) // the error is a *oauth.Error, or ctx's
	CurrentToken func() *oauth.Token                        // nil: there is none
	Timeout      time.Duration                              // of one call of Resolve

	current atomic.Pointer[resolvedTarget]
	running singleflight.Group
	failure *token.Failure // for the running attempt only
}

// resolvedTarget is a target with the token that was in use when it was resolved.
type resolvedTarget struct {
	*Target
	token *oauth.Token
}

// Get returns the target. It waits only when there is none yet.
func (l *LazyTarget) Get(ctx context.Context) (*Target, error) {
	newest := l.CurrentToken()
	current := l.current.Load()
	if current != nil && (current.token == newest || newest == nil) {
		return current.Target, nil
	}
	attempt := l.running.DoChan("", func() (any, error) { return l.attempt(newest) })
	if current != nil {
		return current.Target, nil
	}
	select {
	case result := <-attempt:
		return result.Val.(*Target), result.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// attempt resolves the target, with newest as the token in use. While the last failure is recent, it
// returns that.
func (l *LazyTarget) attempt(newest *oauth.Token) (*Target, error) {
	if now := time.Now(); l.failure.Left(now) > 0 {
		return nil, l.failure.AsError(now)
	}
	target, err := l.resolveInTime()
	if err != nil {
		l.failure = token.NewFailure(oauth.AsError(err), l.failure, "", time.Now())
		return nil, err
	}
	l.failure = nil
	l.current.Store(&resolvedTarget{target, newest})
	return target, nil
}

// resolveInTime returns soon after the deadline even if Resolve hangs.
func (l *LazyTarget) resolveInTime() (*Target, error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.Timeout)
	defer cancel()
	type result struct {
		target *Target
		err    error
	}
	r, ok := token.InTime(ctx, func() result {
		target, err := l.resolveOrRecover(ctx)
		return result{target, err}
	})
	if !ok {
		return nil, token.ErrTimeout
	}
	return r.target, r.err
}

// resolveOrRecover keeps a panic in a helper flow from ending the process.
func (l *LazyTarget) resolveOrRecover(ctx context.Context) (target *Target, err error) {
	defer func() {
		if recover() != nil {
			err = oauth.AsError(errors.New("a helper flow panicked"))
		}
	}()
	return l.Resolve(ctx)
}
