package httphelper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
)

// instantTransport replaces the http transport. The response comes with the request, so that it costs
// nothing.
type instantTransport struct{}

type responseCtxKey struct{}

func (instantTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	return req.Context().Value(responseCtxKey{}).(*http.Response), nil
}

// discard is a response writer without cost of its own.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// benchRoute is the handler and the transport of a loaded connection with a token, around nothing.
func benchRoute(tb testing.TB) (*Handler, *Transport) {
	tb.Helper()
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { grantToken(w, "token", 3600) }))
	tb.Cleanup(idp.Close)
	config := fmt.Sprintf(`{"admin": {"disabled": true, "config": {"persist": false}}, "logging": {"logs": {"default": {"level": "ERROR"}}},
		"apps": {"http_helper": {"connections": {"c": {"base_url": "https://api.example.com/v2", "token_url": %q,
			"client_id": "id", "client_secret": "secret"}}}}}`, idp.URL)
	if err := caddy.Load([]byte(config), true); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = caddy.Stop() })
	ctx := caddy.ActiveContext()
	h, transport := &Handler{Connection: "c"}, &Transport{Connection: "c"}
	if err := errors.Join(h.Provision(ctx), transport.Provision(ctx)); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = transport.Cleanup() })
	if _, err := h.connection.tokens.source.Token(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	transport.transports[&h.connection.forward].Base = instantTransport{}
	return h, transport
}

// benchRequest is a request as the handler gets it. What reverse_proxy adds before the transport is
// not ours: it is left out but for the address to dial.
func benchRequest(ctx context.Context) *http.Request {
	req := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/orders/42?full=1", nil)
	req.RemoteAddr = "127.0.0.1:4711"
	for field, value := range map[string]string{"User-Agent": "app/1.0", "Accept": "*/*", "Accept-Encoding": "gzip", "X-Request-Id": "4711"} {
		req.Header.Set(field, value)
	}
	response := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"text/plain"}}, Body: http.NoBody}
	ctx = context.WithValue(ctx, responseCtxKey{}, response)
	ctx = forward.WithDialInfo(ctx, reverseproxy.DialInfo{Network: "tcp", Address: "api.example.com:443"})
	return caddyhttp.PrepareRequest(req.WithContext(ctx), caddy.NewReplacer(), discard{make(http.Header)}, &caddyhttp.Server{})
}

// serve is the way of a request through the handler, and through the transport if there is one.
func serve(tb testing.TB, h *Handler, transport *Transport) func() {
	tb.Helper()
	next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		if transport == nil {
			return nil
		}
		res, err := transport.RoundTrip(r)
		if err == nil && res.StatusCode != http.StatusOK {
			err = errors.New(res.Status)
		}
		return err
	})
	w, req := discard{make(http.Header)}, benchRequest(tb.Context())
	return func() {
		if err := h.ServeHTTP(w, req, next); err != nil {
			tb.Error(err)
		}
	}
}

// benchSteps runs steps alone and in parallel, where each goroutine makes its own.
func benchSteps(b *testing.B, newStep func() func()) {
	b.Helper()
	b.Run("alone", func(b *testing.B) {
		step := newStep()
		b.ReportAllocs()
		for b.Loop() {
			step()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			step := newStep()
			for pb.Next() {
				step()
			}
		})
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	h, transport := benchRoute(b)
	benchSteps(b, func() func() { return serve(b, h, transport) })
}

func BenchmarkHandler(b *testing.B) {
	h, _ := benchRoute(b)
	benchSteps(b, func() func() { return serve(b, h, nil) })
}

func BenchmarkTransport(b *testing.B) {
	h, transport := benchRoute(b)
	benchSteps(b, func() func() {
		req := benchRequest(b.Context())
		g, refused := h.admit(req)
		if refused != nil {
			b.Fatal(refused.Details)
		}
		req = req.WithContext(g)
		return func() {
			if _, err := transport.RoundTrip(req); err != nil {
				b.Error(err)
			}
		}
	})
}

// TestRequestsAllocateLittle: each request has a context of its own, as in Caddy, whose cost is subtracted.
func TestRequestsAllocateLittle(t *testing.T) {
	h, transport := benchRoute(t)
	next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		_, err := transport.RoundTrip(r)
		return err
	})
	w := discard{make(http.Header)}
	alone := testing.AllocsPerRun(1000, func() { benchRequest(t.Context()) })
	got := testing.AllocsPerRun(1000, func() {
		if err := h.ServeHTTP(w, benchRequest(t.Context()), next); err != nil {
			t.Error(err)
		}
	}) - alone
	const most = 7 // the last one is for the placeholders
	if got > most {
		t.Errorf("%v allocations in handler and transport, want at most %d", got, most)
	}
}
