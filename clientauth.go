package httphelper

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

// clientAuth is one way in which a client proves who it is at the token endpoint. Exactly one is
// used, and nothing of another one is sent.
type clientAuth interface {
	// credentials returns what the next request to endpoint carries. Nothing in it may be sent
	// twice, so it is asked anew for each request.
	credentials(endpoint string) (credentials, error)
}

// credentials is what one request carries as proof of the client.
type credentials struct {
	style  oauth2.AuthStyle // where id and secret stand: in the header (Basic) or among the fields
	raw    bool             // not form-encoded inside the header
	secret string
	fields url.Values // further fields, such as an assertion
}

// setBasic puts id and secret into the header (RFC 6749 §2.3.1).
func (c credentials) setBasic(req *http.Request, clientID string) {
	if c.raw {
		req.SetBasicAuth(clientID, c.secret)
		return
	}
	req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(c.secret))
}

// authMaterial is what a connection has to prove who it is, resolved.
type authMaterial struct {
	clientID  string
	secret    string
	rawBasic  bool
	key       []byte // private key, PEM or JWK
	keyID     string
	alg       string // "": by the key's type
	audience  string // "": the endpoint's URL
	lifetime  time.Duration
	assertion string // made by the platform, instead of a key

	secretOption, keyOption string // as which secret and key are given, for errors
}

// authMethod is one value of auth_method: what it needs and how it is made. Options that it does
// not need are mistakes, except the client certificate, which goes with every method.
type authMethod struct {
	needsSecret      bool // client_secret or client_secret_file
	needsKey         bool // client_key, client_key_file or client_assertion_file
	needsCertificate bool // client_certificate, which is then the proof
	signs            bool // key_id, signing_alg, assertion_audience and assertion_lifetime apply

	// What servers' metadata call it besides the value itself.
	otherNames []string

	// make checks the material. Its errors name the option and never a secret.
	make func(m authMaterial) (clientAuth, error)
}

const defaultAuthMethod = "client_secret_basic"

var authMethods = map[string]authMethod{
	"client_secret_basic": {needsSecret: true, make: newBasicAuth},
	"client_secret_post":  {needsSecret: true, make: newPostAuth},
	"client_secret_jwt":   {needsSecret: true, signs: true, make: newSecretJWTAuth},
	"private_key_jwt":     {needsKey: true, signs: true, make: newPrivateKeyJWTAuth},
	"tls_client_auth":     {needsCertificate: true, otherNames: []string{"self_signed_tls_client_auth"}, make: newPublicAuth},
	"none":                {make: newPublicAuth},
}

// authMethodNames returns the methods that there are, sorted.
func authMethodNames() []string {
	return slices.Sorted(maps.Keys(authMethods))
}

// supportedMethods returns those of our methods that are among the names in a server's metadata.
func supportedMethods(listed []string) []string {
	return slices.DeleteFunc(authMethodNames(), func(name string) bool {
		return !slices.ContainsFunc(append(authMethods[name].otherNames, name), func(name string) bool { return slices.Contains(listed, name) })
	})
}

// checkEndpoint refuses to prove nothing: a certificate is shown in the handshake of TLS only.
func (m authMethod) checkEndpoint(scheme string) error {
	if m.needsCertificate && scheme != "https" {
		return errors.New("the token endpoint is http, where no client certificate is shown: use https, or auth_method none if it knows the client otherwise")
	}
	return nil
}

// lookupAuthMethod finds a method by its name; none means the default.
func lookupAuthMethod(name string) (authMethod, error) {
	if name == "" {
		name = defaultAuthMethod
	}
	method, ok := authMethods[name]
	if !ok {
		return authMethod{}, fmt.Errorf("unknown auth_method %q: use one of %s", name, strings.Join(authMethodNames(), ", "))
	}
	return method, nil
}

// basicAuth is client_secret_basic (RFC 6749 §2.3.1).
type basicAuth struct {
	secret string
	raw    bool
}

func newBasicAuth(m authMaterial) (clientAuth, error) {
	if m.rawBasic && strings.Contains(m.clientID, ":") {
		return nil, errors.New("client_id contains a colon, which basic_encoding raw cannot carry")
	}
	return basicAuth{secret: m.secret, raw: m.rawBasic}, nil
}

func (a basicAuth) credentials(string) (credentials, error) {
	return credentials{style: oauth2.AuthStyleInHeader, raw: a.raw, secret: a.secret}, nil
}

// postAuth is client_secret_post (RFC 6749 §2.3.1).
type postAuth struct {
	secret string
}

func newPostAuth(m authMaterial) (clientAuth, error) {
	return postAuth{secret: m.secret}, nil
}

func (a postAuth) credentials(string) (credentials, error) {
	return credentials{style: oauth2.AuthStyleInParams, secret: a.secret}, nil
}

// publicAuth is none, where nothing is proved, and tls_client_auth (RFC 8705 §2), where the proof
// is in the TLS handshake: the fields say only who the client is.
type publicAuth struct{}

func newPublicAuth(authMaterial) (clientAuth, error) { return publicAuth{}, nil }

func (publicAuth) credentials(string) (credentials, error) {
	return credentials{style: oauth2.AuthStyleInParams}, nil
}
