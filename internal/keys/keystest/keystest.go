// Package keystest has keys and certificates for tests. It must not be imported outside of them.
package keystest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
)

// generated makes the keys of all tests once.
var generated = sync.OnceValue(func() map[string]any {
	keys := make(map[string]any)
	keys["rsa"], _ = rsa.GenerateKey(rand.Reader, 2048)
	keys["weak"], _ = rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // tests that it is rejected
	keys["ec256"], _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	keys["ec384"], _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	keys["ec521"], _ = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	keys["ec224"], _ = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	_, keys["ed25519"], _ = ed25519.GenerateKey(rand.Reader)
	return keys
})

// Key returns a private key by its name: rsa, ec256, ec384, ec521 or ed25519; or weak or ec224, which
// must be rejected.
func Key(name string) any { return generated()[name] }

// Public returns the public half of a key.
func Public(name string) any {
	switch key := Key(name).(type) {
	case *rsa.PrivateKey:
		return key.Public()
	case *ecdsa.PrivateKey:
		return key.Public()
	case ed25519.PrivateKey:
		return key.Public()
	default:
		return nil
	}
}

// PEM returns a private key in PKCS #8.
func PEM(t *testing.T, name string) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(Key(name))
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// JWK returns a JWK as JSON.
func JWK(t *testing.T, jwk jose.JSONWebKey) []byte {
	t.Helper()
	text, err := json.Marshal(jwk)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// WriteCertificate writes a self-signed certificate with this common name, and its private key, to the
// same two files of dir each time. The certificate "second" has another key than the others.
func WriteCertificate(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key := "ec256"
	if name == "second" {
		key = "ec384"
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, Public(key), Key(key))
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	WriteFile(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	WriteFile(t, keyFile, string(PEM(t, key)))
	return certFile, keyFile
}

// CertificateFor returns a self-signed certificate of a key, in PEM, another one each time.
func CertificateFor(t *testing.T, name string) []byte {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, Public(name), Key(name))
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// NewCertificate returns the certificate "first", in files of its own.
func NewCertificate(t *testing.T) *keys.Certificate {
	t.Helper()
	certFile, keyFile := WriteCertificate(t, t.TempDir(), "first")
	return keys.NewCertificate(certFile, keyFile, nil)
}

// MustLoad loads a certificate that is usable.
func MustLoad(t *testing.T, c *keys.Certificate) *tls.Certificate {
	t.Helper()
	certificate, err := c.Load()
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// WriteFile writes a file that holds a secret.
func WriteFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ReadFile returns the content of a file.
func ReadFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
