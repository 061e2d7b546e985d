package forward

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
)

// chooseForwardProxyFirst moves the choice of a forward proxy from the http transport to
// throughForwardProxy, which runs before it.
func (t *Transport) chooseForwardProxyFirst() {
	inner := t.Transport
	t.forwardProxy, inner.Proxy = inner.Proxy, chosenForwardProxy
	inner.DialContext, inner.DialTLSContext = dialingUpstream(inner.DialContext), dialingUpstream(inner.DialTLSContext)
}

// throughForwardProxy chooses the forward proxy of a request, and removes the address to dial from the
// context of a request that has one. Unix sockets are dialed without a proxy.
//
// Caddy's dialer dials that address whatever net/http wants to dial, unless the proxy is among the
// variables of Caddy's request. Pings and health checks have no variables, so net/http would send the
// proxy's password to the API.
func (t *Transport) throughForwardProxy(req *http.Request, q *Request) (*http.Request, error) {
	if dial, _ := q.dialInfo(req); t.forwardProxy == nil || strings.HasPrefix(dial.Network, "unix") {
		return req, nil
	}
	proxy, err := t.forwardProxy(req)
	if proxy == nil || err != nil {
		return req, err
	}
	return req.WithContext(context.WithValue(withoutDialInfo(req.Context()), chosenProxyKey{}, &chosenProxy{proxy})), nil
}

// chosenProxy is the forward proxy of a request. Printing a context prints a *url.URL with its password,
// but not a pointer to this.
type chosenProxy struct{ url *url.URL }

type chosenProxyKey struct{}

// chosenForwardProxy returns the forward proxy of a request, as http.Transport.Proxy.
func chosenForwardProxy(req *http.Request) (*url.URL, error) {
	if chosen, ok := req.Context().Value(chosenProxyKey{}).(*chosenProxy); ok {
		return chosen.url, nil
	}
	return nil, nil
}

// dialingUpstream makes Caddy's dialer dial the upstream in the context, even if another handler has
// sent the same request through a forward proxy before.
func dialingUpstream(dial httptransport.DialFunc) httptransport.DialFunc {
	if dial == nil {
		return nil
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if upstream, ok := reverseproxy.GetDialInfo(ctx); ok {
			network, address = upstream.Network, upstream.Address
		}
		return dial(ctx, network, address)
	}
}
