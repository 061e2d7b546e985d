package httptransport

import (
	"crypto/tls"
	"net/http"
	"sync"
)

// ByCertificate makes copies of one transport that differ in their client certificate. Each certificate
// needs a transport of its own, so that a connection that was opened with one is never used for
// another. Two copies are kept, because tokens that are bound to the previous certificate stay in use
// for a while.
type ByCertificate struct {
	// Base is the transport to copy. It has no client certificate.
	Base *http.Transport

	mu     sync.Mutex
	copies [2]certifiedTransport // newest first
}

type certifiedTransport struct {
	certificate *tls.Certificate
	transport   *http.Transport
}

// For returns the transport with the certificate, or Base if it is nil.
func (t *ByCertificate) For(certificate *tls.Certificate) *http.Transport {
	if certificate == nil {
		return t.Base
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.copies {
		if c.certificate == certificate {
			return c.transport
		}
	}
	if old := t.copies[1].transport; old != nil {
		old.CloseIdleConnections()
	}
	t.copies[1] = t.copies[0]
	t.copies[0] = certifiedTransport{certificate, withCertificate(t.Base, certificate)}
	return t.copies[0].transport
}

// CloseIdleConnections closes the idle connections of Base and its copies.
func (t *ByCertificate) CloseIdleConnections() {
	t.Base.CloseIdleConnections()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.copies {
		if c.transport != nil {
			c.transport.CloseIdleConnections()
		}
	}
}

// withCertificate returns a copy of base that sends the certificate to every server that requests one,
// whichever certificate authorities the server names.
func withCertificate(base *http.Transport, certificate *tls.Certificate) *http.Transport {
	transport := base.Clone()
	transport.DialTLSContext = nil // its handshake would not send the certificate
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
