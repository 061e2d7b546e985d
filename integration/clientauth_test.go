package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

const longSecret = "a-secret-of-at-least-64-characters,-which-is-what-HS512-wants-of-one"

// signer is a private key and what a server is to know of it.
type signer struct {
	key crypto.Signer
	alg string
	kid string
}

func newSigner(t testing.TB, alg, kid string) *signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch alg[:2] {
	case "RS", "PS":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES":
		curve := map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[alg]
		key, err = ecdsa.GenerateKey(curve, rand.Reader)
	default:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &signer{key, alg, kid}
}

// pem is the private key as it is in a file.
func (s *signer) pem(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (s *signer) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid, Algorithm: s.alg, Use: "sig"}
}

// keySet is a JWK set of public keys, as registration metadata hold it.
func keySet(t testing.TB, keys ...jose.JSONWebKey) map[string]any {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	var set map[string]any
	if err := json.Unmarshal(text, &set); err != nil {
		t.Fatal(err)
	}
	return set
}

func oidcClient(id, method string, more map[string]any) map[string]any {
	client := map[string]any{"client_id": id, "token_endpoint_auth_method": method, "scope": "a b"}
	for name, value := range more {
		client[name] = value
	}
	return client
}

// introspector may ask oidc-provider about tokens.
var introspector = oidcClient("introspector", "client_secret_post", map[string]any{"client_secret": longSecret})

// oidcMethod is a client of oidc-provider's: what the server knows of it, and its connection.
type oidcMethod struct {
	id, method string
	metadata   map[string]any
	options    string
}

// oidcMethods are clients for every method and signature that oidc-provider has. Their files are in
// the sidecar's directory.
func oidcMethods(t *testing.T, w *world, ca *harness.CA) []oidcMethod {
	t.Helper()
	bySecret := map[string]any{"client_secret": longSecret}
	methods := []oidcMethod{
		{"basic", "client_secret_basic", bySecret, "client_secret {env.LONG}"},
		{"post", "client_secret_post", bySecret, "client_secret {env.LONG}"},
	}
	for _, alg := range []string{"HS256", "HS384", "HS512"} {
		methods = append(methods, oidcMethod{
			alg, "client_secret_jwt",
			map[string]any{"client_secret": longSecret, "token_endpoint_auth_signing_alg": alg},
			"client_secret {env.LONG}\nsigning_alg " + alg,
		})
	}
	rsaKey := newSigner(t, "RS256", "")
	for _, alg := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		key := &signer{rsaKey.key, alg, "key-" + alg}
		if alg[0] == 'E' {
			key = newSigner(t, alg, key.kid)
		}
		w.File(t, alg+".pem", key.pem(t))
		methods = append(methods, oidcMethod{
			alg, "private_key_jwt",
			map[string]any{"jwks": keySet(t, key.public()), "token_endpoint_auth_signing_alg": alg},
			"client_key_file $DIR/" + alg + ".pem\nsigning_alg " + alg + "\nkey_id " + key.kid,
		})
	}
	for name, issue := range map[string]func(testing.TB, string) (string, string){"tls_client_auth": ca.ClientPEM, "self_signed_tls_client_auth": harness.SelfSignedPEM} {
		cert, key := issue(t, name)
		certFile := w.File(t, name+".crt", cert)
		w.File(t, name+".key", key)
		metadata := map[string]any{"tls_client_auth_subject_dn": "CN=" + name}
		if name != "tls_client_auth" {
			metadata = map[string]any{"jwks": certificateSet(t, certFile)}
		}
		methods = append(methods, oidcMethod{name, name, metadata, "client_certificate $DIR/" + name + ".crt $DIR/" + name + ".key"})
	}
	return methods
}

