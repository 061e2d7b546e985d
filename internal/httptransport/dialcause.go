package httptransport

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// WithDialCause is a function that sends a request, as a transport with errors that say why a dial failed:
// those of Caddy's http transport hide it.
type WithDialCause func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (send WithDialCause) RoundTrip(req *http.Request) (*http.Response, error) {
	var cause atomic.Pointer[error] // dials may outlive the request
	note := func(err error) {
		if err != nil && !errors.Is(err, context.Canceled) {
			cause.Store(&err)
		}
	}
	res, err := send(req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		DNSDone:     func(info httptrace.DNSDoneInfo) { note(info.Err) },
		ConnectDone: func(_, _ string, err error) { note(err) },
	})))
	if noted := cause.Load(); noted != nil && errors.As(err, new(reverseproxy.DialError)) {
		err = errors.Join(err, *noted)
	}
	return res, err
}
