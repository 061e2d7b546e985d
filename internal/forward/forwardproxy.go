package forward

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// chooseForwardProxyFirst leaves the choice of a forward proxy to throughForwardProxy, which comes
// before the http transport.
func (t *Transport) chooseForwardProxyFirst() {
	inner := t.Transport
	t.forwardProxy, inner.Proxy = inner.Proxy, chosenForwardProxy
	inner.DialContext, inner.DialTLSContext = dialingUpstream(inner.DialContext), dialingUpstream(inner.DialTLSContext)
}

// throughForwardProxy chooses the forward proxy of a request, once, and takes the upstream's address
// off a request that has one.
//
// Caddy's dialer dials that address whatever address net/http asks for, unless the proxy is noted
// among the variables of Caddy's request. Pings and health checks have no variables, so net/http
// would send the proxy's password to the API. Unix sockets are dialed without a proxy.
func (t *Transport) throughForwardProxy(req *http.Request) (*http.Request, error) {
	dial, _ := reverseproxy.GetDialInfo(req.Context())
	if t.forwardProxy == nil || strings.HasPrefix(dial.Network, "unix") {
		return req, nil
	}
	proxy, err := t.forwardProxy(req)
	if proxy == nil || err != nil {
		return req, err
	}
	ctx := context.WithValue(req.Context(), dialInfoKey, nil)
	return req.WithContext(context.WithValue(ctx, chosenProxyKey{}, &chosenProxy{proxy})), nil
}

// chosenProxy is the forward proxy that a request goes through. A context that is printed prints the
// text of a *url.URL, but not of this.
type chosenProxy struct{ url *url.URL }

type chosenProxyKey struct{}

// chosenForwardProxy is what net/http asks for the forward proxy of a request.
func chosenForwardProxy(req *http.Request) (*url.URL, error) {
	if chosen, ok := req.Context().Value(chosenProxyKey{}).(*chosenProxy); ok {
		return chosen.url, nil
	}
	return nil, nil
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// dialingUpstream makes Caddy's dialer dial the upstream that a request names, even if another
// handler has sent the same request through a forward proxy before.
func dialingUpstream(dial dialFunc) dialFunc {
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
