package httptransport

import (
	"context"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
)

// Provision provisions an http transport of Caddy's, with our rules for forward proxies.
func Provision(ctx caddy.Context, t *reverseproxy.HTTPTransport) error {
	replaceProxyModule(t)
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
			return neterror.ProxyStatusError(res.StatusCode)
		}
		return nil
	}
}

// refuseCleartextProxy lets only requests over TLS pass a forward proxy.
func refuseCleartextProxy(proxy func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if proxy == nil { // network_proxy none
		return nil
	}
	return func(req *http.Request) (*url.URL, error) {
		u, err := proxy(withReplacer(req))
		if u != nil && req.URL.Scheme != "https" {
			return nil, neterror.ErrCleartextProxy
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
