package resolve

import (
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
)

// TestKeyAndItsCertificateAreReplacedOneAfterTheOther: meanwhile the last pair that fitted is in use.
func TestKeyAndItsCertificateAreReplacedOneAfterTheOther(t *testing.T) {
	oldKey, newKey := string(keystest.PEM(t, "ec256")), string(keystest.PEM(t, "ec384"))
	oldCertificate, newCertificate := string(keystest.CertificateFor(t, "ec256")), string(keystest.CertificateFor(t, "ec384"))
	files := useFiles(t, map[string]string{"/v/key": oldKey, "/v/crt": oldCertificate})
	spec := newSpec(t, "private_key_jwt")
	spec.TokenURL, spec.KeyFile, spec.KeyCertificateFile = parse(t, "https://auth.example/token"), parse(t, "/v/key"), parse(t, "/v/crt")
	c := newConnection(t, spec)
	want := func(what, key, certificate string) {
		t.Helper()
		creds, err := c.offlineResolver().credentials()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		thumbprint, err := keys.CertificateThumbprint([]byte(certificate), []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		if string(creds.Key) != key || creds.CertificateThumbprint != thumbprint {
			t.Errorf("%s: another pair", what)
		}
	}
	want("at first", oldKey, oldCertificate)
	before := c.Fingerprint()
	files.files["/v/key"] = newKey
	want("with the new key only", oldKey, oldCertificate)
	if c.Fingerprint() != before {
		t.Error("the fingerprint changes while the old pair is in use")
	}
	files.files["/v/crt"] = newCertificate
	want("with both", newKey, newCertificate)
	if c.Fingerprint() == before {
		t.Error("the fingerprint is that of the old pair")
	}
	renewed := string(keystest.CertificateFor(t, "ec384"))
	files.files["/v/crt"] = renewed
	want("with a renewed certificate", newKey, renewed)
	delete(files.files, "/v/crt")
	want("without the certificate", newKey, renewed)
}
