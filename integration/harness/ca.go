package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// CA is a certificate authority of the test's own.
type CA struct {
	File string // its certificate, PEM

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	leaf tls.Certificate // for the servers of the test
}

// NewCA makes a CA, and a server certificate for loopback and for names under `.test`.
func NewCA(tb testing.TB) *CA {
	tb.Helper()
	ca := &CA{key: newKey(tb), File: filepath.Join(tb.TempDir(), "ca.pem")}
	template := template("test CA")
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	ca.cert = sign(tb, template, template, ca.key, ca.key)
	WriteFile(tb, ca.File, certPEM(ca.cert))
	ca.leaf = ca.server(tb, "localhost", "*.test")
	return ca
}

func (ca *CA) server(tb testing.TB, names ...string) tls.Certificate {
	key := newKey(tb)
	template := template(names[0])
	template.DNSNames = names
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	cert := sign(tb, template, ca.cert, key, ca.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

// ServerConfig is the TLS configuration of the test's servers. They accept a client
// certificate of any issuer, and require none.
func (ca *CA) ServerConfig() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{ca.leaf},
		ClientAuth:   tls.RequestClientCert,
		MinVersion:   tls.VersionTLS12,
	}
}

// Pool contains the CA's certificate.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// ServerPEM returns the certificate of the test's servers and its key.
func (ca *CA) ServerPEM(tb testing.TB) (cert, key string) {
	tb.Helper()
	return certPEM(ca.leaf.Leaf), keyPEM(tb, ca.leaf.PrivateKey.(*ecdsa.PrivateKey))
}

// Client writes a client certificate and its key into files, replacing what was there.
func (ca *CA) Client(tb testing.TB, name, certFile, keyFile string) {
	tb.Helper()
	cert, key := ca.ClientPEM(tb, name)
	WriteFile(tb, keyFile, key)
	WriteFile(tb, certFile, cert)
}

// ClientPEM makes a client certificate and its key.
func (ca *CA) ClientPEM(tb testing.TB, name string) (cert, key string) {
	tb.Helper()
	private := newKey(tb)
	return certPEM(sign(tb, clientTemplate(name), ca.cert, private, ca.key)), keyPEM(tb, private)
}

// SelfSignedPEM makes a self-signed client certificate, and its key.
func SelfSignedPEM(tb testing.TB, name string) (cert, key string) {
	tb.Helper()
	private, template := newKey(tb), clientTemplate(name)
	return certPEM(sign(tb, template, template, private, private)), keyPEM(tb, private)
}

func clientTemplate(name string) *x509.Certificate {
	template := template(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return template
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func sign(tb testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func keyPEM(tb testing.TB, key *ecdsa.PrivateKey) string {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func certPEM(cert *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
}
