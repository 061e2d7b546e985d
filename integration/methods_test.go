package integration

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// clientMethod is a way in which a client proves who it is, as one connection of methodsWorld uses
// it.
type clientMethod struct {
	name    string                            // of the connection
	options string                            // of the connection, besides its URLs
	carries []string                          // what its token requests carry, sorted: of kindsOfProof
	renew   func(t testing.TB) []newFile      // makes new credentials, which prove from now on too; nil: there are none
	proves  func(r *harness.TokenRequest) int // which of the credentials a request proves, else -1
	dpop    bool
}

// newFile is the new content of a file of credentials.
type newFile struct{ name, content string }

// What a token request may prove, or say of the client.
const (
	proofBasic       = "Authorization"
	proofAssertion   = "client_assertion"
	proofID          = "client_id"
	proofSecret      = "client_secret"
	proofCertificate = "certificate"
	proofKey         = "DPoP"
)

// carriedBy lists all that a token request says of the client, sorted.
func carriedBy(r *harness.TokenRequest) []string {
	form := r.Form()
	all := map[string]bool{
		proofBasic: r.Header.Get("Authorization") != "", proofKey: r.Header.Get("DPoP") != "",
		proofCertificate: r.TLS != nil && len(r.TLS.PeerCertificates) > 0,
		proofAssertion:   form.Has("client_assertion"), proofID: form.Has("client_id"), proofSecret: form.Has("client_secret"),
	}
	maps.DeleteFunc(all, func(_ string, carried bool) bool { return !carried })
	return slices.Sorted(maps.Keys(all))
}

// methodsWorld is a world with one connection for each way in which a client proves who it is, all
// of the same id. They are told apart by the path: that of the app's requests and the API's begins
// with the connection's name, and token requests have it in the query.
type methodsWorld struct {
	*world
	ca      *harness.CA
	methods []*clientMethod

	mu     sync.Mutex
	owners map[string]string // of tokens: the connection's name
}

// newMethodsWorld prepares the world. Its servers speak TLS.
func newMethodsWorld(t testing.TB) *methodsWorld {
	t.Helper()
	ca := harness.NewCA(t)
	w := &methodsWorld{world: newWorld(t, ca), ca: ca, owners: map[string]string{}}
	w.methods = []*clientMethod{
		w.bySecret("basic", "client_secret_basic", proofBasic),
		w.bySecret("post", "client_secret_post", proofID, proofSecret),
		w.bySecret("secret-jwt", "client_secret_jwt", proofAssertion, proofID),
		w.byKey("key-pem", "RS256", "client_key_file $DIR/key-pem", (*signer).pem),
		w.byKey("key-jwk", "EdDSA", "client_key_file $DIR/key-jwk", (*signer).jwk),
		w.byKey("key-placeholder", "ES256", "client_key {file.$DIR/key-placeholder}", (*signer).pem),
		w.byMountedAssertion("assertion"),
		w.byCertificate("certificate", ca.ClientPEM),
		w.byCertificate("self-signed", harness.SelfSignedPEM),
		{name: "none", options: "auth_method none", carries: []string{proofID}},
		w.boundToKey(w.bySecret("dpop", "client_secret_basic", proofBasic), "dpop"),
		w.boundToKey(w.byKey("key-dpop", "ES384", "client_key_file $DIR/key-dpop", (*signer).jwk), "dpop $DIR/proofs.pem"),
	}
	for _, m := range w.methods {
		w.rotate(t, m)
	}
	w.File(t, "proofs.pem", newSigner(t, "ES256", "").pem(t))
	w.tokens.RespondWith(w.grant(time.Hour))
	w.api.RespondWith(http.HandlerFunc(w.serveAPI))
	return w
}

// rotate replaces a method's credentials on disk, each file at once.
func (w *methodsWorld) rotate(t testing.TB, m *clientMethod) {
	t.Helper()
	if m.renew == nil {
		return
	}
	for _, file := range m.renew(t) {
		w.File(t, file.name, file.content)
	}
}

// secrets of client_secret_jwt must be long.
func newSecret(name string, generation int) string {
	return fmt.Sprintf("secret number %d of the connection %s, long enough for an HMAC", generation, name)
}

