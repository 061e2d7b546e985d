package httphelper

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

var testKeys = sync.OnceValue(func() map[string]any {
	keys := make(map[string]any)
	keys["rsa"], _ = rsa.GenerateKey(rand.Reader, 2048)
	keys["weak"], _ = rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // it is to be refused
	keys["ec256"], _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	keys["ec384"], _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	keys["ec521"], _ = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	keys["ec224"], _ = ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	_, keys["ed25519"], _ = ed25519.GenerateKey(rand.Reader)
	return keys
})

// publicOf returns the public half of a test key.
func publicOf(name string) any {
	switch key := testKeys()[name].(type) {
	case *rsa.PrivateKey:
		return key.Public()
	case *ecdsa.PrivateKey:
		return key.Public()
	case ed25519.PrivateKey:
		return key.Public()
	default:
		return nil
	}
}

// testKeyPEM returns a test key in PKCS #8.
func testKeyPEM(t *testing.T, name string) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(testKeys()[name])
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func testJWK(t *testing.T, jwk jose.JSONWebKey) []byte {
	t.Helper()
	text, err := json.Marshal(jwk)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAlgorithmByKeyType(t *testing.T) {
	for name, want := range map[string]jose.SignatureAlgorithm{
		"rsa": jose.RS256, "ec256": jose.ES256, "ec384": jose.ES384, "ec521": jose.ES512, "ed25519": jose.EdDSA,
	} {
		for _, text := range [][]byte{testKeyPEM(t, name), testJWK(t, jose.JSONWebKey{Key: testKeys()[name]})} {
			if key, err := parseSigningKey(text, "", ""); err != nil || key.alg != want || key.id != "" {
				t.Errorf("%s: %+v, %v", name, key, err)
			}
		}
	}
}

func TestKeyFormats(t *testing.T) {
	rsaKey, ecKey := testKeys()["rsa"].(*rsa.PrivateKey), testKeys()["ec384"].(*ecdsa.PrivateKey)
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
		"surrounded JWK":    "\n " + string(testJWK(t, jose.JSONWebKey{Key: ecKey})) + "\n",
		"JWK for signature": string(testJWK(t, jose.JSONWebKey{Key: ecKey, Use: "sig", Algorithm: "ES384"})),
	} {
		if _, err := parseSigningKey([]byte(text), "", ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeyIDAndAlgorithm(t *testing.T) {
	jwk := testJWK(t, jose.JSONWebKey{Key: testKeys()["rsa"], KeyID: "own", Algorithm: "PS384"})
	for _, test := range []struct {
		keyID, alg, wantID string
		wantAlg            jose.SignatureAlgorithm
	}{
		{"", "", "own", jose.PS384},
		{"given", "", "given", jose.PS384},
		{"", "RS512", "own", jose.RS512},
	} {
		if key, err := parseSigningKey(jwk, test.keyID, test.alg); err != nil || key.id != test.wantID || key.alg != test.wantAlg {
			t.Errorf("%+v: %+v, %v", test, key, err)
		}
	}
}

// otherExponent is an RSA key that signs what its public half does not verify.
func otherExponent(key *rsa.PrivateKey) *rsa.PrivateKey {
	return &rsa.PrivateKey{PublicKey: key.PublicKey, D: new(big.Int).Add(key.D, big.NewInt(2)), Primes: key.Primes}
}

func TestUnusableKeys(t *testing.T) {
	block, _ := pem.Decode(testKeyPEM(t, "ec256"))
	legacy := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"DEK-Info": "AES-256-CBC,00"}, Bytes: block.Bytes})
	certificate, _ := writeCertificate(t, t.TempDir(), "app")
	for name, test := range map[string]struct{ text, alg, say string }{
		"empty":           {"", "", "neither"},
		"text":            {"hunter2", "", "neither"},
		"certificate":     {getFile(t, certificate), "", "neither"},
		"truncated":       {string(testKeyPEM(t, "rsa")[:200]), "", "neither"},
		"garbage":         {"-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n", "", "not a readable"},
		"encrypted":       {"-----BEGIN ENCRYPTED PRIVATE KEY-----\naHVudGVyMg==\n-----END ENCRYPTED PRIVATE KEY-----\n", "", "encrypted"},
		"old encryption":  {string(legacy), "", "encrypted"},
		"unknown curve":   {string(testKeyPEM(t, "ec224")), "", "kind of key"},
		"JSON":            {`{"hunter2":1}`, "", "JWK"},
		"broken JSON":     {`{"kty":"EC","d":"hunter2"`, "", "JWK"},
		"symmetric JWK":   {`{"kty":"oct","k":"aHVudGVyMg"}`, "", "client_secret_jwt"},
		"JWK set":         {`{"keys":[` + string(testJWK(t, jose.JSONWebKey{Key: testKeys()["ec256"]})) + `]}`, "", "a set"},
		"empty JWK set":   {`{"keys":[]}`, "", "a set"},
		"for encryption":  {string(testJWK(t, jose.JSONWebKey{Key: testKeys()["rsa"], Use: "enc"})), "", "not for signatures"},
		"weak":            {string(testKeyPEM(t, "weak")), "", "2048"},
		"weak JWK":        {string(testJWK(t, jose.JSONWebKey{Key: testKeys()["weak"]})), "RS256", "2048"},
		"other's point":   {`{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ"}`, "", "one key"},
		"other's half":    {`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","d":"aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMmh1bnQ"}`, "", "JWK"},
		"other's RSA":     {string(testJWK(t, jose.JSONWebKey{Key: otherExponent(testKeys()["rsa"].(*rsa.PrivateKey))})), "", "JWK"},
		"public JWK":      {string(testJWK(t, jose.JSONWebKey{Key: publicOf("ec256")})), "", "public"},
		"wrong algorithm": {string(testKeyPEM(t, "ec256")), "RS256", "ES256"},
		"no algorithm":    {string(testKeyPEM(t, "rsa")), "none", "RS256"},
		"HMAC":            {string(testKeyPEM(t, "rsa")), "HS256", "RS256"},
		"wrong in JWK":    {string(testJWK(t, jose.JSONWebKey{Key: testKeys()["rsa"], Algorithm: "RSA-OAEP"})), "", "signing_alg"},
	} {
		_, err := parseSigningKey([]byte(test.text), "", test.alg)
		if err == nil || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "aHVudGVy") {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
}
