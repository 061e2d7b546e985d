package httptransport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
)

// TestErrorOfADialErrorHasItsCause with a dialer that hides it, as Caddy's does.
func TestErrorOfADialErrorHasItsCause(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, reverseproxy.DialError{}
		}
		return conn, nil
	}}
	explainDials(transport)
	res, err := transport.RoundTrip(httptest.NewRequest(http.MethodGet, server.URL, nil))
	if err == nil {
		_ = res.Body.Close()
	}
	failed, ok := errors.AsType[*neterror.DialError](err)
	if !ok || failed.Address != server.Listener.Addr().String() || !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, new(reverseproxy.DialError)) {
		t.Errorf("got %#v", err)
	}
}
