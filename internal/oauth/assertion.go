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
	defaultAssertionTyp      = "client-authentication+jwt" // RFC 7523bis
	defaultAssertionLifetime = time.Minute
)

var errCannotSign = errors.New("client_key: the key cannot sign")

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
		if strings.ContainsFunc(c.Assertion, notInToken) {
			return nil, errors.New("client_assertion_file: not an assertion")
		}
		return always(AssertionParams(c.Assertion, c.AssertionType)), nil
	}
	key, err := keys.Parse(c.Key, c.KeyID, c.Alg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.KeyOption, err)
	}
	return newJWTAuth(c, key)
}

// newJWTAuth returns client_secret_jwt and private_key_jwt: the client is proved by a signed assertion
// (RFC 7523 §2.2).
func newJWTAuth(c Credentials, key *keys.SigningKey) (ClientAuth, error) {
	options := new(jose.SignerOptions).WithType(jose.ContentType(cmp.Or(c.AssertionTyp, defaultAssertionTyp)))
	if key.ID != "" {
		options.WithHeader("kid", key.ID)
	}
	if c.CertificateThumbprint != "" {
		options.WithHeader("x5t#S256", c.CertificateThumbprint)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.Alg, Key: key.Key}, options)
	if err != nil {
		return nil, errCannotSign
	}
	return func(endpoint string) (AuthParams, error) {
		now := time.Now()
		assertion, err := jwt.Signed(signer).Claims(map[string]any{
			"iss": c.ClientID, "sub": c.ClientID,
			"aud": cmp.Or(c.Audience, endpoint), // one string, not a list (RFC 7523bis)
			"iat": now.Unix(), "exp": now.Add(cmp.Or(c.Lifetime, defaultAssertionLifetime)).Unix(), "jti": rand.Text(),
		}).Serialize()
		if err != nil {
			return AuthParams{}, errCannotSign
		}
		return AssertionParams(assertion, c.AssertionType), nil
	}, nil
}

// AssertionParams returns the parameters of a request with an assertion of a type; "" is that of RFC 7523.
func AssertionParams(assertion, typ string) AuthParams {
	return AuthParams{Style: oauth2.AuthStyleInParams, fields: url.Values{
		"client_assertion_type": {cmp.Or(typ, assertionType)},
		"client_assertion":      {assertion},
	}}
}
