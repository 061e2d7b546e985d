package httptransport

import (
	"context"
	"net"
	"net/http"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
)

// onlyLoopbackKey is the context key of requests for which only loopback addresses are dialed.
type onlyLoopbackKey struct{}

// OnlyLoopback returns a request for which a transport of Provision dials only loopback addresses, if it is
// one in the clear to localhost: a name that a resolver may lead anywhere. Requests that are allowed in
// the clear must not share a transport with it, because they could leave a connection behind.
func OnlyLoopback(req *http.Request) *http.Request {
	if name, _, _ := strings.Cut(req.URL.Host, ":"); req.URL.Scheme != "http" || !strings.EqualFold(name, "localhost") {
		return req
	}
	return req.WithContext(context.WithValue(req.Context(), onlyLoopbackKey{}, true))
}

// WithOnlyLoopback is a transport that sends each request as OnlyLoopback returns it.
type WithOnlyLoopback struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t WithOnlyLoopback) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.RoundTripper.RoundTrip(OnlyLoopback(req))
}

// guardLocalhost returns a dialer that closes a connection before anything is sent, if it leads away from
// this machine and must not.
func guardLocalhost(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil || ctx.Value(onlyLoopbackKey{}) == nil || staysHere(conn.RemoteAddr()) {
			return conn, err
		}
		_ = conn.Close()
		return nil, neterror.ErrNotLoopback
	}
}

// staysHere reports whether an address is on this machine for certain: loopback or a unix socket.
func staysHere(address net.Addr) bool {
	switch address := address.(type) {
	case *net.TCPAddr:
		return address.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	default:
		return false
	}
}
