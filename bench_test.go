package httphelper

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// answerAtOnce stands for the http transport.
type answerAtOnce struct{ res http.Response }

func (a *answerAtOnce) RoundTrip(*http.Request) (*http.Response, error) {
	res := a.res
	return &res, nil
}

// discard is a response writer without cost of its own.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// benchRoute is the handler and the transport of a loaded connection with a token, around nothing.
func benchRoute(b *testing.B) (*Handler, *Transport, *http.Request) {
	b.Helper()
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { grantToken(w, "token", 3600) }))
	b.Cleanup(idp.Close)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: b.Context()})
	b.Cleanup(cancel)
	config := &Connection{
		Service:  Service{BaseURL: "https://api.example.com/v2", TokenURL: idp.URL},
		ClientID: "id", ClientSecret: "secret",
	}
	app := &App{Connections: map[string]*Connection{"c": config}}
	if err := app.Provision(ctx); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = app.Cleanup() })
	_ = app.Start()
	if _, err := app.active["c"].source.Token(b.Context()); err != nil {
		b.Fatal(err)
	}
	h := &Handler{Connection: "c"}
	if err := h.provision(app); err != nil {
		b.Fatal(err)
	}
	transport := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), Connection: "c"}
	if err := transport.Injection.provision(); err != nil {
		b.Fatal(err)
	}
	conns, err := transport.connections(app)
	if err == nil {
		err = transport.provisionRoutes(ctx, conns)
	}
	if err != nil {
		b.Fatal(err)
	}
	transport.routes[h.chosen].inner = &answerAtOnce{http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/plain"}}, Body: http.NoBody}}
	req := httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8080/orders/42?full=1", nil)
	req.RemoteAddr = "127.0.0.1:4711"
	for field, value := range map[string]string{"User-Agent": "app/1.0", "Accept": "*/*", "Accept-Encoding": "gzip", "X-Request-Id": "4711"} {
		req.Header.Set(field, value)
	}
	// Under this key reverse_proxy tells its transport what to dial.
	dial := reverseproxy.DialInfo{Network: "tcp", Address: "api.example.com:443"}
	req = req.WithContext(context.WithValue(req.Context(), caddy.CtxKey("reverse_proxy.dial_info"), dial))
	req = caddyhttp.PrepareRequest(req, caddy.NewReplacer(), discard{make(http.Header)}, &caddyhttp.Server{})
	return h, transport, req
}

func benchRoundTrip(b *testing.B, run func(step func())) {
	h, transport, req := benchRoute(b)
	// What reverse_proxy does between the two is not ours: it is left out but for the dial address.
	next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		res, err := transport.RoundTrip(r)
		if err == nil && res.StatusCode != http.StatusOK {
			b.Fatal(res.StatusCode)
		}
		return err
	})
	w := discard{make(http.Header)}
	run(func() {
		if err := h.ServeHTTP(w, req, next); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	benchRoundTrip(b, func(step func()) {
		b.ReportAllocs()
		for b.Loop() {
			step()
		}
	})
}

func BenchmarkRoundTripParallel(b *testing.B) {
	benchRoundTrip(b, func(step func()) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				step()
			}
		})
	})
}
