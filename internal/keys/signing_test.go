package keys_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
)

func TestAlgorithmByKeyType(t *testing.T) {
	for name, want := range map[string]jose.SignatureAlgorithm{
		"rsa": jose.RS256, "ec256": jose.ES256, "ec384": jose.ES384, "ec521": jose.ES512, "ed25519": jose.EdDSA,
	} {
		for _, text := range [][]byte{keystest.PEM(t, name), keystest.JWK(t, jose.JSONWebKey{Key: keystest.Key(name)})} {
			if key, err := keys.Parse(text, "", ""); err != nil || key.Alg != want || key.ID != "" {
				t.Errorf("%s: %+v, %v", name, key, err)
			}
		}
	}
}

func TestKeyFormats(t *testing.T) {
	rsaKey, ecKey := keystest.Key("rsa").(*rsa.PrivateKey), keystest.Key("ec384").(*ecdsa.PrivateKey)
	ecDER, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	ecPEM := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ecDER}))
	for name, text := range map[string]string{
		"PKCS #1":           string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)})),
		"EC":                ecPEM,
		"after parameters":  string(pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 5}})) + ecPEM,
		"after a comment":   "Bag Attributes\n  friendlyName: x\n" + ecPEM,
		"surrounded":        "\n\n  " + ecPEM + "\n\n",
		"surrounded JWK":    "\n " + string(keystest.JWK(t, jose.JSONWebKey{Key: ecKey})) + "\n",
		"JWK for signature": string(keystest.JWK(t, jose.JSONWebKey{Key: ecKey, Use: "sig", Algorithm: "ES384"})),
	} {
		if _, err := keys.Parse([]byte(text), "", ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyIDAndAlgorithm(t *testing.T) {
	jwk := keystest.JWK(t, jose.JSONWebKey{Key: keystest.Key("rsa"), KeyID: "own", Algorithm: "PS384"})
	for _, test := range []struct {
		keyID, alg, wantID string
		wantAlg            jose.SignatureAlgorithm
	}{
		{"", "", "own", jose.PS384},
		{"given", "", "given", jose.PS384},
		{"", "RS512", "own", jose.RS512},
	} {
		if key, err := keys.Parse(jwk, test.keyID, test.alg); err != nil || key.ID != test.wantID || key.Alg != test.wantAlg {
			t.Errorf("%+v: %+v, %v", test, key, err)
		}
	}
}

// otherExponent returns an RSA key whose signatures its public half does not verify.
func otherExponent(key *rsa.PrivateKey) *rsa.PrivateKey {
	return &rsa.PrivateKey{PublicKey: key.PublicKey, D: new(big.Int).Add(key.D, big.NewInt(2)), Primes: key.Primes}
}

func TestUnusableKeys(t *testing.T) {
	block, _ := pem.Decode(keystest.PEM(t, "ec256"))
	legacy := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES-256-CBC,00"}, Bytes: block.Bytes})
	certificate, _ := keystest.WriteCertificate(t, t.TempDir(), "app")
	for name, test := range map[string]struct{ text, alg, say string }{
		"empty":           {"", "", "neither"},
		"text":            {"hunter2", "", "neither"},
		"certificate":     {keystest.ReadFile(t, certificate), "", "neither"},
		"truncated":       {string(keystest.PEM(t, "rsa")[:200]), "", "neither"},
		"garbage":         {"-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n", "", "not a readable"},
		"encrypted":       {"-----BEGIN ENCRYPTED PRIVATE KEY-----\naHVudGVyMg==\n-----END ENCRYPTED PRIVATE KEY-----\n", "", "encrypted"},
		"old encryption":  {string(legacy), "", "encrypted"},
		"unknown curve":   {string(keystest.PEM(t, "ec224")), "", "kind of key"},
		"JSON":            {`{"hunter2":1}`, "", "JWK"},
		"broken JSON":     {`{"kty":"EC","d":"hunter2"`, "", "JWK"},
		"symmetric JWK":   {`{"kty":"oct","k":"aHVudGVyMg"}`, "", "client_secret_jwt"},
		"JWK set":         {`{"keys":[` + string(keystest.JWK(t, jose.JSONWebKey{Key: keystest.Key("ec256")})) + `]}`, "", "a set"},
		"empty JWK set":   {`{"keys":[]}`, "", "a set"},
		"for encryption":  {string(keystest.JWK(t, jose.JSONWebKey{Key: keystest.Key("rsa"), Use: "enc"})), "", "not for signatures"},
		"weak":            {string(keystest.PEM(t, "weak")), "", "2048"},
		"weak JWK":        {string(keystest.JWK(t, jose.JSONWebKey{Key: keystest.Key("weak")})), "RS256", "2048"},
		"other's point":   {`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ"}`, "", "one key"},
		"other's half":    {`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ"}`, "", "JWK"},
		"other's RSA":     {string(keystest.JWK(t, jose.JSONWebKey{Key: otherExponent(keystest.Key("rsa").(*rsa.PrivateKey))})), "", "JWK"},
		"public JWK":      {string(keystest.JWK(t, jose.JSONWebKey{Key: keystest.Public("ec256")})), "", "public"},
		"wrong algorithm": {string(keystest.PEM(t, "ec256")), "RS256", "ES256"},
		"no algorithm":    {string(keystest.PEM(t, "rsa")), "none", "RS256"},
		"HMAC":            {string(keystest.PEM(t, "rsa")), "HS256", "RS256"},
		"wrong in JWK":    {string(keystest.JWK(t, jose.JSONWebKey{Key: keystest.Key("rsa"), Algorithm: "RSA-OAEP"})), "", "signing_alg"},
	} {
		_, err := keys.Parse([]byte(test.text), "", test.alg)
		if err == nil || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "aHVudGVy") {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
}
