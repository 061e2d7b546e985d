package forward

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// refusingAPI is an API over HTTP/2 that does not process the first requests.
type refusingAPI struct {
	refuse func(framer *http2.Framer, stream uint32) // instead of a response
	times  int
	early  bool // before the body has come

	mu     sync.Mutex
	proofs []string // in the requests, those that are refused included
	bodies []string // of the requests that are processed
}

// refuseStream refuses one stream of the connection.
func refuseStream(framer *http2.Framer, stream uint32) {
	_ = framer.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
}

// goAway closes the connection, whose last stream that is processed was before.
func goAway(framer *http2.Framer, _ uint32) { _ = framer.WriteGoAway(0, http2.ErrCodeNo, nil) }

// start serves the API until the test ends, and returns a transport to it.
func (a *refusingAPI) start(t *testing.T) *Transport {
	t.Helper()
	// Only for its certificate.
	server := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: server.TLS.Certificates, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go a.serve(conn)
		}
	}()
	base := server.Client().Transport.(*http.Transport).Clone()
	base.ForceAttemptHTTP2 = true
	base.DialContext = func(_ context.Context, network, _ string) (net.Conn, error) {
		return net.Dial(network, listener.Addr().String())
	}
	t.Cleanup(base.CloseIdleConnections)
	return &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), Base: base}
}

// serve serves one connection.
func (a *refusingAPI) serve(conn net.Conn) {
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = framer.WriteSettings()
	bodies := make(map[uint32]*bytes.Buffer)
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		var ended bool
		stream := frame.Header().StreamID
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
			continue
		case *http2.MetaHeadersFrame:
			bodies[stream], ended = new(bytes.Buffer), frame.StreamEnded()
			a.note(frame)
			if a.early && a.refuses() {
				a.refuse(framer, stream)
				delete(bodies, stream)
			}
		case *http2.DataFrame:
			if bodies[stream] != nil {
				bodies[stream].Write(frame.Data())
				ended = frame.StreamEnded()
			}
		default:
			continue
		}
		if ended && bodies[stream] != nil {
			a.respond(framer, stream, bodies[stream].String())
		}
	}
}

func (a *refusingAPI) note(frame *http2.MetaHeadersFrame) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, field := range frame.RegularFields() {
		if field.Name == "dpop" {
			a.proofs = append(a.proofs, field.Value)
		}
	}
}

// refuses reports whether one more request is refused.
func (a *refusingAPI) refuses() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times--
	return a.times >= 0
}

func (a *refusingAPI) respond(framer *http2.Framer, stream uint32, body string) {
	if a.refuses() {
		a.refuse(framer, stream)
		return
	}
	a.mu.Lock()
	a.bodies = append(a.bodies, body)
	a.mu.Unlock()
	var block bytes.Buffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
}

// send sends a POST to the API as a request of the app.
func send(t *testing.T, transport *Transport, body io.Reader, token *oauth.Token) (*http.Response, error) {
	t.Helper()
	q := &Request{
		Context: t.Context(), options: &Options{Field: "Authorization", ReplayBuffer: 1000},
		Conn:   &Connection{Tracing: new(telemetry.Tracing), Tokens: noTokens{}},
		Target: &Target{Base: &url.URL{Scheme: "https", Host: "example.com"}},
	}
	return transport.sendWithBody(httptest.NewRequest(http.MethodPost, "/x", body), q, token)
}

// noTokens has no token but the one in use.
type noTokens struct{ Tokens }

func (noTokens) Accept(*oauth.Token) {}

// TestRequestThatAConnectionHasNotProcessedIsSentAgain if its body is still there, and with a proof of its
// own: the API may have seen the first one.
func TestRequestThatAConnectionHasNotProcessedIsSentAgain(t *testing.T) {
	key, err := oauth.GenerateDPoPKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, refuse := range map[string]func(*http2.Framer, uint32){"REFUSED_STREAM": refuseStream, "GOAWAY": goAway} {
		for when, early := range map[string]bool{"before the body": true, "after the body": false} {
			t.Run(name+" "+when, func(t *testing.T) {
				api := &refusingAPI{refuse: refuse, times: 1, early: early}
				transport := api.start(t)
				res, err := send(t, transport, io.MultiReader(bytes.NewReader([]byte("hello"))), &oauth.Token{Value: "t1", DPoP: key})
				if err != nil {
					t.Fatal(err)
				}
				_ = res.Body.Close()
				api.mu.Lock()
				defer api.mu.Unlock()
				if !slices.Equal(api.bodies, []string{"hello"}) {
					t.Errorf("the API got %q", api.bodies)
				}
				if len(api.proofs) != 2 || api.proofs[0] == api.proofs[1] {
					t.Errorf("proofs %q", api.proofs)
				}
			})
		}
	}
}

func TestRequestThatDoesNotFitTheBufferIsNotSentAgain(t *testing.T) {
	api := &refusingAPI{refuse: refuseStream, times: 1}
	res, err := send(t, api.start(t), bytes.NewReader(make([]byte, 2000)), &oauth.Token{Value: "t1"})
	if err == nil {
		_ = res.Body.Close()
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	if !errors.Is(sanitizeError(err), errNotSentAgain) || len(api.bodies) != 0 {
		t.Errorf("got %v; the API got %d requests", err, len(api.bodies))
	}
}
