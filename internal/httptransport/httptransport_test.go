package httptransport

import (
	"encoding/json"
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

// TestProxyURLReplacesCaddysModule, which logs the URL with its password at debug, wherever it can.
func TestProxyURLReplacesCaddysModule(t *testing.T) {
	const known, unknown = "http://joe:{env.PROXY_PASSWORD}@proxy.example:3128", "http://{http.request.host}:3128"
	for name, test := range map[string]struct {
		transport reverseproxy.HTTPTransport
		module    string
	}{
		"network_proxy":               {reverseproxy.HTTPTransport{NetworkProxyRaw: []byte(`{"from": "url", "url": "` + known + `"}`)}, "http_helper"},
		"forward_proxy_url":           {reverseproxy.HTTPTransport{ForwardProxyURL: known}, "http_helper"},
		"unknown placeholder":         {reverseproxy.HTTPTransport{NetworkProxyRaw: []byte(`{"from": "url", "url": "` + unknown + `"}`)}, "url"},
		"unknown in the older option": {reverseproxy.HTTPTransport{ForwardProxyURL: unknown}, ""},
		"none":                        {reverseproxy.HTTPTransport{NetworkProxyRaw: []byte(`{"from": "none"}`)}, "none"},
		"nothing":                     {reverseproxy.HTTPTransport{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			transport := &test.transport
			replaceProxyModule(transport)
			var chosen struct{ From string }
			_ = json.Unmarshal(transport.NetworkProxyRaw, &chosen)
			if chosen.From != test.module || transport.ForwardProxyURL != "" && chosen.From != "" {
				t.Errorf("the module is %q, forward_proxy_url %q", chosen.From, transport.ForwardProxyURL)
			}
		})
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