// TestOIDCProviderByEveryMethod gets tokens with every method and signature, from a token endpoint
// that is configured or discovered, and has them revoked with the same when the connections go.
func TestOIDCProviderByEveryMethod(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	w := &world{Sidecar: harness.New(t), api: harness.NewAPI(t, nil, nil)}
	methods := oidcMethods(t, w, ca)
	clients := []map[string]any{introspector}
	for _, m := range methods {
		clients = append(clients, oidcClient(m.id, m.method, m.metadata))
	}
	server := harness.StartOIDCProvider(t, ca, harness.OIDCConfig{Scopes: []string{"a", "b"}, Clients: clients})
	w.tokens = server.TokenEndpoint
	places := map[string]string{
		"configured": "token_url $TOKENS\nrevocation_url " + server.Base + "/token/revocation",
		"discovered": "issuer " + server.Issuer,
	}
	var global, site strings.Builder
	for _, m := range methods {
		for place, urls := range places {
			name := m.id + "-" + place
			method := strings.TrimPrefix(m.method, "self_signed_")
			fmt.Fprintf(&global, "connection %s {\nbase_url $API\n%s\nauth_method %s\nclient_id %s\n%s\n}\n", name, urls, method, m.id, m.options)
			fmt.Fprintf(&site, "handle_path /%s/* {\nhttp_helper %s\n}\n", name, name)
		}
	}
	w.Run(t, w.expand(options{env: []string{"LONG=" + longSecret, "SSL_CERT_FILE=" + ca.File}},
		harness.Config{Options: "http_helper {\n" + global.String() + "}", Site: site.String()}))

	tokens := map[string]string{}
	for _, m := range methods {
		for place := range places {
			name := m.id + "-" + place
			t.Run(name, func(t *testing.T) {
				wantStatus(t, w.Get(t, "/"+name+"/x"), http.StatusOK)
				tokens[name] = harness.Bearer(w.api.Last(t).Header)
				response := server.Introspect(t, "introspector", longSecret, tokens[name])
				equal[any](t, "active", response["active"], true)
				equal[any](t, "client", response["client_id"], m.id)
				w.wantAudience(t, map[string]string{"configured": server.URL, "discovered": server.Issuer}[place])
			})
		}
	}
	if err := w.Reload(harness.Config{Site: "respond gone 410"}); err != nil {
		t.Fatal(err)
	}
	for name, token := range tokens {
		eventually(t, "the token of "+name+" revoked", func() bool {
			return server.Introspect(t, "introspector", longSecret, token)["active"] == false
		})
	}
}

// wantAudience checks the assertion in the newest token request, if it has one: it is typed and has
// one audience, the issuer when it is known (RFC 7523bis).
func (w *world) wantAudience(t *testing.T, want string) {
	t.Helper()
	requests := w.tokens.Requests()
	parts := strings.Split(requests[len(requests)-1].Form().Get("client_assertion"), ".")
	if len(parts) != 3 {
		return
	}
	for part, wanted := range map[string]string{parts[0]: `"typ":"client-authentication+jwt"`, parts[1]: `"aud":"` + want + `"`} {
		text, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil || !strings.Contains(string(text), wanted) {
			t.Errorf("%s lacks %s: %v", text, wanted, err)
		}
	}
}

// beforeOIDC runs a sidecar before a real server, with files in its directory; its token endpoint is
// configured or discovered.
func beforeOIDC(t *testing.T, server *harness.OIDCProvider, o options, files map[string]string, discovered bool) *world {
	t.Helper()
	w := &world{Sidecar: harness.New(t), tokens: server.TokenEndpoint}
	w.api = harness.NewAPI(t, nil, nil)
	for name, content := range files {
		w.File(t, name, content)
	}
	config := w.inline(o)
	if discovered {
		config.Site = strings.Replace(config.Site, "token_url "+server.URL, "issuer "+server.Issuer, 1)
	}
	w.Run(t, config)
	return w
}

