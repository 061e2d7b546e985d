package oauth

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

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
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

func newSecretJWTAuth(m Credentials) (ClientAuth, error) {
	alg := jose.SignatureAlgorithm(cmp.Or(m.Alg, string(jose.HS256)))
	hmacs := []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512}
	index := slices.Index(hmacs, alg)
	if index < 0 {
		return nil, fmt.Errorf("signing_alg: a secret cannot sign with %q: use %s", m.Alg, keys.JoinAlgorithms(hmacs))
	}
	if least := 32 + 16*index; len(m.Secret) < least {
		return nil, fmt.Errorf("%s: %s needs a secret of at least %d bytes (RFC 7518)", m.SecretOption, alg, least)
	}
	return newJWTAuth(m, &keys.SigningKey{Key: []byte(m.Secret), ID: m.KeyID, Alg: alg})
}

func newPrivateKeyJWTAuth(m Credentials) (ClientAuth, error) {
	if m.Assertion != "" {
		return newMountedAssertion(m)
	}
	key, err := keys.Parse(m.Key, m.KeyID, m.Alg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.KeyOption, err)
	}
	return newJWTAuth(m, key)
}

func newJWTAuth(m Credentials, key *keys.SigningKey) (ClientAuth, error) {
	options := new(jose.SignerOptions).WithType(assertionJWTType)
	if key.ID != "" {
		options.WithHeader("kid", key.ID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.Alg, Key: key.Key}, options)
	if err != nil {
		return nil, errCannotSign
	}
	return jwtAuth{
		signer: signer, clientID: m.ClientID, audience: m.Audience,
		lifetime: cmp.Or(m.Lifetime, defaultAssertionLifetime),
	}, nil
}

func (a jwtAuth) Params(endpoint string) (AuthParams, error) {
	now := time.Now()
	assertion, err := jwt.Signed(a.signer).Claims(assertionClaims{
		Issuer: a.clientID, Subject: a.clientID, Audience: cmp.Or(a.audience, endpoint),
		IssuedAt: now.Unix(), Expiry: now.Add(a.lifetime).Unix(), ID: rand.Text(),
	}).Serialize()
	if err != nil {
		return AuthParams{}, errCannotSign
	}
	return AssertionCredentials(assertion), nil
}

// mountedAssertion is an assertion that the platform made.
type mountedAssertion string

func newMountedAssertion(m Credentials) (ClientAuth, error) {
	if strings.ContainsFunc(m.Assertion, notInToken) {
		return nil, errors.New("client_assertion_file: not an assertion")
	}
	return mountedAssertion(m.Assertion), nil
}

func (a mountedAssertion) Params(string) (AuthParams, error) {
	return AssertionCredentials(string(a)), nil
}

func AssertionCredentials(assertion string) AuthParams {
	return AuthParams{Style: oauth2.AuthStyleInParams, fields: url.Values{
		"client_assertion_type": {assertionType},
		"client_assertion":      {assertion},
	}}
}