func (w *methodsWorld) bySecret(name, method string, carries ...string) *clientMethod {
	m := &clientMethod{name: name, options: "auth_method " + method + "\nclient_secret_file $DIR/" + name, carries: carries}
	secrets := new(generations[string])
	m.renew = func(testing.TB) []newFile {
		return []newFile{{name, secrets.add(newSecret(name, secrets.count()))}}
	}
	m.proves = func(r *harness.TokenRequest) int {
		return secrets.find(func(secret string) bool {
			switch method {
			case "client_secret_basic":
				return r.Header.Get("Authorization") == basicAuth("app", url.QueryEscape(secret))
			case "client_secret_post":
				return r.Form().Get("client_secret") == secret
			default:
				return w.validAssertion(r, jose.HS256, []byte(secret))
			}
		})
	}
	return m
}

func (w *methodsWorld) byKey(name, alg, option string, format func(*signer, testing.TB) string) *clientMethod {
	m := &clientMethod{name: name, options: "auth_method private_key_jwt\n" + option, carries: []string{proofAssertion, proofID}}
	keys := new(generations[*signer])
	m.renew = func(t testing.TB) []newFile {
		key := keys.add(newSigner(t, alg, fmt.Sprintf("%s-%d", name, keys.count())))
		return []newFile{{name, format(key, t)}}
	}
	m.proves = func(r *harness.TokenRequest) int {
		return keys.find(func(key *signer) bool { return w.validAssertion(r, jose.SignatureAlgorithm(alg), key.key.Public()) })
	}
	return m
}

// validAssertion reports whether a request carries an assertion that was made for it with the key.
func (w *methodsWorld) validAssertion(r *harness.TokenRequest, alg jose.SignatureAlgorithm, key any) bool {
	assertion, err := jwt.ParseSigned(r.Form().Get("client_assertion"), []jose.SignatureAlgorithm{alg})
	if err != nil {
		return false
	}
	var claims jwt.Claims
	return assertion.Claims(key, &claims) == nil && claims.Validate(jwt.Expected{
		Issuer: "app", Subject: "app", AnyAudience: jwt.Audience{"https://" + r.Host + r.RequestURI}, Time: r.At,
	}) == nil
}

func (w *methodsWorld) byMountedAssertion(name string) *clientMethod {
	m := &clientMethod{
		name: name, options: "auth_method private_key_jwt\nclient_assertion_file $DIR/" + name, carries: []string{proofAssertion, proofID},
	}
	assertions := new(generations[string])
	m.renew = func(testing.TB) []newFile {
		return []newFile{{name, assertions.add(fmt.Sprintf("mounted.assertion.%d", assertions.count())) + "\n"}}
	}
	m.proves = func(r *harness.TokenRequest) int {
		return assertions.find(func(assertion string) bool { return r.Form().Get("client_assertion") == assertion })
	}
	return m
}

func (w *methodsWorld) byCertificate(name string, issue func(tb testing.TB, name string) (cert, key string)) *clientMethod {
	certFile, keyFile := name+".crt", name+".key"
	m := &clientMethod{
		name: name, options: "auth_method tls_client_auth\nclient_certificate $DIR/" + certFile + " $DIR/" + keyFile,
		carries: []string{proofCertificate, proofID},
	}
	names := new(generations[string])
	m.renew = func(t testing.TB) []newFile {
		cert, key := issue(t, names.add(fmt.Sprintf("%s-%d", name, names.count())))
		return []newFile{{certFile, cert}, {keyFile, key}}
	}
	m.proves = func(r *harness.TokenRequest) int {
		var shown []*x509.Certificate
		if r.TLS != nil {
			shown = r.TLS.PeerCertificates
		}
		return names.find(func(name string) bool { return len(shown) > 0 && shown[0].Subject.CommonName == name })
	}
	return m
}

// boundToKey has the method's tokens bound to a key.
func (w *methodsWorld) boundToKey(m *clientMethod, option string) *clientMethod {
	m.dpop = true
	m.options += "\n" + option
	m.carries = append(m.carries, proofKey)
	slices.Sort(m.carries)
	return m
}

