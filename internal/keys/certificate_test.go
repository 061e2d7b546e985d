package keys

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
)

func newLoader(t *testing.T) *Certificate {
	t.Helper()
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	loader := &Certificate{CertFile: certFile, KeyFile: keyFile}
	loader.Last.Owner = onUnusable(func(error) {})
	return loader
}

func mustLoad(t *testing.T, l *Certificate) *tls.Certificate {
	t.Helper()
	certificate, err := l.Load()
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
	keystest.WriteCertificate(t, filepath.Dir(loader.CertFile), "second")
	if second := mustLoad(t, loader); second == first || second.Leaf.Subject.CommonName != "second" {
		t.Errorf("loaded %v", second.Leaf.Subject)
	}
}

// damages are what may be wrong with the files of a certificate.
func damages(t *testing.T) map[string]func(*Certificate) {
	t.Helper()
	other, _ := keystest.WriteCertificate(t, t.TempDir(), "second")
	return map[string]func(*Certificate){
		"no certificate":    func(l *Certificate) { _ = os.Remove(l.CertFile) },
		"no key":            func(l *Certificate) { _ = os.Remove(l.KeyFile) },
		"empty certificate": func(l *Certificate) { keystest.PutFile(t, l.CertFile, "") },
		"half a key":        func(l *Certificate) { keystest.PutFile(t, l.KeyFile, keystest.GetFile(t, l.KeyFile)[:100]) },
		"garbage as key":    func(l *Certificate) { keystest.PutFile(t, l.KeyFile, "hunter2") },
		"another's key":     func(l *Certificate) { keystest.PutFile(t, l.CertFile, keystest.GetFile(t, other)) },
	}
}

// wantNoCertificate wants an error that says what is wrong, and no certificate at all.
func wantNoCertificate(t *testing.T, l *Certificate) {
	t.Helper()
	certificate, err := l.Load()
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
					time.Sleep(ReplacementTime - time.Second)
				}
				time.Sleep(time.Second)
				wantNoCertificate(t, loader)
				keystest.WriteCertificate(t, filepath.Dir(loader.CertFile), "second")
				if second := mustLoad(t, loader); second.Leaf.Subject.CommonName != "second" {
					t.Errorf("loaded %v", second.Leaf.Subject)
				}
			})
		})
	}
}
