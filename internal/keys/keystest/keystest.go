package keystest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
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
)

var Keys = sync.OnceValue(func() map[string]any {
	keys := make(map[string]any)
	keys["rsa"], _ = rsa.GenerateKey(rand.Reader, 2048)
	keys["weak"], _ = rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // it is to be refused
	keys["ec256"], _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	keys["ec384"], _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	keys["ec521"], _ = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	keys["ec224"], _ = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	_, keys["ed25519"], _ = ed25519.GenerateKey(rand.Reader)
	return keys
})

// Public returns the public half of a test key.
func Public(name string) any {
	switch key := Keys()[name].(type) {
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

// PEM returns a test key in PKCS #8.
func PEM(t *testing.T, name string) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(Keys()[name])
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func JWK(t *testing.T, jwk jose.JSONWebKey) []byte {
	t.Helper()
	text, err := json.Marshal(jwk)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// WriteCertificate makes a self-signed certificate with a key of its own and writes both.
func WriteCertificate(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key := Keys()["ec256"]
	if name == "second" {
		key = Keys()["ec384"]
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	public := Public("ec256")
	if name == "second" {
		public = Public("ec384")
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
	PutFile(t, certFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	PutFile(t, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return certFile, keyFile
}

func PutFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func GetFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
