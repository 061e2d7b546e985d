package httphelper

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// checkValues reads everything once, as far as it can be known without contacting anybody, so that
// mistakes are found when the config is loaded.
func (c *activeConnection) checkValues() error {
	r := c.resolver(context.Background())
	_, err := c.fingerprint()
	errs := []error{err}
	if m, err := r.material(); err == nil {
		_, err = c.method.make(m)
		errs = append(errs, err)
	}
	for _, known := range c.withoutFlows() {
		_, err := known(r)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !c.apiConstant() {
		c.api = &lateTarget{c: c}
		return nil
	}
	c.fixed, err = r.target()
	return err
}

// withoutFlows are the checks of those values that take no helper flow.
func (c *activeConnection) withoutFlows() []func(*resolver) (any, error) {
	t := c.texts
	var checks []func(*resolver) (any, error)
	add := func(texts []text, check func(*resolver) (any, error)) {
		if !slices.ContainsFunc(texts, c.dependsOnFlow) {
			checks = append(checks, check)
		}
	}
	for option, u := range map[string]*text{"base_url": t.baseURL, "token_url": t.tokenURL, "issuer": t.issuer, "revocation_url": t.revocationURL} {
		if u != nil {
			add([]text{*u}, func(r *resolver) (any, error) { return r.url(option, u) })
		}
	}
	var params []text
	for _, p := range t.params {
		params = append(params, p.values...)
	}
	add(params, func(r *resolver) (any, error) { return r.params() })
	add(valuesOf(t.tokenHeaders), func(r *resolver) (any, error) { return r.tokenHeaders() })
	add(t.resources, func(r *resolver) (any, error) { return r.resources() })
	add(valuesOf(t.apiHeaders), func(r *resolver) (any, error) { return r.fields("api_header", t.apiHeaders, true) })
	add(valuesOf(t.apiQuery), func(r *resolver) (any, error) { return r.fields("api_query", t.apiQuery, false) })
	return checks
}

func valuesOf(fields []fieldText) []text {
	values := make([]text, len(fields))
	for i, f := range fields {
		values[i] = f.value
	}
	return values
}

// apiConstant tells whether all that requests to the API carry stays as it is.
func (c *activeConnection) apiConstant() bool {
	return !slices.ContainsFunc(c.textsOfTarget(), func(t text) bool { return !c.constant(t) })
}

// textsOfTarget are what requests to the API are made of.
func (c *activeConnection) textsOfTarget() []text {
	return slices.Concat([]text{*c.texts.baseURL}, valuesOf(c.texts.apiHeaders), valuesOf(c.texts.apiQuery))
}

// flowsOfTarget runs the helper flows that requests to the API need, so that one that fails is known
// as early and as widely as if the token request needed it.
func (r *resolver) flowsOfTarget() error {
	if r.c.fixed != nil || !slices.ContainsFunc(r.c.textsOfTarget(), r.c.dependsOnFlow) {
		return nil
	}
	_, err := r.target()
	return err
}

// target resolves the place of the API and what requests to it carry.
func (r *resolver) target() (*apiTarget, error) {
	base, err := r.url("base_url", r.c.texts.baseURL)
	if err != nil {
		return nil, err
	}
	target := &apiTarget{base: plainBase(base), insecure: r.c.service.allowsInsecure("base_url")}
	target.dial = net.JoinHostPort(target.base.Hostname(), portOf(target.base))
	var queryErr error
	target.headers, err = r.fields("api_header", r.c.texts.apiHeaders, true)
	target.query, queryErr = r.fields("api_query", r.c.texts.apiQuery, false)
	target.secrets = r.secrets
	return target, errors.Join(err, queryErr)
}

// plainBase is a base URL without a default port and a trailing slash.
func plainBase(u *url.URL) *url.URL {
	base := &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}
	if port := u.Port(); port != "" && port == portOf(&url.URL{Scheme: u.Scheme}) {
		base.Host = strings.TrimSuffix(base.Host, ":"+port)
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base.Path, _ = url.PathUnescape(path)
	if base.EscapedPath() != path {
		base.RawPath = path
	}
	return base
}

// lateTarget is the place of an API that depends on files or helper flows. It is worked out at the
// first request, and again in the background after each token request.
type lateTarget struct {
	c       *activeConnection
	current atomic.Pointer[datedTarget]

	mu      sync.Mutex
	running *targetAttempt
	failure *fetchFailure
}

type datedTarget struct {
	*apiTarget
	token *grantedToken // the newest when the target was worked out
}

// targetAttempt is one attempt to work a target out.
type targetAttempt struct {
	done   chan struct{}
	target *apiTarget
	err    error
}

// get returns the target. It waits only when there is none yet.
func (l *lateTarget) get(ctx context.Context) (*apiTarget, error) {
	token := l.c.source.peek()
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
func (l *lateTarget) attempt(token *grantedToken) (*targetAttempt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running != nil {
		return l.running, nil
	}
	now := time.Now()
	if l.failure.left(now) > 0 {
		return nil, l.failure.answer(now)
	}
	l.running = &targetAttempt{done: make(chan struct{})}
	go l.run(l.running, token)
	return l.running, nil
}

func (l *lateTarget) run(attempt *targetAttempt, token *grantedToken) {
	ctx, cancel := context.WithTimeout(context.Background(), l.c.timeout())
	defer cancel()
	defer func() {
		if recover() != nil {
			attempt.err = asTokenError(errors.New("a helper flow panicked"))
		}
		l.end(attempt, token)
	}()
	target, err := l.c.resolver(ctx).target()
	if err != nil {
		attempt.err = unresolved(err)
		return
	}
	attempt.target = target
}

func (l *lateTarget) end(attempt *targetAttempt, token *grantedToken) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if attempt.err != nil {
		l.failure = newFetchFailure(asTokenError(attempt.err), l.failure, "", time.Now())
	} else {
		l.failure = nil
		l.current.Store(&datedTarget{attempt.target, token})
	}
	l.running = nil
	close(attempt.done)
}

// timeout is the longest wait for a token and what goes with it.
func (c *activeConnection) timeout() time.Duration {
	if timeout := time.Duration(c.config.TokenTimeout); timeout > 0 {
		return timeout
	}
	return defaultTokenTimeout
}
