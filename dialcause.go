package httphelper

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// dialCause learns why a dial fails: Caddy's http transport returns an error that hides it.
type dialCause struct{ err atomic.Pointer[error] }

// traceDial returns the request with a context that tells the cause of a failed dial.
func traceDial(req *http.Request) (*http.Request, *dialCause) {
	cause := new(dialCause)
	trace := &httptrace.ClientTrace{
		DNSDone:     func(info httptrace.DNSDoneInfo) { cause.learn(info.Err) },
		ConnectDone: func(_, _ string, err error) { cause.learn(err) },
	}
	return req.WithContext(httptrace.WithClientTrace(req.Context(), trace)), cause
}

func (c *dialCause) learn(err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		c.err.Store(&err)
	}
}

// of adds the cause to the error of a failed dial.
func (c *dialCause) of(err error) error {
	cause := c.err.Load()
	if cause == nil || !errors.As(err, new(reverseproxy.DialError)) {
		return err
	}
	return errors.Join(err, *cause)
}

// withDialCause has the errors of a transport say why a dial failed.
func withDialCause(t http.RoundTripper) http.RoundTripper { return dialCauseTransport{t} }

type dialCauseTransport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t dialCauseTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req, cause := traceDial(req)
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, cause.of(err)
	}
	return resp, nil
}
