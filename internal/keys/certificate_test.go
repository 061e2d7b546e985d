package keys_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
)

func TestCertificateIsReadAgain(t *testing.T) {
	certificate := keystest.NewCertificate(t)
	first := keystest.MustLoad(t, certificate)
	if keystest.MustLoad(t, certificate) != first {
		t.Error("an unchanged certificate is another one")
	}
	keystest.WriteCertificate(t, filepath.Dir(certificate.CertFile), "second")
	if second := keystest.MustLoad(t, certificate); second == first || second.Leaf.Subject.CommonName != "second" {
		t.Errorf("loaded %v", second.Leaf.Subject)
	}
}

// damages returns what may be wrong with the files of a certificate.
func damages(t *testing.T) map[string]func(*keys.Certificate) {
	t.Helper()
	other, _ := keystest.WriteCertificate(t, t.TempDir(), "second")
	return map[string]func(*keys.Certificate){
		"no certificate":    func(c *keys.Certificate) { _ = os.Remove(c.CertFile) },
		"no key":            func(c *keys.Certificate) { _ = os.Remove(c.KeyFile) },
		"empty certificate": func(c *keys.Certificate) { keystest.WriteFile(t, c.CertFile, "") },
		"half a key":        func(c *keys.Certificate) { keystest.WriteFile(t, c.KeyFile, keystest.ReadFile(t, c.KeyFile)[:100]) },
		"garbage as key":    func(c *keys.Certificate) { keystest.WriteFile(t, c.KeyFile, "hunter2") },
		"another's key":     func(c *keys.Certificate) { keystest.WriteFile(t, c.CertFile, keystest.ReadFile(t, other)) },
	}
}

// wantNoCertificate checks that there is an error that says what is wrong, and no certificate.
func wantNoCertificate(t *testing.T, c *keys.Certificate) {
	t.Helper()
	certificate, err := c.Load()
	if certificate != nil || err == nil || !strings.Contains(err.Error(), "client_certificate") {
		t.Errorf("%v, %v", certificate, err)
	} else if strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func TestBrokenCertificateIsAnError(t *testing.T) {
	for name, damage := range damages(t) {
		t.Run(name, func(t *testing.T) {
			certificate := keystest.NewCertificate(t)
			damage(certificate)
			wantNoCertificate(t, certificate)
		})
	}
}

// TestCertificateInReplacement replaces files one after the other: meanwhile the last pair is in use.
// It must not stay in use silently when the files are broken for good.
func TestCertificateInReplacement(t *testing.T) {
	for name, damage := range damages(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				certificate := keystest.NewCertificate(t)
				first := keystest.MustLoad(t, certificate)
				damage(certificate)
				time.Sleep(time.Hour) // nobody has looked
				for range 2 {
					if keystest.MustLoad(t, certificate) != first {
						t.Error("another certificate")
					}
					time.Sleep(keys.ReplacementTime - time.Second)
				}
				time.Sleep(time.Second)
				wantNoCertificate(t, certificate)
				keystest.WriteCertificate(t, filepath.Dir(certificate.CertFile), "second")
				if second := keystest.MustLoad(t, certificate); second.Leaf.Subject.CommonName != "second" {
					t.Errorf("loaded %v", second.Leaf.Subject)
				}
			})
		})
	}
}

// TestMissingFiles has every line of an error name the option.
func TestMissingFiles(t *testing.T) {
	c := keystest.NewCertificate(t)
	for _, file := range []string{c.CertFile, c.KeyFile} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf("client_certificate: reading file %s: no such file or directory\nclient_certificate: reading file %s: no such file or directory", c.CertFile, c.KeyFile)
	if _, err := c.Load(); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestWhatIsNoPEM names the format of what is given instead of PEM, and how to convert it.
func TestWhatIsNoPEM(t *testing.T) {
	const (
		pkcs8  = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
		legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMAAA\n-----END RSA PRIVATE KEY-----\n"
		pfx    = "\x30\x82\x09\x9f\x02\x01\x03\x30\x82\x09\x65"
		der    = "\x30\x82\x03\x0b\x30\x82\x01\xf3\xa0\x03\x02\x01\x02"
	)
	for name, test := range map[string]struct{ cert, key, want string }{
		"encrypted":                {"", pkcs8, "KEY is an encrypted key: decrypt it, with openssl pkey -in KEY -out"},
		"encrypted, OpenSSL's":     {"", legacy, "KEY is an encrypted key"},
		"PKCS#12":                  {pfx, "", "CERT is a PKCS#12 file: take certificate and key out of it, with openssl pkcs12 -in CERT"},
		"PKCS#12 in both":          {pfx, pfx, "CERT is a PKCS#12 file"},
		"PKCS#12 as key":           {"", pfx, "KEY is a PKCS#12 file"},
		"DER":                      {der, "", "CERT is in DER: convert it to PEM, a certificate with openssl x509 -inform der"},
		"one byte":                 {"\x30", "", "CERT is in DER"},
		"cut off after its length": {"\x30\x82", "", "CERT is in DER"},
	} {
		t.Run(name, func(t *testing.T) {
			c := keystest.NewCertificate(t)
			if test.cert != "" {
				keystest.WriteFile(t, c.CertFile, test.cert)
			}
			if test.key != "" {
				keystest.WriteFile(t, c.KeyFile, test.key)
			}
			want := strings.NewReplacer("CERT", c.CertFile, "KEY", c.KeyFile).Replace("client_certificate: " + test.want)
			if _, err := c.Load(); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
			if test.key != "" {
				if err := keys.Check([]byte(test.key)); err == nil || !strings.Contains(err.Error(), "openssl p") {
					t.Errorf("as a signing key: %v", err)
				}
			}
		})
	}
}
