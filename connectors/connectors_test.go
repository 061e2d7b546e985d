package connectors_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	httphelper "github.com/caddy-httphelper/caddy-httphelper"
)

const (
	testClientID     = "id@with/special chars"
	testClientSecret = "s=cr%t+"
	testAssertion    = "an.assertion.file"
)

// flowValues are the config values of connectors that compute them, for the values of testValue.
var flowValues = map[string]map[string]string{
	"sap-ariba":    {"api_host": "openapi.ariba.com", "token_host": "api.ariba.com"},
	"servicetitan": {"api_host": "api-integration.servicetitan.io", "token_host": "auth-integration.servicetitan.io"},
	"zscaler":      {"api_host": "api.zsapi.net"},
}

// TestMain has the tests run in the root of the repository.
func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil {
		panic(err)
	}
	m.Run()
}

// snippet is one file of connectors/.
type snippet struct {
	name, file, content string
	connector           *httphelper.Connector
}

// snippets adapts every file of connectors/ as its comment says it is used.
func snippets(t *testing.T) []snippet {
	t.Helper()
	files, err := filepath.Glob("connectors/*.caddyfile")
	if err != nil || len(files) < 40 {
		t.Fatalf("finding connectors: %d files, %v", len(files), err)
	}
	var found []snippet
	for _, file := range files {
		// Caddy imports relative to the directory that the process started in.
		file, err := filepath.Abs(file)
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s := snippet{name: strings.TrimSuffix(filepath.Base(file), ".caddyfile"), file: file, content: string(content)}
		app := adaptApp(t, "{\n\thttp_helper {\n\t\timport "+file+"\n\t}\n}\n")
		if s.connector = app.Connectors[s.name]; s.connector == nil || len(app.Connectors) != 1 {
			t.Fatalf("%s must define one connector, %s", file, s.name)
		}
		found = append(found, s)
	}
	return found
}

