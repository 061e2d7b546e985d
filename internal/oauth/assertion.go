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

// jwtAuth is client_secret_jwt and private_key_jwt: the client is proved by a signed assertion (RFC 7523
// §2.2).
type jwtAuth struct {
	signer   jose.Signer
	clientID string
	audience string
	lifetime time.Duration
}

// assertionClaims are the claims of an assertion. The audience is one string, not a list (RFC 7523bis).
type assertionClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Audience string `json:"aud"`
	IssuedAt int64  `json:"iat"`
	Expiry   int64  `json:"exp"`
	ID       string `json:"jti"`
}

func newSecretJWTAuth(c Credentials) (ClientAuth, error) {
	alg := jose.SignatureAlgorithm(cmp.Or(c.Alg, string(jose.HS256)))
	hmacs := []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512}
	index := slices.Index(hmacs, alg)
	if index < 0 {
		return nil, fmt.Errorf("signing_alg: a secret cannot sign with %q: use %s", c.Alg, keys.JoinAlgorithms(hmacs))
	}
	if least := 32 + 16*index; len(c.Secret) < least {
		return nil, fmt.Errorf("%s: %s needs a secret of at least %d bytes (RFC 7518)", c.SecretOption, alg, least)
	}
	return newJWTAuth(c, &keys.SigningKey{Key: []byte(c.Secret), ID: c.KeyID, Alg: alg})
}

func newPrivateKeyJWTAuth(c Credentials) (ClientAuth, error) {
	if c.Assertion != "" {
		return newMountedAssertion(c)
	}
	key, err := keys.Parse(c.Key, c.KeyID, c.Alg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.KeyOption, err)
	}
	return newJWTAuth(c, key)
}

func newJWTAuth(c Credentials, key *keys.SigningKey) (ClientAuth, error) {
	options := new(jose.SignerOptions).WithType(assertionJWTType)
	if key.ID != "" {
		options.WithHeader("kid", key.ID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.Alg, Key: key.Key}, options)
	if err != nil {
		return nil, errCannotSign
	}
	return jwtAuth{
		signer: signer, clientID: c.ClientID, audience: c.Audience,
		lifetime: cmp.Or(c.Lifetime, defaultAssertionLifetime),
	}, nil
}

// Params implements ClientAuth.
func (a jwtAuth) Params(endpoint string) (AuthParams, error) {
	now := time.Now()
	assertion, err := jwt.Signed(a.signer).Claims(assertionClaims{
		Issuer: a.clientID, Subject: a.clientID, Audience: cmp.Or(a.audience, endpoint),
		IssuedAt: now.Unix(), Expiry: now.Add(a.lifetime).Unix(), ID: rand.Text(),
	}).Serialize()
	if err != nil {
		return AuthParams{}, errCannotSign
	}
	return AssertionParams(assertion), nil
}

// mountedAssertion is an assertion that the platform provides in a file.
type mountedAssertion string

func newMountedAssertion(c Credentials) (ClientAuth, error) {
	if strings.ContainsFunc(c.Assertion, notInToken) {
		return nil, errors.New("client_assertion_file: not an assertion")
	}
	return mountedAssertion(c.Assertion), nil
}

// Params implements ClientAuth.
func (a mountedAssertion) Params(string) (AuthParams, error) {
	return AssertionParams(string(a)), nil
}

// AssertionParams returns the parameters of a request with an assertion.
func AssertionParams(assertion string) AuthParams {
	return AuthParams{Style: oauth2.AuthStyleInParams, fields: url.Values{
		"client_assertion_type": {assertionType},
		"client_assertion":      {assertion},
	}}
}
