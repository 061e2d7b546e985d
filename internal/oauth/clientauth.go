package oauth

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// ClientAuth proves the client at the token endpoint, in one way. A request has exactly one, and
// nothing of any other is sent. It returns the proof for the next request to endpoint, which must not be
// sent twice, so it is called again for each request.
type ClientAuth func(endpoint string) (AuthParams, error)

// always proves the client in the same way each time.
func always(p AuthParams) ClientAuth {
	return func(string) (AuthParams, error) { return p, nil }
}

// AuthParams are the parameters of one request that prove the client.
type AuthParams struct {
	Style  oauth2.AuthStyle // where id and secret are: in the header (Basic) or among the fields
	Secret string           // the client secret; "": none is sent

	raw    bool       // id and secret are not form-encoded in the header
	fields url.Values // further fields, such as an assertion
}

// setBasic puts id and secret in the header (RFC 6749 §2.3.1).
func (p AuthParams) setBasic(req *http.Request, clientID string) {
	if p.raw {
		req.SetBasicAuth(clientID, p.Secret)
		return
	}
	req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(p.Secret))
}

// Credentials are what a connection has to prove the client, resolved. Each method uses its part of them.
type Credentials struct {
	ClientID  string
	Secret    string
	RawBasic  bool          // basic_encoding raw
	Key       []byte        // private key, PEM or JWK
	KeyID     string        // "": the one in a JWK
	Alg       string        // "": the default for the type of the key
	Audience  string        // of an assertion; "": the URL of the token endpoint
	Lifetime  time.Duration // of an assertion; 0: 1 minute
	Assertion string        // that the platform provides, instead of a key

	AssertionTyp          string // the typ header of an assertion; "": that of RFC 7523bis
	AssertionType         string // client_assertion_type; "": that of RFC 7523
	CertificateThumbprint string // the x5t#S256 header of an assertion; "": none

	SecretOption, KeyOption string // the options that secret and key come from, for errors
}

// AuthMethod is a method of client authentication, by what it needs. Options that it does not need are
// mistakes, except the client certificate, which every method may have.
type AuthMethod struct {
	NeedsSecret      bool // client_secret or client_secret_file
	NeedsKey         bool // client_key, client_key_file or client_assertion_file
	NeedsCertificate bool // client_certificate, which then proves the client
	UsesHeader       bool // the proof is in the header Authorization
	Signs            bool // key_id, signing_alg, assertion_typ, assertion_audience and assertion_lifetime apply

	// Further names of the method in the metadata of servers.
	otherNames []string

	// New returns the method with its credentials. Its errors name the option and never a secret.
	New func(c Credentials) (ClientAuth, error)
}

// DefaultMethod is the name of the method for an empty auth_method.
const DefaultMethod = "client_secret_basic"

var methods = map[string]AuthMethod{
	"client_secret_basic": {NeedsSecret: true, UsesHeader: true, New: newBasicAuth},
	"client_secret_post":  {NeedsSecret: true, New: newPostAuth},
	"client_secret_jwt":   {NeedsSecret: true, Signs: true, New: newSecretJWTAuth},
	"private_key_jwt":     {NeedsKey: true, Signs: true, New: newPrivateKeyJWTAuth},
	"tls_client_auth":     {NeedsCertificate: true, otherNames: []string{"self_signed_tls_client_auth"}, New: newPublicAuth},
	"none":                {New: newPublicAuth},
}

// MethodNames returns the names of all methods, sorted.
func MethodNames() []string {
	return slices.Sorted(maps.Keys(methods))
}

// supportedMethods returns the names of those methods that a server's metadata list.
func supportedMethods(listed []string) []string {
	return slices.DeleteFunc(MethodNames(), func(name string) bool {
		return !slices.ContainsFunc(append(methods[name].otherNames, name), func(name string) bool { return slices.Contains(listed, name) })
	})
}

// CheckEndpoint rejects an endpoint at which the method proves nothing: a certificate is shown in a TLS
// handshake only.
func (m AuthMethod) CheckEndpoint(scheme string) error {
	if m.NeedsCertificate && scheme != "https" {
		return errors.New("the token endpoint is http, where no client certificate is shown: use https, or auth_method none if it knows the client otherwise")
	}
	return nil
}

// Method returns the method with this name; "" means DefaultMethod.
func Method(name string) (AuthMethod, error) {
	method, ok := methods[cmp.Or(name, DefaultMethod)]
	if !ok {
		return AuthMethod{}, fmt.Errorf("must be one of %s", strings.Join(MethodNames(), ", "))
	}
	return method, nil
}

// newBasicAuth returns client_secret_basic (RFC 6749 §2.3.1).
func newBasicAuth(c Credentials) (ClientAuth, error) {
	if c.RawBasic && strings.Contains(c.ClientID, ":") {
		return nil, errors.New("client_id contains a colon, which basic_encoding raw cannot carry")
	}
	return always(AuthParams{Style: oauth2.AuthStyleInHeader, raw: c.RawBasic, Secret: c.Secret}), nil
}

// newPostAuth returns client_secret_post (RFC 6749 §2.3.1).
func newPostAuth(c Credentials) (ClientAuth, error) {
	return always(AuthParams{Style: oauth2.AuthStyleInParams, Secret: c.Secret}), nil
}

// newPublicAuth returns none, which proves nothing, and tls_client_auth (RFC 8705 §2), whose proof is in
// the TLS handshake: the fields only name the client.
func newPublicAuth(Credentials) (ClientAuth, error) {
	return always(AuthParams{Style: oauth2.AuthStyleInParams}), nil
}
