package keys

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
)

// CertificateThumbprint returns the thumbprint of the first certificate in PEM text (x5t#S256, RFC 7515
// §4.1.8). The certificate must belong to the private key.
func CertificateThumbprint(certificate, privateKey []byte) (string, error) {
	block, rest := pem.Decode(certificate)
	for block != nil && block.Type != "CERTIFICATE" {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return "", errors.New("not a PEM certificate")
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", errors.New("not a readable certificate")
	}
	private, err := parsePrivate(privateKey)
	if err != nil {
		return "", err
	}
	signer, ok := private.Key.(crypto.Signer)
	public, hasEqual := parsed.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !hasEqual || !public.Equal(signer.Public()) {
		return "", errors.New("the certificate does not belong to the client's private key")
	}
	sum := sha256.Sum256(block.Bytes)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
