package oauth

import (
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

// ClientAuth is one way in which a client proves who it is at the token endpoint. Exactly one is
// used, and nothing of another one is sent.
type ClientAuth interface {
	// Params returns what the next request to endpoint carries. Nothing in it may be sent
	// twice, so it is asked anew for each request.
	Params(endpoint string) (AuthParams, error)
}

// AuthParams is what one request carries as proof of the client.
type AuthParams struct {
	Style  oauth2.AuthStyle // where id and secret stand: in the header (Basic) or among the fields
	raw    bool             // not form-encoded inside the header
	Secret string
	fields url.Values // further fields, such as an assertion
}

// setBasic puts id and secret into the header (RFC 6749 §2.3.1).
func (c AuthParams) setBasic(req *http.Request, clientID string) {
	if c.raw {
		req.SetBasicAuth(clientID, c.Secret)
		return
	}
	req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(c.Secret))
}

// Credentials is what a connection has to prove who it is, resolved.
type Credentials struct {
	ClientID  string
	Secret    string
	RawBasic  bool
	Key       []byte // private key, PEM or JWK
	KeyID     string
	Alg       string // "": by the key's type
	Audience  string // "": the endpoint's URL
	Lifetime  time.Duration
	Assertion string // made by the platform, instead of a key

	SecretOption, KeyOption string // as which secret and key are given, for errors
}

// AuthMethod is one value of auth_method: what it needs and how it is made. Options that it does
// not need are mistakes, except the client certificate, which goes with every method.
type AuthMethod struct {
	NeedsSecret      bool // client_secret or client_secret_file
	NeedsKey         bool // client_key, client_key_file or client_assertion_file
	NeedsCertificate bool // client_certificate, which is then the proof
	Signs            bool // key_id, signing_alg, assertion_audience and assertion_lifetime apply

	// What servers' metadata call it besides the value itself.
	otherNames []string

	// New checks the material. Its errors name the option and never a secret.
	New func(m Credentials) (ClientAuth, error)
}

const DefaultMethod = "client_secret_basic"

var methods = map[string]AuthMethod{
	"client_secret_basic": {NeedsSecret: true, New: newBasicAuth},
	"client_secret_post":  {NeedsSecret: true, New: newPostAuth},
	"client_secret_jwt":   {NeedsSecret: true, Signs: true, New: newSecretJWTAuth},
	"private_key_jwt":     {NeedsKey: true, Signs: true, New: newPrivateKeyJWTAuth},
	"tls_client_auth":     {NeedsCertificate: true, otherNames: []string{"self_signed_tls_client_auth"}, New: newPublicAuth},
	"none":                {New: newPublicAuth},
}

// MethodNames returns the methods that there are, sorted.
func MethodNames() []string {
	return slices.Sorted(maps.Keys(methods))
}

// supportedMethods returns those of our methods that are among the names in a server's metadata.
func supportedMethods(listed []string) []string {
	return slices.DeleteFunc(MethodNames(), func(name string) bool {
		return !slices.ContainsFunc(append(methods[name].otherNames, name), func(name string) bool { return slices.Contains(listed, name) })
	})
}

// CheckEndpoint refuses to prove nothing: a certificate is shown in the handshake of TLS only.
func (m AuthMethod) CheckEndpoint(scheme string) error {
	if m.NeedsCertificate && scheme != "https" {
		return errors.New("the token endpoint is http, where no client certificate is shown: use https, or auth_method none if it knows the client otherwise")
	}
	return nil
}

// Method finds a method by its name; none means the default.
func Method(name string) (AuthMethod, error) {
	if name == "" {
		name = DefaultMethod
	}
	method, ok := methods[name]
	if !ok {
		return AuthMethod{}, fmt.Errorf("unknown auth_method %q: use one of %s", name, strings.Join(MethodNames(), ", "))
	}
	return method, nil
}

// basicAuth is client_secret_basic (RFC 6749 §2.3.1).
type basicAuth struct {
	secret string
	raw    bool
}

func newBasicAuth(m Credentials) (ClientAuth, error) {
	if m.RawBasic && strings.Contains(m.ClientID, ":") {
		return nil, errors.New("client_id contains a colon, which basic_encoding raw cannot carry")
	}
	return basicAuth{secret: m.Secret, raw: m.RawBasic}, nil
}

func (a basicAuth) Params(string) (AuthParams, error) {
	return AuthParams{Style: oauth2.AuthStyleInHeader, raw: a.raw, Secret: a.secret}, nil
}

// postAuth is client_secret_post (RFC 6749 §2.3.1).
type postAuth struct {
	secret string
}

func newPostAuth(m Credentials) (ClientAuth, error) {
	return postAuth{secret: m.Secret}, nil
}

func (a postAuth) Params(string) (AuthParams, error) {
	return AuthParams{Style: oauth2.AuthStyleInParams, Secret: a.secret}, nil
}

// publicAuth is none, where nothing is proved, and tls_client_auth (RFC 8705 §2), where the proof
// is in the TLS handshake: the fields say only who the client is.
type publicAuth struct{}

func newPublicAuth(Credentials) (ClientAuth, error) { return publicAuth{}, nil }

func (publicAuth) Params(string) (AuthParams, error) {
	return AuthParams{Style: oauth2.AuthStyleInParams}, nil
}
