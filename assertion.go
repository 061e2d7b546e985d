package httphelper

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"golang.org/x/oauth2"
)

const (
	assertionType            = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	assertionJWTType         = "client-authentication+jwt" // RFC 7523bis
	defaultAssertionLifetime = time.Minute
)

var errCannotSign = errors.New("client_key: the key cannot sign")

// jwtAuth is client_secret_jwt and private_key_jwt: a signed statement of who the client is (RFC
// 7523 §2.2).
type jwtAuth struct {
	signer   jose.Signer
	clientID string
	audience string
	lifetime time.Duration
}

// assertionClaims are what the statement says. The audience is one text, not a list (RFC 7523bis).
type assertionClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expiry   int64  `json:"exp"`
	ID       string `json:"jti"`
}

func newSecretJWTAuth(m authMaterial) (clientAuth, error) {
	alg := jose.SignatureAlgorithm(cmp.Or(m.alg, string(jose.HS256)))
	hmacs := []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512}
	index := slices.Index(hmacs, alg)
	if index < 0 {
		return nil, fmt.Errorf("signing_alg: a secret cannot sign with %q: use %s", m.alg, joinAlgorithms(hmacs))
	}
	if least := 32 + 16*index; len(m.secret) < least {
		return nil, fmt.Errorf("%s: %s needs a secret of at least %d bytes (RFC 7518)", m.secretOption, alg, least)
	}
	return newJWTAuth(m, &signingKey{key: []byte(m.secret), id: m.keyID, alg: alg})
}

func newPrivateKeyJWTAuth(m authMaterial) (clientAuth, error) {
	if m.assertion != "" {
		return newMountedAssertion(m)
	}
	key, err := parseSigningKey(m.key, m.keyID, m.alg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.keyOption, err)
	}
	return newJWTAuth(m, key)
}

func newJWTAuth(m authMaterial, key *signingKey) (clientAuth, error) {
	options := new(jose.SignerOptions).WithType(assertionJWTType)
	if key.id != "" {
		options.WithHeader("kid", key.id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.alg, Key: key.key}, options)
	if err != nil {
		return nil, errCannotSign
	}
	return jwtAuth{
		signer: signer, clientID: m.clientID, audience: m.audience,
		lifetime: cmp.Or(m.lifetime, defaultAssertionLifetime),
	}, nil
}

func (a jwtAuth) credentials(endpoint string) (credentials, error) {
	now := time.Now()
	assertion, err := jwt.Signed(a.signer).Claims(assertionClaims{
		Issuer: a.clientID, Subject: a.clientID, Audience: cmp.Or(a.audience, endpoint),
		IssuedAt: now.Unix(), Expiry: now.Add(a.lifetime).Unix(), ID: rand.Text(),
	}).Serialize()
	if err != nil {
		return credentials{}, errCannotSign
	}
	return assertionCredentials(assertion), nil
}

// mountedAssertion is an assertion that the platform made.
type mountedAssertion string

func newMountedAssertion(m authMaterial) (clientAuth, error) {
	if strings.ContainsFunc(m.assertion, notInToken) {
		return nil, errors.New("client_assertion_file: not an assertion")
	}
	return mountedAssertion(m.assertion), nil
}

func (a mountedAssertion) credentials(string) (credentials, error) {
	return assertionCredentials(string(a)), nil
}

func assertionCredentials(assertion string) credentials {
	return credentials{style: oauth2.AuthStyleInParams, fields: url.Values{
		"client_assertion_type": {assertionType},
		"client_assertion":      {assertion},
	}}
}
