package httptransport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
)

// DialFunc opens a connection, as http.Transport.DialContext does.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// explainDials makes a transport's errors say why a dial failed, and to which address: those of Caddy's
// http transport hide it.
func explainDials(t *http.Transport) {
	t.DialContext, t.DialTLSContext = explained(t.DialContext), explained(t.DialTLSContext)
}

func explained(dial DialFunc) DialFunc {
	if dial == nil {
		return nil
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		var cause atomic.Pointer[error] // attempts to several addresses may go on when dial has returned
		note := func(err error) {
			if err != nil && !errors.Is(err, context.Canceled) {
				cause.Store(&err)
			}
		}
		conn, err := dial(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			DNSDone:     func(info httptrace.DNSDoneInfo) { note(info.Err) },
			ConnectDone: func(_, _ string, err error) { note(err) },
		}), network, address)
		if err == nil {
			return conn, nil
		}
		failed := &neterror.DialError{Address: address, Err: err}
		if noted := cause.Load(); noted != nil {
			failed.Cause = *noted
		}
		return nil, failed
	}
}
