package integration

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

const longSecret = "a-secret-of-at-least-32-characters-for-HS256"

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

// pem is the private key as a file holds it.
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

func TestOIDCProviderByAssertion(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	clients := []map[string]any{introspector, oidcClient("app-HS256", "client_secret_jwt", map[string]any{"client_secret": longSecret})}
	keys := map[string]*signer{"HS256": nil}
	for _, alg := range []string{"RS256", "PS256", "ES256", "EdDSA"} {
		keys[alg] = newSigner(t, alg, "key-1")
		clients = append(clients, oidcClient("app-"+alg, "private_key_jwt", map[string]any{
			"jwks": keySet(t, keys[alg].public()), "token_endpoint_auth_signing_alg": alg,
		}))
	}
	server := harness.StartOIDCProvider(t, ca, harness.OIDCConfig{Scopes: []string{"a", "b"}, Clients: clients})
	for alg, key := range keys {
		for _, discovered := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, discovered %v", alg, discovered), func(t *testing.T) {
				o := options{connection: "client_id app-" + alg, env: []string{"SSL_CERT_FILE=" + ca.File}}
				files := map[string]string{}
				if key == nil {
					o.service, o.env = "auth_method client_secret_jwt", append(o.env, "SECRET="+longSecret)
				} else {
					o.service, o.secretLine = "auth_method private_key_jwt", "client_key_file $DIR/key.pem\nsigning_alg "+alg+"\nkey_id key-1"
					files["key.pem"] = key.pem(t)
				}
				w := beforeOIDC(t, server, o, files, discovered)
				answer := server.Introspect(t, "introspector", longSecret, w.wantGranted(t))
				equal[any](t, "active", answer["active"], true)
				equal[any](t, "client", answer["client_id"], "app-"+alg)
			})
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

func TestHydraByPrivateKey(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	key := newSigner(t, "RS256", "key-1")
	server := harness.StartHydra(t, ca)
	server.Register(t, harness.HydraClient{
		ID: "app", AuthMethod: "private_key_jwt", Scope: "a", SigningAlg: "RS256", JWKS: keySet(t, key.public()),
	})
	w := &world{Sidecar: harness.New(t), tokens: server.TokenEndpoint}
	w.api = harness.NewAPI(t, nil, nil)
	w.File(t, "key.pem", key.pem(t))
	w.Run(t, w.inline(options{
		service: "auth_method private_key_jwt", secretLine: "client_key_file $DIR/key.pem\nkey_id key-1",
		env: []string{"SSL_CERT_FILE=" + ca.File},
	}))
	answer := server.Introspect(t, w.wantGranted(t))
	equal[any](t, "active", answer["active"], true)
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
			w.api.Answer(checker.handler(t, w.api.Addr))
			for range 5 {
				wantStatus(t, w.Send(t, http.MethodPut, "/a%20b?x=1", []byte("body")), http.StatusOK)
			}
			token, _ := strings.CutPrefix(w.api.Last(t).Header.Get("Authorization"), "DPoP ")
			answer := server.Introspect(t, "introspector", longSecret, token)
			equal[any](t, "active", answer["active"], true)
			cnf, _ := answer["cnf"].(map[string]any)
			thumbprint, _ := cnf["jkt"].(string)
			if len(checker.keys) != 1 || !checker.keys[thumbprint] {
				t.Errorf("token bound to %q, proofs by %v", thumbprint, checker.keys)
			}
		})
	}
}

func TestBearerAnswerIsRefusedWhenDPoPWasAskedFor(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{connection: "dpop"})
	wantOurs(t, w.Get(t, "/"), http.StatusBadGateway, "proxy_configuration_error")
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
			answer := server.Introspect(t, "introspector", longSecret, token)
			equal[any](t, "active", answer["active"], true)
			cnf, _ := answer["cnf"].(map[string]any)
			shown := w.api.Last(t).TLS.PeerCertificates
			if len(shown) == 0 {
				t.Fatal("the API saw no certificate")
			}
			hash := sha256.Sum256(shown[0].Raw)
			equal[any](t, "the certificate that the token is bound to", cnf["x5t#S256"], base64.RawURLEncoding.EncodeToString(hash[:]))
		})
	}
}

// certificateSet is a JWK set with the certificate in a file.
func certificateSet(t *testing.T, file string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
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
	w.tokens.Answer(w.tokens.Grant(2 * time.Second))
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
	answer := server.Introspect(t, "introspector", longSecret, w.wantGranted(t))
	equal[any](t, "audience", answer["aud"], "https://api.example.com/v2")

	w = beforeOIDC(t, server, options{service: "resource https://other.example.com"}, nil, false)
	refused := w.Get(t, "/")
	wantOurs(t, refused, http.StatusBadGateway, "proxy_configuration_error")
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
	w.tokens.Answer(harness.Status(http.StatusInternalServerError))
	w.Run(t, w.inline(options{
		service: "auth_method private_key_jwt", secretLine: "client_key_file $DIR/key.pem\nassertion_lifetime 30s\nassertion_audience https://as.example",
	}))
	wantStatus(t, w.Get(t, "/"), http.StatusServiceUnavailable)
	w.tokens.Answer(w.tokens.Grant(2 * time.Second))
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
		if life := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); life != 30*time.Second {
			t.Errorf("an assertion lives %v", life)
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
	w.tokens.Answer(w.tokens.Grant(2 * time.Second))
	w.Run(t, w.inline(options{service: "auth_method private_key_jwt", secretLine: "client_assertion_file $DIR/assertion"}))
	w.wantOK(t)
	equal(t, "assertion", w.tokens.Requests()[0].Form().Get("client_assertion"), "first.assertion.x")
	w.File(t, "assertion", "second.assertion.x\n")
	eventually(t, "the second assertion", func() bool {
		w.wantOK(t)
		requests := w.tokens.Requests()
		return requests[len(requests)-1].Form().Get("client_assertion") == "second.assertion.x"
	})
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
