package httphelper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// provisionTransport provisions an http transport of Caddy's, with our rules for forward proxies.
func provisionTransport(ctx caddy.Context, t *reverseproxy.HTTPTransport) error {
	takeOverForwardProxy(t)
	if err := t.Provision(ctx); err != nil {
		return err
	}
	guardForwardProxy(t.Transport)
	return nil
}

// chooseForwardProxyFirst leaves the choice of a forward proxy to throughForwardProxy, which comes
// before the http transport.
func (r *route) chooseForwardProxyFirst() {
	t := r.Transport
	r.forwardProxy, t.Proxy = t.Proxy, chosenForwardProxy
	t.DialContext, t.DialTLSContext = dialingUpstream(t.DialContext), dialingUpstream(t.DialTLSContext)
}

// throughForwardProxy chooses the forward proxy of a request, once, and takes the upstream's address
// off a request that has one.
//
// Caddy's dialer dials that address whatever address net/http asks for, unless the proxy is noted
// among the variables of Caddy's request. Pings and health checks have no variables, so net/http
// would send the proxy's password to the API. Unix sockets are dialed without a proxy.
func (r *route) throughForwardProxy(req *http.Request) (*http.Request, error) {
	dial, _ := reverseproxy.GetDialInfo(req.Context())
	if r.forwardProxy == nil || strings.HasPrefix(dial.Network, "unix") {
		return req, nil
	}
	proxy, err := r.forwardProxy(req)
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

// guardForwardProxy has a transport pass a forward proxy over TLS only, and say what that refuses.
func guardForwardProxy(t *http.Transport) {
	t.Proxy = refuseCleartextProxy(t.Proxy)
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
		if res.StatusCode != http.StatusOK {
			return forwardProxyError(res.StatusCode)
		}
		return nil
	}
}

// forwardProxyError is the status with which a forward proxy refuses to connect.
type forwardProxyError int

func (e forwardProxyError) Error() string {
	return fmt.Sprintf("the forward proxy refused with status %d", int(e))
}

// errCleartextProxy is why a request in the clear does not go to a forward proxy, which could read
// its token or secret.
var errCleartextProxy = errors.New("a request in the clear must not pass a forward proxy: use https, or except the host in NO_PROXY")

// refuseCleartextProxy lets only requests over TLS pass a forward proxy.
func refuseCleartextProxy(proxy func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if proxy == nil { // network_proxy none
		return nil
	}
	return func(req *http.Request) (*url.URL, error) {
		u, err := proxy(withReplacer(req))
		if u != nil && req.URL.Scheme != "https" {
			return nil, &refusalError{notAllowed(errCleartextProxy.Error())}
		}
		return u, err
	}
}

// withReplacer makes placeholders in the proxy's URL work for requests of our own too.
func withReplacer(req *http.Request) *http.Request {
	if req.Context().Value(caddy.ReplacerCtxKey) != nil {
		return req
	}
	return req.WithContext(context.WithValue(req.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
}
