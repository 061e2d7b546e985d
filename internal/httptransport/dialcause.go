package httptransport

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// DialCause learns why a dial fails: Caddy's http transport returns an error that hides it.
type DialCause struct{ err atomic.Pointer[error] }

// TraceDial returns the request with a context that tells the cause of a failed dial.
func TraceDial(req *http.Request) (*http.Request, *DialCause) {
	cause := new(DialCause)
	trace := &httptrace.ClientTrace{
		DNSDone:     func(info httptrace.DNSDoneInfo) { cause.learn(info.Err) },
		ConnectDone: func(_, _ string, err error) { cause.learn(err) },
	}
	return req.WithContext(httptrace.WithClientTrace(req.Context(), trace)), cause
}

func (c *DialCause) learn(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		c.err.Store(&err)
	}
}

// Of adds the cause to the error of a failed dial.
func (c *DialCause) Of(err error) error {
	cause := c.err.Load()
	if cause == nil || !errors.As(err, new(reverseproxy.DialError)) {
		return err
	}
	return errors.Join(err, *cause)
}

// WithDialCause has the errors of a transport say why a dial failed.
func WithDialCause(t http.RoundTripper) http.RoundTripper { return dialCauseTransport{t} }

type dialCauseTransport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t dialCauseTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req, cause := TraceDial(req)
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, cause.Of(err)
	}
	return resp, nil
}