// TestHydraByPrivateKey: Hydra takes its token endpoint as the audience only, even where the issuer is
// known.
func TestHydraByPrivateKey(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	server := harness.StartHydra(t, ca)
	w := &world{Sidecar: harness.New(t), tokens: server.TokenEndpoint, api: harness.NewAPI(t, nil, nil)}
	places := map[string]string{"configured": "token_url $TOKENS", "discovered": "issuer " + server.Base + "\nassertion_audience $TOKENS"}
	algorithms := []string{"RS256", "PS256", "ES256"}
	var global, site strings.Builder
	for _, alg := range algorithms {
		key := newSigner(t, alg, "key-1")
		w.File(t, alg+".pem", key.pem(t))
		server.Register(t, harness.HydraClient{
			ID: alg, AuthMethod: "private_key_jwt", Scope: "a", SigningAlg: alg, JWKS: keySet(t, key.public()),
		})
		for place, urls := range places {
			fmt.Fprintf(&global, "connection %s-%s {\nbase_url $API\n%s\nauth_method private_key_jwt\nclient_id %s\nclient_key_file $DIR/%s.pem\nkey_id key-1\nsigning_alg %s\n}\n",
				alg, place, urls, alg, alg, alg)
			fmt.Fprintf(&site, "handle_path /%s-%s/* {\nhttp_helper %s-%s\n}\n", alg, place, alg, place)
		}
	}
	w.Run(t, w.expand(options{env: []string{"SSL_CERT_FILE=" + ca.File}}, harness.Config{Options: "http_helper {\n" + global.String() + "}", Site: site.String()}))
	for _, alg := range algorithms {
		for place := range places {
			t.Run(alg+", "+place, func(t *testing.T) {
				wantStatus(t, w.Get(t, "/"+alg+"-"+place+"/x"), http.StatusOK)
				response := server.Introspect(t, harness.Bearer(w.api.Last(t).Header))
				equal[any](t, "active", response["active"], true)
				equal[any](t, "client", response["client_id"], alg)
			})
		}
	}
}

// proofChecker is a resource server's check of DPoP proofs (RFC 9449 §7.1).
type proofChecker struct {
	mu    sync.Mutex
	seen  map[string]bool
	nonce string // that proofs must have; "": none
	keys  map[string]bool
}

func (c *proofChecker) check(r *http.Request, host string) error {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "DPoP ")
	if !ok || len(r.Header.Values("DPoP")) != 1 {
		return fmt.Errorf("no DPoP token and proof: %v", r.Header)
	}
	algorithms := []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA}
	proof, err := jwt.ParseSigned(r.Header.Get("DPoP"), algorithms)
	if err != nil {
		return err
	}
	key := proof.Headers[0].JSONWebKey
	var claims struct {
		Htm   string `json:"htm"`
		Htu   string `json:"htu"`
		Ath   string `json:"ath"`
		Nonce string `json:"nonce"`
		JTI   string `json:"jti"`
		IAT   int64  `json:"iat"`
	}
	if err := proof.Claims(key.Key, &claims); err != nil {
		return err
	}
	hash := sha256.Sum256([]byte(token))
	thumbprint, err := key.Thumbprint(crypto.SHA256)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case proof.Headers[0].ExtraHeaders["typ"] != "dpop+jwt":
		return fmt.Errorf("typ %v", proof.Headers[0].ExtraHeaders["typ"])
	case claims.Htm != r.Method || claims.Htu != "http://"+host+r.URL.EscapedPath():
		return fmt.Errorf("proof for %s %s", claims.Htm, claims.Htu)
	case claims.Ath != base64.RawURLEncoding.EncodeToString(hash[:]):
		return fmt.Errorf("proof for another token")
	case claims.JTI == "" || c.seen[claims.JTI]:
		return fmt.Errorf("a proof came twice")
	case time.Since(time.Unix(claims.IAT, 0)).Abs() > time.Minute:
		return fmt.Errorf("a proof of another time")
	case claims.Nonce != c.nonce:
		return errNonce
	}
	c.seen[claims.JTI] = true
	c.keys[base64.RawURLEncoding.EncodeToString(thumbprint)] = true
	return nil
}

var errNonce = fmt.Errorf("another nonce is wanted")

func (c *proofChecker) handler(t *testing.T, host string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch err := c.check(r, host); err {
		case nil:
			w.WriteHeader(http.StatusOK)
		case errNonce:
			w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
			w.Header().Set("DPoP-Nonce", c.nonce)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			t.Error(err)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
}

func TestDPoP(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		file    bool
		nonceAS bool
		nonceRS string
	}{
		{"key made at start", false, false, ""},
		{"key from a file", true, false, ""},
		{"nonces of both servers", false, true, "nonce-1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := harness.StartOIDCProvider(t, nil, harness.OIDCConfig{
				Clients: []map[string]any{
					oidcClient("app", "client_secret_basic", map[string]any{"client_secret": secret, "dpop_bound_access_tokens": true}), introspector,
				}, Scopes: []string{"a", "b"}, DPoPNonce: c.nonceAS,
			})
			o := options{connection: "dpop"}
			files := map[string]string{}
			if c.file {
				o.connection = "dpop $DIR/dpop.pem"
				files["dpop.pem"] = newSigner(t, "ES256", "").pem(t)
			}
			w := beforeOIDC(t, server, o, files, false)
			checker := &proofChecker{seen: map[string]bool{}, keys: map[string]bool{}, nonce: c.nonceRS}
			w.api.RespondWith(checker.handler(t, w.api.Addr))
			for range 5 {
				wantStatus(t, w.Send(t, http.MethodPut, "/a%20b?x=1", []byte("body")), http.StatusOK)
			}
			token, _ := strings.CutPrefix(w.api.Last(t).Header.Get("Authorization"), "DPoP ")
			response := server.Introspect(t, "introspector", longSecret, token)
			equal[any](t, "active", response["active"], true)
			cnf, _ := response["cnf"].(map[string]any)
			thumbprint, _ := cnf["jkt"].(string)
			if len(checker.keys) != 1 || !checker.keys[thumbprint] {
				t.Errorf("token bound to %q, proofs by %v", thumbprint, checker.keys)
			}
		})
	}
}

