package httphelper

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// writeCertificate makes a self-signed certificate with a key of its own and writes both.
func writeCertificate(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key := testKeys()["ec256"]
	if name == "second" {
		key = testKeys()["ec384"]
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	public := publicOf("ec256")
	if name == "second" {
		public = publicOf("ec384")
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	putFile(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	putFile(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return certFile, keyFile
}

func putFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func getFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func newLoader(t *testing.T) *certificateLoader {
	t.Helper()
	certFile, keyFile := writeCertificate(t, t.TempDir(), "first")
	loader := &certificateLoader{certFile: certFile, keyFile: keyFile}
	loader.last.owner = onUnusable(func(error) {})
	return loader
}

func mustLoad(t *testing.T, l *certificateLoader) *tls.Certificate {
	t.Helper()
	certificate, err := l.load()
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func TestCertificateIsReadAgain(t *testing.T) {
	loader := newLoader(t)
	first := mustLoad(t, loader)
	if mustLoad(t, loader) != first {
		t.Error("an unchanged certificate is another one")
	}
	writeCertificate(t, filepath.Dir(loader.certFile), "second")
	if second := mustLoad(t, loader); second == first || second.Leaf.Subject.CommonName != "second" {
		t.Errorf("loaded %v", second.Leaf.Subject)
	}
}

// damages are what may be wrong with the files of a certificate.
func damages(t *testing.T) map[string]func(*certificateLoader) {
	t.Helper()
	other, _ := writeCertificate(t, t.TempDir(), "second")
	return map[string]func(*certificateLoader){
		"no certificate":    func(l *certificateLoader) { _ = os.Remove(l.certFile) },
		"no key":            func(l *certificateLoader) { _ = os.Remove(l.keyFile) },
		"empty certificate": func(l *certificateLoader) { putFile(t, l.certFile, "") },
		"half a key":        func(l *certificateLoader) { putFile(t, l.keyFile, getFile(t, l.keyFile)[:100]) },
		"garbage as key":    func(l *certificateLoader) { putFile(t, l.keyFile, "hunter2") },
		"another's key":     func(l *certificateLoader) { putFile(t, l.certFile, getFile(t, other)) },
	}
}

// wantNoCertificate wants an error that says what is wrong, and no certificate at all.
func wantNoCertificate(t *testing.T, l *certificateLoader) {
	t.Helper()
	certificate, err := l.load()
	if certificate != nil || err == nil || !strings.Contains(err.Error(), "client_certificate") {
		t.Errorf("%v, %v", certificate, err)
	} else if strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func TestBrokenCertificateIsAnError(t *testing.T) {
	for name, damage := range damages(t) {
		t.Run(name, func(t *testing.T) {
			loader := newLoader(t)
			damage(loader)
			wantNoCertificate(t, loader)
		})
	}
}

// TestCertificateInReplacement: files are replaced one after the other, and meanwhile the last pair
// is in use. It must not stay in use silently when they are broken for good.
func TestCertificateInReplacement(t *testing.T) {
	for name, damage := range damages(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				loader := newLoader(t)
				first := mustLoad(t, loader)
				damage(loader)
				time.Sleep(time.Hour) // nobody has looked
				for range 2 {
					if mustLoad(t, loader) != first {
						t.Error("another certificate")
					}
					time.Sleep(replacementTime - time.Second)
				}
				time.Sleep(time.Second)
				wantNoCertificate(t, loader)
				writeCertificate(t, filepath.Dir(loader.certFile), "second")
				if second := mustLoad(t, loader); second.Leaf.Subject.CommonName != "second" {
					t.Errorf("loaded %v", second.Leaf.Subject)
				}
			})
		})
	}
}

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

func TestTLSClientAuth(t *testing.T) {
	server := mutualEndpoint(t, false)
	transports := &certificateTransports{base: server.Client().Transport.(*http.Transport)}
	loader := newLoader(t)
	if got := shownTo(t, server, transports, mustLoad(t, loader)); got != "first/HTTP/1.1" {
		t.Errorf("the server saw %s", got)
	}
	if transports.transportFor(nil) != transports.base {
		t.Error("without a certificate it is not the base transport")
	}
}

// TestCertificateIsShownWhateverAuthoritiesAreNamed: Go would otherwise send none to a server that
// names authorities that have not issued it.
func TestCertificateIsShownWhateverAuthoritiesAreNamed(t *testing.T) {
	server := mutualEndpoint(t, false)
	server.TLS.ClientCAs = x509.NewCertPool()
	server.TLS.ClientCAs.AddCert(server.Certificate())
	if got := shownTo(t, server, &certificateTransports{base: server.Client().Transport.(*http.Transport)}, mustLoad(t, newLoader(t))); !strings.HasPrefix(got, "first/") {
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
	if got := shownTo(t, server, &certificateTransports{base: base}, mustLoad(t, newLoader(t))); !strings.HasPrefix(got, "first/") {
		t.Errorf("the server saw %s", got)
	}
}

// shownTo makes a request and returns what the server saw.
func shownTo(t *testing.T, server *httptest.Server, transports *certificateTransports, certificate *tls.Certificate) string {
	t.Helper()
	res, err := (&http.Client{Transport: transports.transportFor(certificate)}).Post(server.URL, "", nil)
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
			checkSeparation(t, server, &certificateTransports{base: base}, test.proto)
		})
	}
}

func configureHTTP2(transport *http.Transport) error {
	transport.ForceAttemptHTTP2 = false
	return http2.ConfigureTransport(transport)
}

func checkSeparation(t *testing.T, server *httptest.Server, transports *certificateTransports, proto string) {
	t.Helper()
	defer transports.CloseIdleConnections()
	loader := newLoader(t)
	first := mustLoad(t, loader)
	seen := func(certificate *tls.Certificate, want string) {
		t.Helper()
		if got := shownTo(t, server, transports, certificate); got != want+proto {
			t.Errorf("the server saw %s, want %s", got, want)
		}
	}
	seen(nil, "nobody")
	seen(first, "first")
	defer occupy(t, server, transports.transportFor(first))()
	writeCertificate(t, filepath.Dir(loader.certFile), "second")
	second := mustLoad(t, loader)
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
	transports := &certificateTransports{base: new(http.Transport)}
	shownTo(t, server, transports, new(tls.Certificate))
	transports.transportFor(new(tls.Certificate))
	transports.transportFor(new(tls.Certificate))
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection stays open")
	}
}

func TestOnlyTheLastTwoTransportsAreKept(t *testing.T) {
	transports := &certificateTransports{base: new(http.Transport)}
	certificates := []*tls.Certificate{new(tls.Certificate), new(tls.Certificate), new(tls.Certificate)}
	var made []*http.Transport
	for _, certificate := range certificates {
		made = append(made, transports.transportFor(certificate))
	}
	if transports.transportFor(certificates[1]) != made[1] || transports.transportFor(certificates[2]) != made[2] {
		t.Error("a transport in use was replaced")
	}
	if transports.transportFor(certificates[0]) == made[0] {
		t.Error("an old transport was kept")
	}
}
