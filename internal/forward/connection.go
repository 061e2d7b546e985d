package forward

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// Connection is what forwarding needs to know of a connection. Its fields must not change after the
// first request.
type Connection struct {
	// Tokens, Target and Metrics are used by each request, so they lie close together.
	Tokens  Tokens
	Target  func(ctx context.Context) (*Target, error) // the error is a *oauth.Error, or ctx's
	Metrics *telemetry.Connection
	header  atomic.Pointer[cachedHeader]

	Name    string // for error texts
	Tracing *telemetry.Tracing

	Limits           *Limits         // what the app may use the credential for; nil: everything
	RejectedStatuses []int           // with which the API says that it rejects a token; none: 401
	Own              *OwnConnections // of the config; nil: loops are not detected
	looped           atomic.Bool     // a request has come back
}

// Tokens provides the tokens of a connection.
type Tokens interface {
	// Token returns a usable token. The error is a *oauth.Error, or ctx's.
	Token(ctx context.Context) (*oauth.Token, error)

	// Replace returns a token to retry with after an API has rejected one, and waits for it. It returns
	// nil if there is none. Other requests go on with the rejected one meanwhile. status is that of the API's
	// response.
	Replace(ctx context.Context, rejected *oauth.Token, status int) *oauth.Token

	// ReplaceAdopted returns a token for a second retry after an API has also rejected the token that Replace
	// has returned, and waits for it. It returns nil unless that was another replica's (rule 29).
	ReplaceAdopted(ctx context.Context, rejected *oauth.Token) *oauth.Token

	// Accept notes that an API has accepted a token.
	Accept(accepted *oauth.Token)

	// Reject has a rejected token replaced without waiting, for a request that cannot be sent again.
	Reject(ctx context.Context, rejected *oauth.Token, status int)
}

// Options say how requests carry a token, and what follows from the API's response. They are shared by
// all requests of a handler or transport.
type Options struct {
	// Field is the canonical name of the header field that carries the token.
	Field string

	// Prefix precedes the token in the field and includes the separating space; "" is no prefix. Nil
	// means the authentication scheme of the token's type.
	Prefix *string

	// KeepAuthorization sends a request that has an Authorization of its own with that, and without a
	// token.
	KeepAuthorization bool

	// RetryUnauthorized replays a request with another token when the API rejects the first.
	RetryUnauthorized bool

	// RateLimitWait is how long a request waits in all to be sent again after responses that limit the
	// rate. 0: it is not sent again.
	RateLimitWait time.Duration

	// ReplayBuffer is how many bytes of a request's body are kept for a replay. A larger body is not
	// replayed.
	ReplayBuffer int64
}

// Prepare returns the request that r, one of the app, is forwarded as, once there is a token for it and the
// place of the API is known. It waits for both no longer than r's context allows.
func (c *Connection) Prepare(r *http.Request, o *Options) (*Request, *Error) {
	q := newRequest(c, r, o)
	q.ofApp = true
	if q.record.show(r.Context()) {
		withdraw(r.Context())
	}
	refused := q.prepare(r)
	if refused != nil {
		q.count(refused)
		return nil, refused
	}
	return q, nil
}

// PrepareHealthCheck returns the request that a health check of reverse_proxy is sent as.
func (c *Connection) PrepareHealthCheck(r *http.Request, o *Options) (*Request, *Error) {
	q := newRequest(c, r, o)
	return q, q.prepare(r)
}

// prepare refuses a request that must not be sent, and waits for what it needs.
func (q *Request) prepare(r *http.Request) *Error {
	if loop := q.enter(r); loop != nil {
		return loop
	}
	if refused := q.refuse(r); refused != nil {
		return refused
	}
	q.trailers = httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers")
	q.keep = q.options.KeepAuthorization && len(r.Header["Authorization"]) > 0
	var err error
	if !q.keep {
		_, err = q.Conn.Tokens.Token(q)
	}
	if err == nil {
		q.Target, err = q.Conn.Target(r.Context())
	}
	if err != nil {
		return NoTokenError(q.Conn.Name, err)
	}
	return nil
}

// cachedHeader is the header value for a token, made once for many requests.
type cachedHeader struct {
	token  *oauth.Token
	prefix string
	value  [1]string
}

// headerValue returns the value of the header field that carries a token. It is shared by requests and
// must not be changed.
func (c *Connection) headerValue(ctx context.Context, o *Options, token *oauth.Token) []string {
	prefix := token.HeaderPrefix()
	if o.Prefix != nil {
		prefix = *o.Prefix
	}
	if h := c.header.Load(); h != nil && h.token == token && h.prefix == prefix {
		return h.value[:]
	}
	c.Tracing.Learn(ctx) // once a token is often enough, and costs other requests nothing
	h := &cachedHeader{token: token, prefix: prefix, value: [1]string{prefix + token.Value}}
	c.header.Store(h)
	return h.value[:]
}
