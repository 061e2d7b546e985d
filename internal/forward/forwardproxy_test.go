package forward

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// requestTo returns a request of Caddy's for which upstream is dialed and not its host.
func requestTo(t *testing.T, upstream string, vars map[string]any) *http.Request {
	t.Helper()
	ctx := WithDialInfo(t.Context(), reverseproxy.DialInfo{Network: "tcp", Address: upstream})
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, vars)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api.invalid/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// TestUpstreamIsDialedAfterAForwardProxyOfAnotherHandler: Caddy keeps the other handler's proxy among the
// variables of the request.
func TestUpstreamIsDialedAfterAForwardProxyOfAnotherHandler(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer api.Close()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	transport, err := NewTransport(ctx, []byte("{}"), TransportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = transport.Cleanup() }()
	proxy := &url.URL{Scheme: "http", Host: "proxy.invalid"}
	req := requestTo(t, api.Listener.Addr().String(), map[string]any{"reverse_proxy.proxy": proxy})
	if req, err = transport.throughForwardProxy(req, new(Request)); err != nil {
		t.Fatal(err)
	}
	res, err := transport.Base.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
}

// TestRequestThroughAForwardProxyNamesNoUpstream: Caddy's dialer would dial it instead of the proxy.
func TestRequestThroughAForwardProxyNamesNoUpstream(t *testing.T) {
	proxy := &url.URL{Scheme: "http", Host: "proxy.invalid", User: url.UserPassword("app", "hunter2")}
	transport := &Transport{forwardProxy: func(*http.Request) (*url.URL, error) { return proxy, nil }}
	req, err := transport.throughForwardProxy(requestTo(t, "127.0.0.1:1", nil), new(Request))
	if err != nil {
		t.Fatal(err)
	}
	if dial, ok := reverseproxy.GetDialInfo(req.Context()); ok {
		t.Errorf("%s is dialed", dial)
	}
	if got, err := chosenForwardProxy(req); got != proxy || err != nil {
		t.Errorf("the forward proxy is %v, %v", got, err)
	}
	if text := fmt.Sprint(req.Context()); strings.Contains(text, "hunter2") {
		t.Errorf("the context prints the password: %s", text)
	}
}