func TestBearerTokenIsRefusedWhenDPoPWasRequested(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{connection: "dpop"})
	wantSidecarError(t, w.Get(t, "/"), http.StatusBadGateway, "proxy_configuration_error")
	equal(t, "API requests", w.api.Count(), 0)
}

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	for _, method := range []string{"tls_client_auth", "self_signed_tls_client_auth"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			w := &world{Sidecar: harness.New(t)}
			certFile, keyFile := filepath.Join(w.Dir, "cert.pem"), filepath.Join(w.Dir, "key.pem")
			ca.Client(t, "app", certFile, keyFile)
			metadata := map[string]any{"tls_client_certificate_bound_access_tokens": true}
			if method == "tls_client_auth" {
				metadata["tls_client_auth_subject_dn"] = "CN=app"
			} else {
				metadata["jwks"] = certificateSet(t, certFile)
			}
			server := harness.StartOIDCProvider(t, ca, harness.OIDCConfig{
				Clients: []map[string]any{oidcClient("app", method, metadata), introspector}, Scopes: []string{"a", "b"},
			})
			w.tokens = server.TokenEndpoint
			w.api = harness.NewAPI(t, ca, nil)
			w.Run(t, w.inline(options{
				service: "auth_method tls_client_auth", secretLine: "client_certificate " + certFile + " " + keyFile,
				env: []string{"SSL_CERT_FILE=" + ca.File},
			}))
			token := w.wantGranted(t)
			response := server.Introspect(t, "introspector", longSecret, token)
			equal[any](t, "active", response["active"], true)
			cnf, _ := response["cnf"].(map[string]any)
			shown := w.api.Last(t).TLS.PeerCertificates
			if len(shown) == 0 {
				t.Fatal("the API saw no certificate")
			}
			equal[any](t, "the certificate that the token is bound to", cnf["x5t#S256"], thumbprintOf(shown[0]))
			if method == "tls_client_auth" {
				w.checkNewCertificate(t, ca, certFile, keyFile, func(token string) any {
					cnf, _ := server.Introspect(t, "introspector", longSecret, token)["cnf"].(map[string]any)
					return cnf["x5t#S256"]
				})
			}
		})
	}
}

func thumbprintOf(certificate *x509.Certificate) string {
	hash := sha256.Sum256(certificate.Raw)
	return base64.RawURLEncoding.EncodeToString(hash[:])
}

// checkNewCertificate replaces the certificate. The token that is bound to the old one, most of whose
// lifetime is left, is soon replaced. Until then it is used with the old certificate.
func (w *world) checkNewCertificate(t *testing.T, ca *harness.CA, certFile, keyFile string, boundTo func(token string) any) {
	t.Helper()
	first := w.api.Last(t)
	ca.Client(t, "app", certFile, keyFile)
	eventually(t, "a token that is bound to the new certificate", func() bool {
		w.wantOK(t)
		last := w.api.Last(t)
		return last.Header.Get("Authorization") != first.Header.Get("Authorization")
	})
	bound := map[string]any{}
	for _, r := range w.api.Requests() {
		token := harness.Bearer(r.Header)
		if bound[token] == nil {
			bound[token] = boundTo(token)
		}
		if got := thumbprintOf(r.TLS.PeerCertificates[0]); got != bound[token] {
			t.Errorf("a token bound to %v was sent with the certificate %s", bound[token], got)
		}
	}
	equal(t, "tokens", len(bound), 2)
}