func adaptApp(t *testing.T, config string) *httphelper.App {
	t.Helper()
	var adapted struct {
		Apps struct {
			HTTPHelper *httphelper.App `json:"http_helper"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(adaptConfig(t, config), &adapted); err != nil {
		t.Fatal(err)
	}
	return adapted.Apps.HTTPHelper
}

func adaptConfig(t *testing.T, config string) []byte {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	for _, warning := range warnings {
		if !strings.Contains(warning.Message, "not formatted") {
			t.Errorf("adapting: %v", warning)
		}
	}
	return adapted
}

// testValue returns the value of a parameter in a test connection.
func testValue(p httphelper.Parameter) string {
	switch {
	case p.Default != "":
		return p.Default
	case len(p.Options) > 0:
		return p.Options[0].Value
	default:
		return strings.ReplaceAll(p.Key, "_", "-") + ".example"
	}
}

// expand puts the values of testValue, or those of other, into a text of the connector.
func (s snippet) expand(text string, other map[string]string) string {
	var pairs []string
	for _, p := range s.connector.Parameters {
		value, ok := other[p.Key]
		if !ok {
			value = testValue(p)
		}
		pairs = append(pairs, "{param."+p.Key+"}", value)
	}
	for key, value := range flowValues[s.name] {
		pairs = append(pairs, "{config."+key+"}", value)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// checked says in the words of the index what a snippet's comment says about its sources.
func (s snippet) checked() string {
	documentation := sourceLine.FindStringSubmatch(s.content)
	code := ownCodeLine.FindStringSubmatch(s.content)
	names := func(found []string) bool { return found != nil && tokenEndpoint.MatchString(found[1]) }
	switch {
	case names(documentation):
		return "its documentation"
	case names(code):
		return "its own code"
	case documentation != nil:
		return "partly its documentation"
	default:
		return "other sources"
	}
}

// What a comment says of its sources. A line may go on in the next.
var (
	sourceLine    = regexp.MustCompile(`(?m)^# Checked against it: (.*(?:\n# [a-z].*)*)`)
	ownCodeLine   = regexp.MustCompile(`(?m)^# Checked elsewhere \([^)]* own [^)]*\): (.*)`)
	tokenEndpoint = regexp.MustCompile(`token (URL|path)`)
)

// indexRow is the snippet's row in connectors/README.md.
func (s snippet) indexRow() string {
	var keys []string
	for _, p := range s.connector.Parameters {
		keys = append(keys, "`"+p.Key+"`")
	}
	asks := strings.Join(keys, ", ")
	if asks == "" {
		asks = "–"
	}
	return fmt.Sprintf("| %s | [%s](%s) | `%s` | %s | %s |", s.connector.Label, s.name, filepath.Base(s.file), s.connector.AuthMethod, asks, s.checked())
}

func TestConnectorFiles(t *testing.T) {
	for _, s := range snippets(t) {
		t.Run(s.name, func(t *testing.T) {
			if formatted := caddyfile.Format([]byte(s.content)); string(formatted) != s.content {
				t.Errorf("the file is not formatted; caddy fmt makes it\n%s", formatted)
			}
			for _, want := range []string{"\n# Documentation: https://", "\n# Checked ", "\n# Not checked: "} {
				if !strings.Contains(s.content, want) {
					t.Errorf("the comment has no line that begins with %q", strings.TrimSpace(want))
				}
			}
			if s.connector.Label == "" || s.connector.AuthMethod == "" {
				t.Error("label or auth_method is missing")
			}
			for _, p := range s.connector.Parameters {
				if p.Label == "" {
					t.Errorf("parameter %s has no label", p.Key)
				}
				if p.Type == "password" && strings.Contains(s.connector.BaseURL+s.connector.TokenURL, "{param."+p.Key+"}") {
					t.Errorf("parameter %s is a password in a URL", p.Key)
				}
			}
		})
	}
}

func TestConnectorIndex(t *testing.T) {
	index, err := os.ReadFile("connectors/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, s := range snippets(t) {
		want = append(want, s.indexRow())
	}
	slices.SortFunc(want, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	var got []string
	for line := range strings.Lines(string(index)) {
		if strings.Contains(line, ".caddyfile) |") {
			got = append(got, strings.TrimSuffix(line, "\n"))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the index should have the rows\n%s", strings.Join(want, "\n"))
	}
}

var hostName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]+$`)

// TestConnectorOptions checks the URLs with every choice of every dropdown.
func TestConnectorOptions(t *testing.T) {
	for _, s := range snippets(t) {
		for _, p := range s.connector.Parameters {
			for _, option := range p.Options {
				for _, text := range []string{s.connector.BaseURL, s.connector.TokenURL} {
					expanded := s.expand(text, map[string]string{p.Key: option.Value})
					u, err := url.Parse(expanded)
					if err != nil || u.Scheme != "https" || !hostName.MatchString(u.Host) {
						t.Errorf("%s with %s %s: %s is not an https URL: %v", s.name, p.Key, option.Value, expanded, err)
					}
				}
			}
		}
	}
}

// TestConnectorRequests sends one request through each connector to a stand-in for every host, and
// checks the token request and the API request that come out.
func TestConnectorRequests(t *testing.T) {
	internet := startInternet(t)
	for _, s := range snippets(t) {
		t.Run(s.name, func(t *testing.T) {
			socket := s.load(t, internet)
			internet.forget()
			resp, err := clientOf(socket).Get("http://sidecar/probe")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("status %d, Proxy-Status %q", resp.StatusCode, resp.Header.Get("Proxy-Status"))
			}
			seen := internet.seen()
			if len(seen) != 2 {
				t.Fatalf("%d requests, want a token request and an API request: %v", len(seen), seen)
			}
			s.checkTokenRequest(t, seen[0])
			s.checkAPIRequest(t, seen[1])
		})
	}
}

// clientOf returns a client that connects to a unix socket, whatever the host of the URL.
func clientOf(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
}

// adminSocket returns the socket of the admin endpoint of a Caddy that listens on socket.
func adminSocket(socket string) string { return socket + ".admin" }

// asksFor reports whether the comment wants the connection to have an option.
func (s snippet) asksFor(option string) bool {
	return strings.Contains(s.content, "\n#     "+option+" ")
}

// load runs Caddy with one connection to the connector, and returns the socket that it listens on.
func (s snippet) load(t *testing.T, internet *internet) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "connector")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	key := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(key, internet.clientKey, 0o600); err != nil {
		t.Fatal(err)
	}
	assertion := filepath.Join(dir, "assertion")
	if err := os.WriteFile(assertion, []byte(testAssertion), 0o600); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "http.sock")
	var connection strings.Builder
	fmt.Fprintf(&connection, "client_id %q\n", testClientID)
	switch {
	case s.connector.AuthMethod != "private_key_jwt":
		fmt.Fprintf(&connection, "client_secret %q\n", testClientSecret)
	case s.asksFor("client_assertion_file"):
		fmt.Fprintf(&connection, "client_assertion_file %s\n", assertion)
	default:
		fmt.Fprintf(&connection, "client_key_file %s\n", key)
	}
	if s.asksFor("client_key_certificate") {
		fmt.Fprintf(&connection, "client_key_certificate %s\n", key)
	}
	for _, p := range s.connector.Parameters {
		fmt.Fprintf(&connection, "parameter %s %s\n", p.Key, testValue(p))
	}
	if s.connector.AdditionalScopes {
		connection.WriteString("additional_scopes extra:scope\n")
	}
	config := adaptConfig(t, fmt.Sprintf(`{
	admin unix/%s
	persist_config off
	log {
		level ERROR
	}
	http_helper {
		import %s
		connection test %s {
			%s
		}
	}
}
:8080 {
	bind unix/%s
	http_helper test {
		transport http {
			network_proxy url %s
			tls_trust_pool file %s
		}
	}
}
`, adminSocket(socket), s.file, s.name, connection.String(), socket, internet.proxy.URL, internet.caFile))
	if err := caddy.Load(internet.intoTokenTransport(t, config, s.name), true); err != nil {
		t.Fatalf("loading: %v", err)
	}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
	})
	return socket
}

func (s snippet) checkTokenRequest(t *testing.T, got seenRequest) {
	t.Helper()
	if want := "POST " + s.expand(s.connector.TokenURL, nil); got.line != want {
		t.Errorf("token request: %s, want %s", got.line, want)
	}
	fields := got.fields(t, s.connector.TokenRequestFormat)
	want := url.Values{"grant_type": {"client_credentials"}}
	if s.connector.GrantType != "" {
		want.Set("grant_type", s.connector.GrantType)
	}
	if scopes := s.scopes(); scopes != "" {
		want.Set("scope", scopes)
	}
	for _, p := range s.connector.TokenRequestParams {
		for _, value := range p.Values {
			want.Add(p.Name, s.expand(value, nil))
		}
	}
	authorization := ""
	switch s.connector.AuthMethod {
	case "client_secret_basic":
		id, secret := testClientID, testClientSecret
		if s.connector.BasicEncoding != "raw" {
			id, secret = url.QueryEscape(id), url.QueryEscape(secret)
		}
		authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
	case "client_secret_post":
		want.Set("client_id", testClientID)
		want.Set("client_secret", testClientSecret)
	case "private_key_jwt":
		want.Set("client_assertion_type", cmp.Or(s.connector.ClientAssertionType, "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"))
		s.checkAssertion(t, fields.Get("client_assertion"))
		fields.Del("client_assertion")
		fields.Del("client_id") // allowed beside an assertion
	}
	if fields.Encode() != want.Encode() {
		t.Errorf("token request: fields %v, want %v", fields, want)
	}
	if got.header.Get("Authorization") != authorization {
		t.Errorf("token request: Authorization %q, want %q", got.header.Get("Authorization"), authorization)
	}
	s.checkHeaders(t, "token request", got, s.connector.TokenRequestHeaders)
}

// checkAssertion checks the header of the assertion that the sidecar has signed, or that it is the one in the
// file.
func (s snippet) checkAssertion(t *testing.T, assertion string) {
	t.Helper()
	if s.asksFor("client_assertion_file") {
		if assertion != testAssertion {
			t.Errorf("token request: assertion %q", assertion)
		}
		return
	}
	encoded, _, _ := strings.Cut(assertion, ".")
	var header map[string]string
	if decoded, err := base64.RawURLEncoding.DecodeString(encoded); err != nil || json.Unmarshal(decoded, &header) != nil {
		t.Fatalf("token request: assertion %q", assertion)
	}
	if typ := cmp.Or(s.connector.AssertionTyp, "client-authentication+jwt"); header["typ"] != typ {
		t.Errorf("token request: the assertion's typ is %q, want %q", header["typ"], typ)
	}
	if _, hasThumbprint := header["x5t#S256"]; hasThumbprint != s.asksFor("client_key_certificate") {
		t.Errorf("token request: the assertion's header is %v", header)
	}
}

// scopes are those that the test connection asks for: all of the connector's, and one of its own.
func (s snippet) scopes() string {
	var scopes []string
	for _, scope := range s.connector.Scopes {
		scopes = append(scopes, scope.Name)
	}
	if s.connector.AdditionalScopes {
		scopes = append(scopes, "extra:scope")
	}
	separator := s.connector.TokenRequestScopeSeparator
	if separator == "" {
		separator = " "
	}
	return strings.Join(scopes, separator)
}

func (s snippet) checkAPIRequest(t *testing.T, got seenRequest) {
	t.Helper()
	if want := "GET " + s.expand(s.connector.BaseURL, nil) + "/probe"; got.line != want {
		t.Errorf("API request: %s, want %s", got.line, want)
	}
	if want := "Bearer " + standInToken; got.header.Get("Authorization") != want {
		t.Errorf("API request: Authorization %q, want %q", got.header.Get("Authorization"), want)
	}
	s.checkHeaders(t, "API request", got, s.connector.APIHeaders)
}

func (s snippet) checkHeaders(t *testing.T, what string, got seenRequest, want []httphelper.Field) {
	t.Helper()
	for _, field := range want {
		if value := s.expand(field.Value, nil); got.header.Get(field.Name) != value {
			t.Errorf("%s: %s is %q, want %q", what, field.Name, got.header.Get(field.Name), value)
		}
	}
}

const standInToken = "stand-in-token"

// internet stands in for every https host: a forward proxy leads to one server that has a
// certificate for any name. What has no token gets one, what has one gets 200.
type internet struct {
	proxy, server *httptest.Server
	caFile        string
	clientKey     []byte // with a certificate for it

	mu       sync.Mutex
	requests []seenRequest
	tokens   http.HandlerFunc // responds to token requests; nil: plainToken
}

// seenRequest is a request that reached the stand-in.
type seenRequest struct {
	line   string // method and URL
	header http.Header
	body   []byte
}

func (r seenRequest) String() string { return r.line }

// fields are those of a token request, wherever they travel.
func (r seenRequest) fields(t *testing.T, format string) url.Values {
	t.Helper()
	if format != "json" {
		fields, err := url.ParseQuery(string(r.body))
		if err != nil {
			t.Fatal(err)
		}
		return fields
	}
	var object map[string]string
	if err := json.Unmarshal(r.body, &object); err != nil {
		t.Fatalf("token request: %v", err)
	}
	fields := make(url.Values)
	for name, value := range object {
		fields.Set(name, value)
	}
	return fields
}

func startInternet(t *testing.T) *internet {
	t.Helper()
	in := new(internet)
	caKey := newKey(t)
	ca := in.makeCA(t, caKey)
	in.server = httptest.NewUnstartedServer(http.HandlerFunc(in.serve))
	in.server.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return certificateFor(hello.ServerName, ca, caKey)
	}}
	in.server.StartTLS()
	t.Cleanup(in.server.Close)
	in.proxy = httptest.NewServer(http.HandlerFunc(in.connect))
	t.Cleanup(in.proxy.Close)
	return in
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (in *internet) makeCA(t *testing.T, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	in.caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(in.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	clientKey := newKey(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(clientKey)
	if err != nil {
		t.Fatal(err)
	}
	clientCertificate, err := x509.CreateCertificate(rand.Reader, template, template, clientKey.Public(), clientKey)
	if err != nil {
		t.Fatal(err)
	}
	in.clientKey = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	in.clientKey = append(in.clientKey, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: clientCertificate})...)
	return ca
}

func certificateFor(host string, ca *x509.Certificate, key *ecdsa.PrivateKey) (*tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{host},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), key)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// connect is the forward proxy: whatever the client wants to reach, it reaches the stand-in.
func (in *internet) connect(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect {
		http.Error(w, "only https is expected", http.StatusBadRequest)
		return
	}
	server, err := net.Dial("tcp", in.server.Listener.Addr().String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		server.Close()
		return
	}
	go func() {
		defer server.Close()
		_, _ = io.Copy(server, buffered)
	}()
	go func() {
		defer client.Close()
		_, _ = io.Copy(client, server)
	}()
}

func (in *internet) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	in.mu.Lock()
	in.requests = append(in.requests, seenRequest{
		line:   r.Method + " https://" + r.Host + r.RequestURI,
		header: r.Header, body: body,
	})
	tokens := in.tokens
	in.mu.Unlock()
	if strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
		return
	}
	if tokens == nil {
		tokens = plainToken
	}
	tokens(w, r)
}

func plainToken(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token": %q, "token_type": "Bearer", "expires_in": 3600}`, standInToken)
}

func (in *internet) seen() []seenRequest {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.requests)
}

func (in *internet) forget() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.requests = nil
}

// intoTokenTransport leads a connector's token requests to the stand-in.
func (in *internet) intoTokenTransport(t *testing.T, config []byte, connector string) []byte {
	t.Helper()
	var document map[string]any
	if err := json.NewDecoder(bytes.NewReader(config)).Decode(&document); err != nil {
		t.Fatal(err)
	}
	app := document["apps"].(map[string]any)["http_helper"].(map[string]any)
	app["connectors"].(map[string]any)[connector].(map[string]any)["token_transport"] = map[string]any{
		"network_proxy": map[string]any{"from": "url", "url": in.proxy.URL},
		"tls":           map[string]any{"ca": map[string]any{"provider": "file", "pem_files": []string{in.caFile}}},
	}
	changed, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}
