package httptransport

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
)

func TestOnlyTLSUsesAForwardProxy(t *testing.T) {
	proxy := &url.URL{Scheme: "http", Host: "proxy.example:3128"}
	broken := errors.New("no URL")
	for name, test := range map[string]struct {
		proxy *url.URL
		err   error
		url   string
		want  error
	}{
		"TLS":                    {proxy, nil, "https://api.example", nil},
		"in the clear":           {proxy, nil, "http://api.example", neterror.ErrCleartextProxy},
		"in the clear, excepted": {nil, nil, "http://api.example", nil},
		"no proxy URL":           {nil, broken, "https://api.example", broken},
	} {
		t.Run(name, func(t *testing.T) {
			guarded := refuseCleartext(func(*http.Request) (*url.URL, error) { return test.proxy, test.err })
			u, err := guarded(httptest.NewRequest(http.MethodGet, test.url, nil))
			if !errors.Is(err, test.want) || err == nil && u != test.proxy {
				t.Errorf("got %v, %v; want %v", u, err, test.want)
			}
		})
	}
	if refuseCleartext(nil) != nil {
		t.Error("without a forward proxy there is a function to find one")
	}
}

// Pings and token requests do not come through Caddy's server, which gives requests their replacer.
func TestForwardProxyWithPlaceholdersForARequestWithoutReplacer(t *testing.T) {
	for name, transport := range map[string]*reverseproxy.HTTPTransport{
		"network_proxy":     {NetworkProxyRaw: []byte(`{"from": "url", "url": "http://proxy.example:3128/{http.request.uuid}"}`)},
		"forward_proxy_url": {ForwardProxyURL: "http://proxy.example:3128/{http.request.uuid}"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
			defer cancel()
			if err := Provision(ctx, transport); err != nil {
				t.Fatal(err)
			}
			u, err := transport.Transport.Proxy(httptest.NewRequest(http.MethodGet, "https://api.example", nil))
			if err != nil || u == nil || u.Host != "proxy.example:3128" {
				t.Errorf("got %v, %v", u, err)
			}
		})
	}
}

func TestRefusalOfAForwardProxyKeepsItsStatus(t *testing.T) {
	transport := new(http.Transport)
	guardForwardProxy(transport)
	for _, status := range []int{http.StatusOK, http.StatusProxyAuthRequired} {
		proxy := &url.URL{Host: "proxy:3128", User: url.UserPassword("app", "hunter2")}
		err := transport.OnProxyConnectResponse(t.Context(), proxy, nil, &http.Response{StatusCode: status})
		var refused neterror.ProxyStatusError
		if errors.As(err, &refused) != (status != http.StatusOK) || err != nil && refused != (neterror.ProxyStatusError{Status: status, Proxy: "proxy:3128"}) {
			t.Errorf("%d: got %v", status, err)
		}
	}
}
