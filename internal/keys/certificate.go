package keys

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// Certificate reads a client certificate from its files.
type Certificate struct {
	CertFile, KeyFile string
	Last              LastGood[certificatePair, *tls.Certificate]
}

// certificatePair is what the files of a certificate and its key hold.
type certificatePair struct{ certificate, key string }

// Load returns the certificate as the files are now, or the last one while they are replaced; the
// same pointer as long as they do not change. Without a usable pair there is an error, never no
// certificate.
func (l *Certificate) Load() (*tls.Certificate, error) { return l.LoadWith(placeholder.ReadFile) }

// LoadWith is load with a reader of files of the caller's.
func (l *Certificate) LoadWith(readFile func(string) (string, error)) (*tls.Certificate, error) {
	var pair certificatePair
	var err, keyErr error
	pair.certificate, err = readFile(l.CertFile)
	pair.key, keyErr = readFile(l.KeyFile)
	if err := errors.Join(err, keyErr); err != nil {
		return l.Last.Get(pair, fmt.Errorf("client_certificate: %w", err), l.parse)
	}
	return l.Last.Get(pair, nil, l.parse)
}

func (l *Certificate) parse(pair certificatePair) (*tls.Certificate, error) {
	certificate, err := tls.X509KeyPair([]byte(pair.certificate), []byte(pair.key))
	if err != nil {
		return nil, fmt.Errorf("client_certificate: %s and %s are not a PEM certificate and its private key", l.CertFile, l.KeyFile)
	}
	return &certificate, nil
}
