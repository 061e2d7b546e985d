package httphelper

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
)

// forwardConnection is what forwarding needs to know of a connection.
type forwardConnection struct {
	// What each request needs, close together.
	tokens  tokens
	place   func(ctx context.Context) (*apiTarget, error)
	metrics *connectionMetrics
	header  atomic.Pointer[cachedHeader]

	name    string
	tracing *tracing
}

// tokens are the tokens of a connection.
type tokens interface {
	// Token returns a usable token. The error is a *tokenError, or ctx's.
	Token(ctx context.Context) (*grantedToken, error)

	// invalidate takes a token out of use that an API has rejected, and reports whether a newer one may
	// be requested.
	invalidate(rejected *grantedToken) bool

	// replace invalidates a token and waits for a newer one. It returns nil if there is none.
	replace(ctx context.Context, rejected *grantedToken) *grantedToken
}

// forwardOptions say how requests carry a token, and what follows from the API's response.
type forwardOptions struct {
	field             string  // the header that carries the token
	prefix            *string // before the token, with its space; nil: by the token's type
	keepAuthorization bool    // a request with an Authorization of its own is sent with that and no token
	retryUnauthorized bool    // a 401 has the request replayed with a newer token
	replayBuffer      int64   // bytes of a body that are kept for a replay
}

// cachedHeader is the header value for a token, prepared once for many requests.
type cachedHeader struct {
	token  *grantedToken
	prefix string
	value  [1]string
}

// headerValue is the value of the header that carries a token. It is shared by requests and must
// not be changed.
func (c *forwardConnection) headerValue(ctx context.Context, o *forwardOptions, token *grantedToken) []string {
	prefix := token.prefix()
	if o.prefix != nil {
		prefix = *o.prefix
	}
	if h := c.header.Load(); h != nil && h.token == token && h.prefix == prefix {
		return h.value[:]
	}
	c.tracing.learn(ctx) // once a token is often enough, and need not be paid by every request
	h := &cachedHeader{token: token, prefix: prefix, value: [1]string{prefix + token.value}}
	c.header.Store(h)
	return h.value[:]
}

// prepare waits for a token for r and finds the place of the API. Waiting ends with the request.
func (c *forwardConnection) prepare(r *http.Request, o *forwardOptions) (*forwardRequest, *forwardError) {
	q := &forwardRequest{Context: r.Context(), conn: c, options: o}
	q.keep = o.keepAuthorization && len(r.Header["Authorization"]) > 0
	var err error
	if !q.keep {
		_, err = c.tokens.Token(r.Context())
	}
	if err == nil {
		q.target, err = c.place(r.Context())
	}
	if err != nil {
		return nil, noTokenError(c.name, err)
	}
	return q, nil
}

// noTokenError is why a request of a connection could not get its token.
func noTokenError(connection string, err error) *forwardError {
	if errors.Is(err, context.Canceled) {
		return &forwardError{status: statusClientClosedRequest, noToken: true, details: "the app left while waiting for a token"}
	}
	failed := asTokenError(err)
	kind := "proxy_internal_error"
	if failed.class == classConfiguration {
		kind = "proxy_configuration_error"
	}
	e := &forwardError{
		status: failed.status, noToken: true, kind: kind, retryAfter: failed.retryAfter,
		details: "connection " + connection + ": " + failed.Error(),
	}
	if e.retryAfter <= 0 && e.status == http.StatusServiceUnavailable {
		e.retryAfter = defaultRetryAfter
	}
	return e
}
