package httptransport

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// DialCause is why a dial failed. Caddy's http transport returns an error that hides it.
type DialCause struct{ err atomic.Pointer[error] }

// TraceDial returns the request with a context in which dials report their cause of failure.
func TraceDial(req *http.Request) (*http.Request, *DialCause) {
	cause := new(DialCause)
	trace := &httptrace.ClientTrace{
		DNSDone:     func(info httptrace.DNSDoneInfo) { cause.set(info.Err) },
		ConnectDone: func(_, _ string, err error) { cause.set(err) },
	}
	return req.WithContext(httptrace.WithClientTrace(req.Context(), trace)), cause
}

func (c *DialCause) set(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		c.err.Store(&err)
	}
}

// AddTo returns err with the cause, if err is that of a failed dial.
func (c *DialCause) AddTo(err error) error {
	cause := c.err.Load()
	if cause == nil || !errors.As(err, new(reverseproxy.DialError)) {
		return err
	}
	return errors.Join(err, *cause)
}

// WithDialCause returns the transport with errors that say why a dial failed.
func WithDialCause(t http.RoundTripper) http.RoundTripper { return dialCauseTransport{t} }

type dialCauseTransport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t dialCauseTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req, cause := TraceDial(req)
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, cause.AddTo(err)
	}
	return resp, nil
}
