package keys_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
)

func TestCertificateThumbprint(t *testing.T) {
	for _, name := range []string{"rsa", "ec256", "ec521", "ed25519"} {
		certificate := keystest.CertificateFor(t, name)
		block, _ := pem.Decode(certificate)
		sum := sha256.Sum256(block.Bytes)
		chain := append(append([]byte("subject=x\n"), certificate...), keystest.CertificateFor(t, "rsa")...)
		for what, text := range map[string][]byte{
			"alone": certificate, "first of a chain": chain, "after its key": append(keystest.PEM(t, name), certificate...),
		} {
			got, err := keys.CertificateThumbprint(text, keystest.PEM(t, name))
			if want := base64.RawURLEncoding.EncodeToString(sum[:]); err != nil || got != want {
				t.Errorf("%s, %s: %q, %v, want %q", name, what, got, err, want)
			}
		}
	}
}

func TestCertificateWithoutThumbprint(t *testing.T) {
	key := keystest.PEM(t, "ec256")
	broken := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("nothing")})
	for _, test := range []struct {
		certificate, key []byte
		say              string
	}{
		{keystest.CertificateFor(t, "rsa"), key, "does not belong"},
		{key, key, "not a PEM certificate"},
		{nil, key, "not a PEM certificate"},
		{broken, key, "not a readable certificate"},
		{keystest.CertificateFor(t, "ec256"), []byte("hunter2"), "neither a PEM private key"},
	} {
		if _, err := keys.CertificateThumbprint(test.certificate, test.key); err == nil || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v", test.say, err)
		}
	}
}
