package keys_test

import (
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