// certificateSet is a JWK set with the certificate in a file.
func certificateSet(t *testing.T, file string) map[string]any {
	t.Helper()
	block, _ := pem.Decode([]byte(readFile(t, file)))
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return keySet(t, jose.JSONWebKey{Key: certificate.PublicKey, KeyID: "cert", Certificates: []*x509.Certificate{certificate}})
}

func TestBrokenCertificateIsAnError(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	w := newWorld(t, ca)
	certFile, keyFile := filepath.Join(w.Dir, "cert.pem"), filepath.Join(w.Dir, "key.pem")
	ca.Client(t, "app", certFile, keyFile)
	o := options{
		service: "auth_method tls_client_auth", secretLine: "client_certificate " + certFile + " " + keyFile,
		env: []string{"SSL_CERT_FILE=" + ca.File},
	}
	w.tokens.RespondWith(w.tokens.Grant(2 * time.Second))
	w.Run(t, w.inline(o))
	w.wantOK(t)
	harness.WriteFile(t, keyFile, newSigner(t, "ES256", "").pem(t))
	eventually(t, "the broken pair to be refused", func() bool {
		return w.Get(t, "/").StatusCode == http.StatusBadGateway
	})
	for _, request := range w.tokens.Requests() {
		if len(request.TLS.PeerCertificates) == 0 {
			t.Error("a token request without the certificate")
		}
	}
}

func TestResourceIndicators(t *testing.T) {
	t.Parallel()
	server := harness.StartOIDCProvider(t, nil, harness.OIDCConfig{
		Clients: []map[string]any{oidcClient("app", "client_secret_basic", map[string]any{"client_secret": secret}), introspector},
		Scopes:  []string{"a", "b"}, Resources: []string{"https://api.example.com/v2"},
	})
	w := beforeOIDC(t, server, options{service: "resource https://api.example.com/v2"}, nil, false)
	response := server.Introspect(t, "introspector", longSecret, w.wantGranted(t))
	equal[any](t, "audience", response["aud"], "https://api.example.com/v2")

	w = beforeOIDC(t, server, options{service: "resource https://other.example.com"}, nil, false)
	refused := w.Get(t, "/")
	wantSidecarError(t, refused, http.StatusBadGateway, "proxy_configuration_error")
	if got := refused.Header.Get("Proxy-Status"); !strings.Contains(got, "invalid_target") {
		t.Errorf("Proxy-Status %q", got)
	}
}

// Assertions are never used twice, not even by the quick retries of one attempt.
func TestAssertionsAreFresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key := newSigner(t, "ES256", "key-1")
	w.File(t, "key.pem", key.pem(t))
	w.tokens.RespondWith(harness.Status(http.StatusInternalServerError))
	w.Run(t, w.inline(options{
		service: "auth_method private_key_jwt", secretLine: "client_key_file $DIR/key.pem\nassertion_lifetime 30s\nassertion_audience https://as.example",
	}))
	wantStatus(t, w.Get(t, "/"), http.StatusServiceUnavailable)
	w.tokens.RespondWith(w.tokens.Grant(2 * time.Second))
	eventually(t, "five token requests", func() bool {
		w.Get(t, "/")
		return w.tokens.Count() >= 5
	})
	seen := map[string]bool{}
	for _, request := range w.tokens.Requests() {
		form := request.Form()
		equal(t, "type", form.Get("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		if form.Has("client_secret") || request.Header.Get("Authorization") != "" {
			t.Error("a second client authentication")
		}
		assertion, err := jwt.ParseSigned(form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		var claims jwt.Claims
		if err := assertion.Claims(key.key.Public(), &claims); err != nil {
			t.Fatal(err)
		}
		expected := jwt.Expected{Issuer: "app", Subject: "app", AnyAudience: jwt.Audience{"https://as.example"}, Time: request.At}
		if err := claims.Validate(expected); err != nil {
			t.Error(err)
		}
		if lifetime := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); lifetime != 30*time.Second {
			t.Errorf("an assertion lives %v", lifetime)
		}
		if claims.ID == "" || seen[claims.ID] {
			t.Error("an assertion came twice")
		}
		seen[claims.ID] = true
	}
}

func TestAssertionThatThePlatformMounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.File(t, "assertion", "first.assertion.x\n")
	w.tokens.RespondWith(w.tokens.Grant(2 * time.Second))
	w.Run(t, w.inline(options{service: "auth_method private_key_jwt", secretLine: "client_assertion_file $DIR/assertion"}))
	w.wantOK(t)
	equal(t, "assertion", w.tokens.Requests()[0].Form().Get("client_assertion"), "first.assertion.x")
	w.File(t, "assertion", "second.assertion.x\n")
	eventually(t, "the second assertion", func() bool {
		w.wantOK(t)
		requests := w.tokens.Requests()
		return requests[len(requests)-1].Form().Get("client_assertion") == "second.assertion.x"
	})

	for _, content := range []string{"", "\n", "two\nlines"} {
		w.File(t, "assertion", content)
		var response *harness.Response
		eventually(t, "a request that is refused", func() bool {
			response = w.Get(t, "/")
			return response.StatusCode != http.StatusOK
		})
		wantSidecarError(t, response, http.StatusBadGateway, "proxy_configuration_error")
		w.File(t, "assertion", "third.assertion.x")
		eventually(t, "recovery", func() bool { return w.try("/").status == http.StatusOK })
	}
	for _, request := range w.tokens.Requests() {
		if got := request.Form().Get("client_assertion"); !strings.HasSuffix(got, ".assertion.x") {
			t.Errorf("the assertion %q was sent", got)
		}
	}
}

// TestIssuerThatTalksToCertificatesOnly: one server has the metadata and the token endpoint, and takes
// no connection without a client certificate.
func TestIssuerThatTalksToCertificatesOnly(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	w := newWorld(t, ca)
	ca.Client(t, "app", filepath.Join(w.Dir, "cert.pem"), filepath.Join(w.Dir, "key.pem"))
	issuer := httptest.NewUnstartedServer(nil)
	issuer.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/oauth-authorization-server" {
			w.tokens.ServeHTTP(rw, r)
			return
		}
		harness.Reply(http.StatusOK, map[string]any{
			"issuer": issuer.URL, "token_endpoint": issuer.URL + "/token", "token_endpoint_auth_methods_supported": []string{"tls_client_auth"},
		}).ServeHTTP(rw, r)
	})
	issuer.TLS = ca.ServerConfig()
	issuer.TLS.ClientAuth, issuer.TLS.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	issuer.StartTLS()
	t.Cleanup(issuer.Close)
	config := w.inline(options{
		service: "auth_method tls_client_auth", secretLine: "client_certificate $DIR/cert.pem $DIR/key.pem", env: []string{"SSL_CERT_FILE=" + ca.File},
	})
	config.Site = strings.Replace(config.Site, "token_url "+w.tokens.URL, "issuer "+issuer.URL, 1)
	w.Run(t, config)
	w.wantOK(t)
}

func TestPublicClient(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{service: "auth_method none", secretLine: "# no secret"})
	w.wantOK(t)
	request := w.tokens.Requests()[0]
	equal(t, "client_id", request.Form().Get("client_id"), "app")
	if request.Header.Get("Authorization") != "" || request.Form().Has("client_secret") {
		t.Error("a public client has credentials")
	}
}

// TestHeadersOfAssertions: SMART services want another typ, and Entra ID the thumbprint of a certificate.
func TestHeadersOfAssertions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	cert, key := harness.SelfSignedPEM(t, "client")
	w.File(t, "client.pem", cert+key)
	block, _ := pem.Decode([]byte(cert))
	sum := sha256.Sum256(block.Bytes)
	w.Run(t, w.inline(options{
		service:    "auth_method private_key_jwt\nassertion_typ JWT\nclient_assertion_type urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
		secretLine: "client_key_file $DIR/client.pem\nclient_key_certificate $DIR/client.pem",
	}))
	w.wantOK(t)
	form := w.tokens.Only(t).Form()
	equal(t, "type", form.Get("client_assertion_type"), "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe")
	header, err := base64.RawURLEncoding.DecodeString(strings.Split(form.Get("client_assertion"), ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(header, &got); err != nil {
		t.Fatal(err)
	}
	equal(t, "typ", got["typ"], any("JWT"))
	equal(t, "x5t#S256", got["x5t#S256"], any(base64.RawURLEncoding.EncodeToString(sum[:])))
}
