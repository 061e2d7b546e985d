package keys

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// Certificate is a client certificate and its private key in two PEM files, which may be replaced at
// any time.
type Certificate struct {
	CertFile, KeyFile string

	last LastGood[certificatePair, *tls.Certificate]
}

// certificatePair is the content of the two files.
type certificatePair struct{ certificate, key string }

// NewCertificate returns the certificate in two files, which are read by Load. owner is told when they
// become unusable; it may be nil.
func NewCertificate(certFile, keyFile string, owner Owner) *Certificate {
	c := &Certificate{CertFile: certFile, KeyFile: keyFile}
	c.last.Owner = owner
	return c
}

// Load returns the certificate as the files are now, or the last good one while they are being
// replaced; the same pointer as long as they do not change. It returns either a certificate or an
// error.
func (c *Certificate) Load() (*tls.Certificate, error) { return c.LoadWith(placeholder.ReadFile) }

// LoadWith is Load with the caller's function to read a file.
func (c *Certificate) LoadWith(readFile func(string) (string, error)) (*tls.Certificate, error) {
	certificate, err := readPart(readFile, c.CertFile)
	key, keyErr := readPart(readFile, c.KeyFile)
	return c.last.Get(certificatePair{certificate, key}, errors.Join(err, keyErr), c.parse)
}

// readPart reads one of the two files.
func readPart(readFile func(string) (string, error), file string) (string, error) {
	content, err := readFile(file)
	if err != nil {
		return "", fmt.Errorf("client_certificate: %w", err)
	}
	return content, nil
}

func (c *Certificate) parse(pair certificatePair) (*tls.Certificate, error) {
	certificate, err := tls.X509KeyPair([]byte(pair.certificate), []byte(pair.key))
	if err != nil {
		why := cmp.Or(whyUnusable(c.CertFile, pair.certificate), whyUnusable(c.KeyFile, pair.key),
			c.CertFile+" and "+c.KeyFile+" are not a PEM certificate and its private key")
		return nil, errors.New("client_certificate: " + why)
	}
	return &certificate, nil
}
