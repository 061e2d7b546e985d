package forward

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// Connection is what forwarding needs to know of a connection.
type Connection struct {
	// What each request needs, close together.
	Tokens  Tokens
	Target  func(ctx context.Context) (*Target, error)
	Metrics *telemetry.Connection
	header  atomic.Pointer[cachedHeader]

	Name    string
	Tracing *telemetry.Tracing
}

// Tokens are the tokens of a connection.
type Tokens interface {
	// Token returns a usable token. The error is a *oauth.Error, or ctx's.
	Token(ctx context.Context) (*oauth.Token, error)

	// Invalidate takes a token out of use that an API has rejected, and reports whether a newer one may
	// be requested.
	Invalidate(rejected *oauth.Token) bool

	// Replace invalidates a token and waits for a newer one. It returns nil if there is none.
	Replace(ctx context.Context, rejected *oauth.Token) *oauth.Token
}

// Options say how requests carry a token, and what follows from the API's response.
type Options struct {
	Field             string  // the header that carries the token
	Prefix            *string // before the token, with its space; nil: by the token's type
	KeepAuthorization bool    // a request with an Authorization of its own is sent with that and no token
	RetryUnauthorized bool    // a 401 has the request replayed with a newer token
	ReplayBuffer      int64   // bytes of a body that are kept for a replay
}

// cachedHeader is the header value for a token, prepared once for many requests.
type cachedHeader struct {
	token  *oauth.Token
	prefix string
	value  [1]string
}

// headerValue is the value of the header that carries a token. It is shared by requests and must
// not be changed.
func (c *Connection) headerValue(ctx context.Context, o *Options, token *oauth.Token) []string {
	prefix := token.HeaderPrefix()
	if o.Prefix != nil {
		prefix = *o.Prefix
	}
	if h := c.header.Load(); h != nil && h.token == token && h.prefix == prefix {
		return h.value[:]
	}
	c.Tracing.Learn(ctx) // once a token is often enough, and need not be paid by every request
	h := &cachedHeader{token: token, prefix: prefix, value: [1]string{prefix + token.Value}}
	c.header.Store(h)
	return h.value[:]
}

// Prepare waits for a token for r and finds the place of the API. Waiting ends with the request.
func (c *Connection) Prepare(r *http.Request, o *Options) (*Request, *Error) {
	q := &Request{Context: r.Context(), Conn: c, options: o}
	q.keep = o.KeepAuthorization && len(r.Header["Authorization"]) > 0
	var err error
	if !q.keep {
		_, err = c.Tokens.Token(r.Context())
	}
	if err == nil {
		q.Target, err = c.Target(r.Context())
	}
	if err != nil {
		return nil, NoTokenError(c.Name, err)
	}
	return q, nil
}

// NoTokenError is why a request of a connection could not get its token.
func NoTokenError(connection string, err error) *Error {
	if errors.Is(err, context.Canceled) {
		return &Error{Status: statusClientClosedRequest, noToken: true, Details: "the app left while waiting for a token"}
	}
	failed := oauth.AsError(err)
	kind := "proxy_internal_error"
	if failed.Class == oauth.ClassConfiguration {
		kind = "proxy_configuration_error"
	}
	e := &Error{
		Status: failed.Status, noToken: true, Type: kind, RetryAfter: failed.RetryAfter,
		Details: "connection " + connection + ": " + failed.Error(),
	}
	if e.RetryAfter <= 0 && e.Status == http.StatusServiceUnavailable {
		e.RetryAfter = defaultRetryAfter
	}
	return e
}
