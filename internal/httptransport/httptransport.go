// Package httptransport adjusts Caddy's http transport, for requests to APIs and to authorization
// servers alike: it applies the rules for forward proxies (Provision, ProxyURL), keeps the connections
// of client certificates apart (ByCertificate) and finds out why a dial failed. It knows
// neither tokens nor connections of the configuration.
package httptransport

import (
	"context"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
)

// Provision provisions an http transport so that it keeps to the rules for forward proxies: only
// requests over TLS use one, and its URL is a ProxyURL. For requests of OnlyLoopback it dials only loopback
// addresses.
func Provision(ctx caddy.Context, t *reverseproxy.HTTPTransport) error {
	replaceProxyModule(t)
	hasProxyModule := t.NetworkProxyRaw != nil || t.ForwardProxyURL != ""
	if err := t.Provision(ctx); err != nil {
		return err
	}
	if hasProxyModule {
		t.Transport.Proxy = givingReplacer(t.Transport.Proxy)
	}
	guardForwardProxy(t.Transport)
	t.Transport.DialContext = guardLocalhost(t.Transport.DialContext)
	explainDials(t.Transport)
	t.Transport.DialContext = poolingCopies(t.Transport.DialContext)
	return nil
}

// guardForwardProxy lets only requests over TLS use a forward proxy, and turns a refused CONNECT into a
// neterror.ProxyStatusError.
func guardForwardProxy(t *http.Transport) {
	t.Proxy = refuseCleartext(t.Proxy)
	t.OnProxyConnectResponse = func(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return neterror.ProxyStatusError{Status: resp.StatusCode, Proxy: proxy.Host}
		}
		return nil
	}
}

// refuseCleartext returns proxy with an error for requests in the clear that would use a forward proxy.
func refuseCleartext(proxy func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if proxy == nil { // network_proxy none
		return nil
	}
	return func(req *http.Request) (*url.URL, error) {
		u, err := proxy(req)
		if u != nil && req.URL.Scheme != "https" {
			return nil, neterror.ErrCleartextProxy
		}
		return u, err
	}
}

// givingReplacer returns the choice of one of Caddy's network_proxy modules with a replacer for each request,
// which the modules need for placeholders. Only requests that come through Caddy's server have one.
func givingReplacer(proxy func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if proxy == nil { // network_proxy none
		return nil
	}
	return func(req *http.Request) (*url.URL, error) {
		if req.Context().Value(caddy.ReplacerCtxKey) == nil {
			req = req.WithContext(context.WithValue(req.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer()))
		}
		return proxy(req)
	}
}
