package httptransport

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
)

// mutualEndpoint asks every client for a certificate and responds with the name in it.
func mutualEndpoint(t *testing.T, http2 bool) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name := "nobody"
		if len(req.TLS.PeerCertificates) > 0 {
			name = req.TLS.PeerCertificates[0].Subject.CommonName
		}
		if req.URL.Path == "/wait" {
			_, _ = io.Copy(io.Discard, req.Body)
		}
		_, _ = fmt.Fprintf(w, "%s/%s", name, req.Proto)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.EnableHTTP2 = http2
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func TestCertificateIsShown(t *testing.T) {
	server := mutualEndpoint(t, false)
	transports := &ByCertificate{Base: server.Client().Transport.(*http.Transport)}
	certificate := keystest.NewCertificate(t)
	if got := shownTo(t, server, transports, keystest.MustLoad(t, certificate)); got != "first/HTTP/1.1" {
		t.Errorf("the server saw %s", got)
	}
	if transports.For(nil) != transports.Base {
		t.Error("without a certificate it is not the base transport")
	}
}

// TestCertificateIsShownWhateverAuthoritiesAreNamed: Go would otherwise send none to a server that
// names authorities that have not issued it.
func TestCertificateIsShownWhateverAuthoritiesAreNamed(t *testing.T) {
	server := mutualEndpoint(t, false)
	server.TLS.ClientCAs = x509.NewCertPool()
	server.TLS.ClientCAs.AddCert(server.Certificate())
	if got := shownTo(t, server, &ByCertificate{Base: server.Client().Transport.(*http.Transport)}, keystest.MustLoad(t, keystest.NewCertificate(t))); !strings.HasPrefix(got, "first/") {
		t.Errorf("the server saw %s", got)
	}
}

// TestCertificateIsShownWithADialerOfTheBase: Caddy makes one for some options, which would show
// nothing.
func TestCertificateIsShownWithADialerOfTheBase(t *testing.T) {
	server := mutualEndpoint(t, false)
	base := server.Client().Transport.(*http.Transport)
	dialer := &tls.Dialer{Config: base.TLSClientConfig}
	base.DialTLSContext = dialer.DialContext
	if got := shownTo(t, server, &ByCertificate{Base: base}, keystest.MustLoad(t, keystest.NewCertificate(t))); !strings.HasPrefix(got, "first/") {
		t.Errorf("the server saw %s", got)
	}
}

// shownTo makes a request and returns what the server saw.
func shownTo(t *testing.T, server *httptest.Server, transports *ByCertificate, certificate *tls.Certificate) string {
	t.Helper()
	res, err := (&http.Client{Transport: transports.For(certificate)}).Post(server.URL, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	seen, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(seen)
}

// TestNoConnectionWithAnotherCertificate: connections must not be shared between certificates,
// not even while one of them is in use by another request, and not with HTTP/2. Caddy configures
// HTTP/2 by hand, whereupon a plain copy of its transport would share connections.
func TestNoConnectionWithAnotherCertificate(t *testing.T) {
	for name, test := range map[string]struct {
		http2     bool
		configure func(*http.Transport) error
		proto     string
	}{
		"HTTP/1.1":          {false, func(*http.Transport) error { return nil }, "/HTTP/1.1"},
		"HTTP/2":            {true, func(*http.Transport) error { return nil }, "/HTTP/2.0"},
		"configured HTTP/2": {true, configureHTTP2, "/HTTP/2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			server := mutualEndpoint(t, test.http2)
			base := server.Client().Transport.(*http.Transport)
			if err := test.configure(base); err != nil {
				t.Fatal(err)
			}
			checkSeparation(t, server, &ByCertificate{Base: base}, test.proto)
		})
	}
}

func configureHTTP2(transport *http.Transport) error {
	transport.ForceAttemptHTTP2 = false
	return http2.ConfigureTransport(transport)
}

func checkSeparation(t *testing.T, server *httptest.Server, transports *ByCertificate, proto string) {
	t.Helper()
	defer transports.CloseIdleConnections()
	certificate := keystest.NewCertificate(t)
	first := keystest.MustLoad(t, certificate)
	seen := func(certificate *tls.Certificate, want string) {
		t.Helper()
		if got := shownTo(t, server, transports, certificate); got != want+proto {
			t.Errorf("the server saw %s, want %s", got, want)
		}
	}
	seen(nil, "nobody")
	seen(first, "first")
	defer occupy(t, server, transports.For(first))()
	keystest.WriteCertificate(t, filepath.Dir(certificate.CertFile), "second")
	second := keystest.MustLoad(t, certificate)
	for range 3 {
		seen(second, "second")
		seen(first, "first")
		seen(nil, "nobody")
	}
}

// occupy keeps a connection in use until finish is called.
func occupy(t *testing.T, server *httptest.Server, transport http.RoundTripper) (finish func()) {
	t.Helper()
	reader, writer := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/wait", reader)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	group.Go(func() {
		if resp, err := transport.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	})
	// The pipe has no buffer: once this returns, the request has a connection.
	_, _ = writer.Write([]byte("x"))
	return func() {
		_ = writer.Close()
		group.Wait()
	}
}

// TestOldTransportClosesItsConnections waits for the server to see it.
func TestOldTransportClosesItsConnections(t *testing.T) {
	closed := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(closed)
		}
	}
	server.Start()
	defer server.Close()
	transports := &ByCertificate{Base: new(http.Transport)}
	shownTo(t, server, transports, new(tls.Certificate))
	transports.For(new(tls.Certificate))
	transports.For(new(tls.Certificate))
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection stays open")
	}
}

func TestOnlyTheLastTwoTransportsAreKept(t *testing.T) {
	transports := &ByCertificate{Base: new(http.Transport)}
	certificates := []*tls.Certificate{new(tls.Certificate), new(tls.Certificate), new(tls.Certificate)}
	var made []*http.Transport
	for _, certificate := range certificates {
		made = append(made, transports.For(certificate))
	}
	if transports.For(certificates[1]) != made[1] || transports.For(certificates[2]) != made[2] {
		t.Error("a transport in use was replaced")
	}
	if transports.For(certificates[0]) == made[0] {
		t.Error("an old transport was kept")
	}
}
