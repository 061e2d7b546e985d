package httphelper

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync"
)

// certificateLoader reads a client certificate from its files.
type certificateLoader struct {
	certFile, keyFile string
	last              lastGood[certificatePair, *tls.Certificate]
}

// certificatePair is what the files of a certificate and its key hold.
type certificatePair struct{ certificate, key string }

// load returns the certificate as the files are now, or the last one while they are replaced; the
// same pointer as long as they do not change. Without a usable pair there is an error, never no
// certificate.
func (l *certificateLoader) load() (*tls.Certificate, error) { return l.loadWith(readSecretFile) }

// loadWith is load with a reader of files of the caller's.
func (l *certificateLoader) loadWith(readFile func(string) (string, error)) (*tls.Certificate, error) {
	var pair certificatePair
	var err, keyErr error
	pair.certificate, err = readFile(l.certFile)
	pair.key, keyErr = readFile(l.keyFile)
	if err := errors.Join(err, keyErr); err != nil {
		return l.last.of(pair, fmt.Errorf("client_certificate: %w", err), l.parse)
	}
	return l.last.of(pair, nil, l.parse)
}

func (l *certificateLoader) parse(pair certificatePair) (*tls.Certificate, error) {
	certificate, err := tls.X509KeyPair([]byte(pair.certificate), []byte(pair.key))
	if err != nil {
		return nil, fmt.Errorf("client_certificate: %s and %s are not a PEM certificate and its private key", l.certFile, l.keyFile)
	}
	return &certificate, nil
}

// certificateTransports are copies of one transport that differ in the client certificate that
// they show. A connection opened with one certificate is never used with another: that is why each
// has a transport of its own. The last two are kept, because tokens that are bound to the older
// certificate stay in use for a while.
type certificateTransports struct {
	base *http.Transport

	mu   sync.Mutex
	last [2]certifiedTransport // the newest first
}

type certifiedTransport struct {
	certificate *tls.Certificate
	transport   *http.Transport
}

// transportFor returns the transport that shows the certificate; without one, the base.
func (t *certificateTransports) transportFor(certificate *tls.Certificate) *http.Transport {
	if certificate == nil {
		return t.base
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, known := range t.last {
		if known.certificate == certificate {
			return known.transport
		}
	}
	if old := t.last[1].transport; old != nil {
		old.CloseIdleConnections()
	}
	t.last[1] = t.last[0]
	t.last[0] = certifiedTransport{certificate, withCertificate(t.base, certificate)}
	return t.last[0].transport
}

// CloseIdleConnections closes what is open and not in use.
func (t *certificateTransports) CloseIdleConnections() {
	t.base.CloseIdleConnections()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, known := range t.last {
		if known.transport != nil {
			known.transport.CloseIdleConnections()
		}
	}
}

// withCertificate returns a copy of base that shows the certificate to every server that asks for
// one, whichever authorities that server names.
func withCertificate(base *http.Transport, certificate *tls.Certificate) *http.Transport {
	transport := base.Clone()
	transport.DialTLSContext = nil // a handshake of base's own would not show the certificate
	if transport.TLSClientConfig == nil {
		transport.TLSClientConfig = new(tls.Config)
	}
	transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return certificate, nil
	}
	if _, ok := base.TLSNextProto["h2"]; ok {
		// The copied entry would share base's HTTP/2 connections.
		transport.TLSNextProto = nil
		transport.ForceAttemptHTTP2 = true
	}
	return transport
}
