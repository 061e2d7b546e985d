package httphelper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

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
			return nil, errCleartextProxy
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
