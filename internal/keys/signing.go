// Package keys reads private keys and client certificates, and keeps the last good ones in use while
// their files are replaced. It does not know what is signed with a key or to whom a certificate is
// shown. Its errors quote no content of a file.
package keys

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

const minRSABits = 2048 // bits

// SigningKey is a key with the algorithm that it signs with.
type SigningKey struct {
	Key any    // as go-jose takes it
	ID  string // the kid header of a signature; "": none
	Alg jose.SignatureAlgorithm
}

// Parse parses a private key, PEM or JWK. keyID and alg override what a JWK says; without either, the
// algorithm is the default for the type of the key.
func Parse(text []byte, keyID, alg string) (*SigningKey, error) {
	jwk, err := parsePrivate(text)
	if err != nil {
		return nil, err
	}
	usable, err := algorithmsFor(jwk.Key)
	if err != nil {
		return nil, err
	}
	key := &SigningKey{Key: jwk.Key, ID: cmp.Or(keyID, jwk.KeyID)}
	key.Alg = jose.SignatureAlgorithm(cmp.Or(alg, cmp.Or(jwk.Algorithm, string(usable[0]))))
	if !slices.Contains(usable, key.Alg) {
		return nil, fmt.Errorf("its algorithm does not fit the key: set signing_alg to one of %s", JoinAlgorithms(usable))
	}
	return key, nil
}

// Thumbprint returns the hash of the public key, which identifies the key and reveals nothing of it
// (RFC 7638).
func (k *SigningKey) Thumbprint() (string, error) {
	hash, err := (&jose.JSONWebKey{Key: k.Key}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(hash), err
}

// Check reports what is wrong with a private key, PEM or JWK, apart from its algorithm.
func Check(text []byte) error {
	_, err := parsePrivate(text)
	return err
}

func parsePrivate(text []byte) (jose.JSONWebKey, error) {
	text = bytes.TrimSpace(text)
	if bytes.HasPrefix(text, []byte("{")) {
		return parseJWK(text)
	}
	key, err := parsePEM(text)
	return jose.JSONWebKey{Key: key}, err
}

func parseJWK(text []byte) (jose.JSONWebKey, error) {
	var header struct {
		Keys []json.RawMessage `json:"keys"`
		Type string            `json:"kty"`
	}
	var jwk jose.JSONWebKey
	switch {
	case json.Unmarshal(text, &header) == nil && header.Keys != nil:
		return jwk, errors.New("a set of JWKs: give one of its keys")
	case header.Type == "oct":
		return jwk, errors.New("a symmetric JWK: a private key is needed; for a shared secret there is auth_method client_secret_jwt")
	case jwk.UnmarshalJSON(text) != nil || !jwk.Valid():
		return jwk, errors.New("not a usable JWK (RFC 7517)")
	case jwk.IsPublic():
		return jwk, errors.New("a public key: the private one is needed")
	case jwk.Use != "" && jwk.Use != "sig":
		return jwk, errors.New("a JWK that is not for signatures")
	case !halvesFit(jwk.Key):
		return jwk, errors.New("a JWK whose private and public half are not of one key")
	}
	return jwk, nil
}

// halvesFit reports whether the public half of an EC key belongs to the private one. For other types of
// keys, parsing checks that.
func halvesFit(key any) bool {
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return true
	}
	private, err := ec.Bytes()
	if err != nil {
		return false
	}
	whole, err := ecdsa.ParseRawPrivateKey(ec.Curve, private)
	return err == nil && whole.Equal(ec)
}

// parsePEM parses the first private key in text, and skips what precedes it.
func parsePEM(text []byte) (any, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case !strings.HasSuffix(block.Type, "PRIVATE KEY"):
		case isEncrypted(block):
			return nil, errors.New("an encrypted key: decrypt it first, with openssl pkey -in FILE -out key.pem")
		default:
			return parsePrivateDER(block.Bytes)
		}
	}
	if isPKCS12(string(text)) {
		return nil, errors.New("a PKCS#12 file: take the key out of it, with openssl pkcs12 -in FILE -nocerts -noenc -out key.pem")
	}
	return nil, errors.New("neither a PEM private key nor a JWK")
}

func parsePrivateDER(der []byte) (any, error) {
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errors.New("not a readable PKCS #8, PKCS #1 or EC private key")
}

// algorithmsFor returns the algorithms that a key can be used with (RFC 7518 §3.1, RFC 8037), the
// default first.
func algorithmsFor(key any) ([]jose.SignatureAlgorithm, error) {
	switch key := key.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("an RSA key of less than %d bits (RFC 7518)", minRSABits)
		}
		return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}, nil
	case *ecdsa.PrivateKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case 384:
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		case 521:
			return []jose.SignatureAlgorithm{jose.ES512}, nil
		}
	case ed25519.PrivateKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	}
	return nil, errors.New("a kind of key that cannot be used: use RSA, EC P-256, P-384 or P-521, or Ed25519")
}

// JoinAlgorithms returns a list of algorithms for an error message.
func JoinAlgorithms(algorithms []jose.SignatureAlgorithm) string {
	names := make([]string, len(algorithms))
	for i, alg := range algorithms {
		names[i] = string(alg)
	}
	return strings.Join(names, ", ")
}
