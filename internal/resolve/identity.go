package resolve

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// Shareable reports whether other processes could use the connection's tokens: they are not bound to a key
// that only this process has (rule 32).
func (c *Connection) Shareable() bool { return c.dpop == nil }

// identity returns everything that shapes a token request, by value and wherever the values come from,
// so that connections of several processes can tell that their tokens are interchangeable (rule 26). It
// holds the secrets: show it to nobody, and keep only what is derived from it. It is nil if the tokens
// must not be shared: when the pass could not make the request, or when they are bound to a key that only
// this process has (rule 32).
//
// The request is the one that the pass has made: its values count, even if others could be read by now.
// In contrast to the key, the helper flows of the target do not count, since what fails before the token
// request is shared with nobody.
func (r *resolver) identity(request *oauth.Request) []byte {
	creds, err := r.credentials()
	if request == nil || err != nil || !r.c.Shareable() {
		return nil
	}
	var v identityValues
	v.add("token_url", request.TokenURL)
	v.add("issuer", r.issuer)
	v.add("token_transport", r.spec.TokenTransport)
	v.addCredentials(&creds, r.spec.AuthMethod)
	v.addFields(request)
	v.addResponse(request)
	if request.DPoP != nil {
		v.add("dpop", request.DPoP.Thumbprint)
	}
	if request.Certificate != nil && v.addCertificate(request.Certificate) != nil {
		return nil
	}
	return v
}

// identityValues are named lists of values in one text. It has the length of each value, so that
// different values never give the same text, whatever bytes they have. (In JSON, bytes that are not UTF-8
// would all be the same.)
type identityValues []byte

func (v *identityValues) add(name string, values ...string) {
	*v = fmt.Appendf(*v, "%s %d\n", name, len(values))
	for _, value := range values {
		*v = fmt.Appendf(*v, "%d:%s\n", len(value), value)
	}
}

func (v *identityValues) addBool(name string, value bool) { v.add(name, strconv.FormatBool(value)) }

// addCredentials adds what proves the client.
func (v *identityValues) addCredentials(c *oauth.Credentials, method string) {
	v.add("auth_method", method)
	v.add("client_id", c.ClientID)
	v.add("client_secret", c.Secret)
	v.addBool("basic_encoding raw", c.RawBasic)
	v.add("client_key", strings.TrimSpace(string(c.Key))) // of PEM in a variable, the last newline is not cut off
	v.add("client_key_certificate", c.CertificateThumbprint)
	v.add("key_id", c.KeyID)
	v.add("signing_alg", c.Alg)
	v.add("assertion_audience", c.Audience)
	v.add("assertion_lifetime", c.Lifetime.String())
	v.add("assertion_typ", c.AssertionTyp)
	v.add("client_assertion_type", c.AssertionType)
	v.add("client_assertion", lastingParts(c.Assertion)...)
}

// addFields adds the rest of what is sent.
func (v *identityValues) addFields(r *oauth.Request) {
	v.add("grant_type", r.GrantType)
	v.add("scopes", r.Scopes...)
	v.add("token_request_scope_separator", r.Separator)
	v.add("token_request_format", r.Format)
	v.addBool("send_client_id", r.SendClientID)
	v.add("resource", r.Resources...)
	for _, name := range slices.Sorted(maps.Keys(r.Params)) {
		v.add("token_request_param", append([]string{name}, r.Params[name]...)...)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		v.add("token_request_header", append([]string{name}, r.Headers[name]...)...)
	}
}

// addResponse adds how the response is understood: one process must not take a token that another one
// would have refused, or keep it for longer.
func (v *identityValues) addResponse(r *oauth.Request) {
	v.addBool("require_granted_scopes", r.RequireGranted)
	if r.RequireGranted {
		v.add("required", r.Required...)
	}
	v.add("token_types", r.TokenTypes...)
	v.add("token_pointer", r.TokenPointer)
	v.add("expires_in_pointer", r.ExpiresInPointer)
	v.add("default_lifetime", r.DefaultLifetime.String())
}

// addCertificate adds the client certificate. Its private key is what makes the identity secret when
// nothing else proves the client.
func (v *identityValues) addCertificate(c *tls.Certificate) error {
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return err
	}
	v.add("client_certificate", string(key))
	for _, der := range c.Certificate {
		v.add("certificate", string(der))
	}
	return nil
}

// lastingParts returns what stays the same while the platform renews an assertion: the claims of a JWT that
// name its client. Of anything else it returns the text.
func lastingParts(assertion string) []string {
	if claims := lastingClaims(assertion); claims != nil {
		return append([]string{"jwt"}, claims...)
	}
	return []string{"text", assertion}
}

// lastingClaims returns issuer, subject and audience of a JWT, or nil if the text is none, or names no
// subject. (SPIFFE's name no issuer.)
func lastingClaims(assertion string) []string {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims map[string]any // not a struct, whose names would match in any case of letters
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims["sub"] == nil {
		return nil
	}
	audience, several := claims["aud"].([]any)
	if !several {
		audience = []any{cmp.Or(claims["aud"], any(""))}
	}
	var lasting []string
	for _, claim := range append([]any{cmp.Or(claims["iss"], any("")), claims["sub"]}, audience...) {
		text, ok := claim.(string)
		if !ok {
			return nil
		}
		lasting = append(lasting, text)
	}
	return lasting
}
