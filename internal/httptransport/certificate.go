package httptransport

import (
	"crypto/tls"
	"net/http"
	"sync"
)

// ByCertificate are copies of one transport that differ in the client certificate that
// they show. A connection opened with one certificate is never used with another: that is why each
// has a transport of its own. The last two are kept, because tokens that are bound to the older
// certificate stay in use for a while.
type ByCertificate struct {
	Base *http.Transport

	mu   sync.Mutex
	last [2]certifiedTransport // the newest first
}

type certifiedTransport struct {
	certificate *tls.Certificate
	transport   *http.Transport
}

// For returns the transport that shows the certificate; without one, the base.
func (t *ByCertificate) For(certificate *tls.Certificate) *http.Transport {
	if certificate == nil {
		return t.Base
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
	t.last[0] = certifiedTransport{certificate, withCertificate(t.Base, certificate)}
	return t.last[0].transport
}

// CloseIdleConnections closes what is open and not in use.
func (t *ByCertificate) CloseIdleConnections() {
	t.Base.CloseIdleConnections()
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