// jwk is the private key as a JWK.
func (s *signer) jwk(t testing.TB) string {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKey{Key: s.key, KeyID: s.kid, Algorithm: s.alg, Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// generations are the credentials that a client has had, the newest last.
type generations[T any] struct {
	mu  sync.Mutex
	all []T
}

func (g *generations[T]) add(credentials T) T {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, credentials)
	return credentials
}

func (g *generations[T]) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all)
}

// find returns the index of the credentials for which it is true, else -1.
func (g *generations[T]) find(holds func(T) bool) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.IndexFunc(g.all, holds)
}

// config has a connection for each method.
func (w *methodsWorld) config(more string) harness.Config {
	var global, site strings.Builder
	global.WriteString("http_helper {\n")
	for _, m := range w.methods {
		fmt.Fprintf(&global, "connection %s {\nbase_url $API/%s\ntoken_url $TOKENS?connection=%s\nclient_id app\n%s\n%s\n}\n", m.name, m.name, m.name, m.options, more)
		fmt.Fprintf(&site, "handle_path /%s/* {\nhttp_helper %s\n}\n", m.name, m.name)
	}
	return w.expand(options{env: []string{"SSL_CERT_FILE=" + w.ca.File}}, harness.Config{Options: global.String() + "}", Site: site.String()})
}

// connectionOf is the connection, named in the query, that made a token request.
func connectionOf(requestURI string) string {
	u, _ := url.Parse(requestURI)
	return u.Query().Get("connection")
}

// grant responds with tokens of that lifetime, bound to a key when there is a proof of one.
func (w *methodsWorld) grant(lifetime time.Duration) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		token, tokenType := w.tokens.Issue(lifetime), "Bearer"
		if r.Header.Get("DPoP") != "" {
			tokenType = "DPoP"
		}
		w.mu.Lock()
		w.owners[token] = connectionOf(r.RequestURI)
		w.mu.Unlock()
		harness.Reply(http.StatusOK, map[string]any{"access_token": token, "token_type": tokenType, "expires_in": int(lifetime.Seconds())}).ServeHTTP(rw, r)
	})
}

// serveAPI requires that each connection sends a token of its own.
func (w *methodsWorld) serveAPI(rw http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	w.mu.Lock()
	owner := w.owners[harness.AccessToken(r.Header)]
	w.mu.Unlock()
	if owner != name {
		http.Error(rw, "the token of "+owner, http.StatusForbidden)
	}
}

// requestsOf are the token requests of a connection.
func (w *methodsWorld) requestsOf(m *clientMethod) []*harness.TokenRequest {
	return slices.DeleteFunc(w.tokens.Requests(), func(r *harness.TokenRequest) bool { return connectionOf(r.RequestURI) != m.name })
}

// wantProofs checks what all the token requests so far have said of the client: exactly what the
// method says, and no assertion and no proof of possession twice.
func (w *methodsWorld) wantProofs(t testing.TB) {
	t.Helper()
	seen := map[string]bool{}
	once := func(m *clientMethod, what, value string) {
		if value != "" && seen[value] {
			t.Errorf("%s: %s came twice", m.name, what)
		}
		seen[value] = true
	}
	for _, m := range w.methods {
		requests := w.requestsOf(m)
		if len(requests) == 0 {
			t.Errorf("%s: no token request", m.name)
		}
		for _, r := range requests {
			if got := carriedBy(r); !slices.Equal(got, m.carries) {
				t.Errorf("%s: a token request carries %q, want %q", m.name, got, m.carries)
			}
			if m.proves != nil && m.proves(r) < 0 {
				t.Errorf("%s: a token request proves nothing", m.name)
			}
			if !strings.Contains(m.options, "client_assertion_file") {
				once(m, "an assertion", r.Form().Get("client_assertion"))
			}
			once(m, "a proof", r.Header.Get("DPoP"))
		}
	}
}

// each runs a check for each method at a time.
func (w *methodsWorld) each(t *testing.T, check func(t testing.TB, m *clientMethod)) {
	t.Helper()
	for _, m := range w.methods {
		t.Run(m.name, func(t *testing.T) { check(t, m) })
	}
}
