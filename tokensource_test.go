package httphelper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/flows/flowstest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

// Which token requests differ: the endpoint and the key of a source.

// TestAliasesAreForClientsWithACertificate, whatever their method.
func TestAliasesAreForClientsWithACertificate(t *testing.T) {
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	plain, mutual := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse)), oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	issuer := oauthtest.NewIssuerURL(t, `{"issuer":"ISSUER","token_endpoint":"`+plain.URL+`","mtls_endpoint_aliases":{"token_endpoint":"`+mutual.URL+`"}}`)
	connection := "connection %s {\nbase_url http://127.0.0.1:1\nissuer " + issuer + "\nclient_id app\nclient_secret s3cret\n%s\n}\n"
	loadCaddyfile(t, "{\n\thttp_helper {\n"+fmt.Sprintf(connection, "without", "")+
		fmt.Sprintf(connection, "with", "client_certificate "+certFile+" "+keyFile)+"}\n}\n")
	t.Cleanup(func() { _ = caddy.Stop() })
	for name, endpoint := range map[string]*oauthtest.Endpoint{"without": plain, "with": mutual} {
		if err := activeApp().active[name].tokens.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		endpoint.Only(t)
	}
}

// TestCredentialsMakeTheIdentity: clients of one id that prove it with other credentials never share
// a token, and the same credentials are the same however they are written.
func TestCredentialsMakeTheIdentity(t *testing.T) {
	dir := t.TempDir()
	certFile, certKey := keystest.WriteCertificate(t, dir, "first")
	otherCert, otherKey := keystest.WriteCertificate(t, t.TempDir(), "second")
	renewedCert, renewedKey := filepath.Join(dir, "renewed.crt"), filepath.Join(dir, "renewed.key")
	keystest.WriteFile(t, renewedCert, keystest.ReadFile(t, certFile))
	keystest.WriteFile(t, renewedKey, keystest.ReadFile(t, certKey))
	for _, name := range []string{"key1", "key2", "dpop1", "dpop2"} {
		keystest.WriteFile(t, filepath.Join(dir, name), string(keystest.PEM(t, "ec256"))) // even of equal content: it may change
	}
	for _, name := range []string{"key1.crt", "key1copy.crt"} {
		keystest.WriteFile(t, filepath.Join(dir, name), string(keystest.CertificateFor(t, "ec256")))
	}
	for _, name := range []string{"secret1", "secret2", "assertion1", "assertion2"} {
		keystest.WriteFile(t, filepath.Join(dir, name), oauthtest.Secret)
	}
	t.Setenv("IDENTITY_KEY", string(keystest.PEM(t, "ec256")))
	t.Setenv("IDENTITY_OTHER_KEY", string(keystest.PEM(t, "ec384")))

	var different []string
	with := func(method string, options ...string) {
		for _, option := range options {
			different = append(different, "auth_method "+method+"\n"+option)
		}
	}
	for _, method := range []string{"client_secret_basic", "client_secret_post", "client_secret_jwt"} {
		with(method, "client_secret "+oauthtest.Secret, "client_secret "+oauthtest.Secret+"x", "client_secret_file $DIR/secret1", "client_secret_file $DIR/secret2")
	}
	const key = "client_key_file $DIR/key1\n"
	with("client_secret_jwt", "client_secret "+oauthtest.Secret+"\nsigning_alg HS512", "client_secret "+oauthtest.Secret+"\nkey_id a")
	with("private_key_jwt",
		key+"client_key_certificate $DIR/key1.crt", key+"client_key_certificate $DIR/key1copy.crt", key+"assertion_typ JWT", key+"client_assertion_type urn:a", "client_assertion_file $DIR/assertion1\nclient_assertion_type urn:a",
		key, "client_key_file $DIR/key2", "client_key {env.IDENTITY_KEY}", "client_key {env.IDENTITY_OTHER_KEY}",
		key+"key_id a", key+"key_id b", key+"signing_alg ES256", key+"assertion_audience a", key+"assertion_audience b", key+"assertion_lifetime 30s",
		"client_assertion_file $DIR/assertion1", "client_assertion_file $DIR/assertion2",
		key+"client_certificate "+certFile+" "+certKey, key+"client_certificate "+otherCert+" "+otherKey,
		key+"dpop", key+"dpop $DIR/dpop1", key+"dpop $DIR/dpop2")
	with("tls_client_auth", "client_certificate "+certFile+" "+certKey, "client_certificate "+renewedCert+" "+certKey, "client_certificate "+certFile+" "+renewedKey, "client_certificate "+otherCert+" "+otherKey)
	with("none", "", "dpop")
	equal := [][2]string{
		{key, "client_key {file.$DIR/key1}"},
		{"client_key {env.IDENTITY_KEY}", "client_key \"" + string(keystest.PEM(t, "ec256")) + "\""},
	}

	var all []string
	add := func(options string) string {
		name := fmt.Sprintf("c%d", len(all))
		all = append(all, "connection "+name+" {\nbase_url https://api.example\ntoken_url https://auth.example/token\nclient_id app\n"+
			strings.ReplaceAll(options, "$DIR", dir)+"\n}\n")
		return name
	}
	names := make(map[string]string)
	for _, options := range different {
		names[add(options)] = options
	}
	var pairs [][2]string
	for _, pair := range equal {
		pairs = append(pairs, [2]string{add("auth_method private_key_jwt\n" + pair[0]), add("auth_method private_key_jwt\n" + pair[1])})
	}
	loadCaddyfile(t, "{\n\thttp_helper {\n"+strings.Join(all, "")+"}\n}\n")
	t.Cleanup(func() { _ = caddy.Stop() })

	active := activeApp().active
	seen := make(map[token.Key]string)
	for name, options := range names {
		id := active[name].values.Key()
		if other, ok := seen[id]; ok {
			t.Errorf("these share tokens:\n%s\n\n%s", other, options)
		}
		seen[id] = options
	}
	for i, pair := range pairs {
		if active[pair[0]].values.Key() != active[pair[1]].values.Key() {
			t.Errorf("these do not share tokens: %q", equal[i])
		}
	}
}

// The watch of a client certificate.

// boundTo hands out tokens that are bound to the certificate as it is.
func boundTo(l *keys.Certificate) func(context.Context, int) (*oauth.Token, error) {
	return func(_ context.Context, call int) (*oauth.Token, error) {
		certificate, err := l.Load()
		if err != nil {
			return nil, err
		}
		t := tokentest.Token(call, time.Hour)
		t.Certificate = certificate
		return t, nil
	}
}

// watchedTokens are the tokens of a connection whose fetcher is f and whose certificate is watched.
func watchedTokens(t *testing.T, f *tokentest.Fetcher) *connectionTokens {
	t.Helper()
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	certificate := keys.NewCertificate(certFile, keyFile, nil)
	f.SetRespond(boundTo(certificate))
	c := &connectionTokens{
		source:  token.NewSource(),
		user:    token.User{Name: "billing", Fetcher: f, Logger: zap.NewNop()},
		values:  &resolve.Connection{Certificate: certificate},
		clients: tokenClients{certified: new(httptransport.ByCertificate)},
	}
	c.source.Attach(&c.user)
	c.start()
	t.Cleanup(func() { close(c.watching) })
	return c
}

// TestBoundTokenIsReplacedWithItsCertificate in the background: the request that finds it out goes
// on with the current token, and none is fetched without a request.
func TestBoundTokenIsReplacedWithItsCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		c := watchedTokens(t, f)
		first := tokentest.MustToken(t, c.source)
		time.Sleep(2 * certificatePause)
		tokentest.WantToken(t, c.source, "token-1")
		tokentest.WantCalls(t, f, 1)

		keystest.WriteCertificate(t, filepath.Dir(c.values.Certificate.CertFile), "second")
		time.Sleep(2 * certificatePause)
		tokentest.WantCalls(t, f, 1)
		if tokentest.MustToken(t, c.source).Value != first.Value {
			t.Error("the request had to wait for a newer token")
		}
		tokentest.WantCalls(t, f, 2)
		if second := tokentest.MustToken(t, c.source); second.Certificate.Leaf.Subject.CommonName != "second" {
			t.Errorf("bound to %v", second.Certificate.Leaf.Subject)
		}
		time.Sleep(2 * certificatePause)
		tokentest.WantToken(t, c.source, "token-2")
		tokentest.WantCalls(t, f, 2)
	})
}

// TestBoundTokenStays while its certificate does, whoever has loaded it, and while that cannot be
// read.
func TestBoundTokenStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		c := watchedTokens(t, f)
		f.SetRespond(boundTo(keys.NewCertificate(c.values.Certificate.CertFile, c.values.Certificate.KeyFile, nil))) // of a config before
		tokentest.MustToken(t, c.source)
		time.Sleep(2 * certificatePause)
		tokentest.WantToken(t, c.source, "token-1")
		keystest.WriteFile(t, c.values.Certificate.KeyFile, "")
		time.Sleep(2 * keys.ReplacementTime)
		tokentest.WantToken(t, c.source, "token-1")
		tokentest.WantCalls(t, f, 1)
	})
}

// TestUnboundTokenStays when the certificate changes: only tokens that are bound to it depend on it.
func TestUnboundTokenStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		c := watchedTokens(t, f)
		f.SetRespond(nil)
		tokentest.MustToken(t, c.source)
		keystest.WriteCertificate(t, filepath.Dir(c.values.Certificate.CertFile), "second")
		time.Sleep(2 * certificatePause)
		tokentest.WantToken(t, c.source, "token-1")
		tokentest.WantCalls(t, f, 1)
	})
}

// TestWatchEndsWithTheConnection, and is for those that have a certificate.
func TestWatchEndsWithTheConnection(t *testing.T) {
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	const connection = "connection %s {\nbase_url https://api.example\ntoken_url https://auth.example/token\nclient_id app\nclient_secret s3cret\n%s\n}\n"
	loadCaddyfile(t, "{\n\thttp_helper {\n"+fmt.Sprintf(connection, "with", "client_certificate "+certFile+" "+keyFile)+
		fmt.Sprintf(connection, "without", "")+"}\n}\n")
	t.Cleanup(func() { _ = caddy.Stop() })
	active := activeApp().active
	if active["without"].tokens.watching != nil {
		t.Error("a certificate that is not there is watched")
	}
	watching := active["with"].tokens.watching
	if watching == nil {
		t.Fatal("the certificate is not watched")
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	<-watching // else the test never ends
}

// Helper flows, whose results are part of a token request.

// shards is a service that flows ask: it counts, and tells the number of the request.
type shards struct {
	url   string
	asked atomic.Int64
	down  atomic.Bool
}

func newShards(t *testing.T) *shards {
	t.Helper()
	s := new(shards)
	s.url = flowstest.NewServer(t, func(w http.ResponseWriter, _ *http.Request) {
		n := s.asked.Add(1)
		if s.down.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintf(w, `"s%d"`, n)
	})
	return s
}

func (s *shards) wantAsked(t *testing.T, want int64) {
	t.Helper()
	if got := s.asked.Load(); got != want {
		t.Fatalf("the flow was asked %d times, want %d", got, want)
	}
}

// withShards is a connector with two values of one flow: one in the token request, one in a header.
func withShards(s *shards) string {
	return `config_value first text {
				flow shard
			}
			config_value second text {
				flow shard
			}
			flow shard request ` + s.url + `
			token_request_param shard {config.first}
			api_header X-Shard {config.second}`
}

// A flow's result serves all of its values, and five minutes of token requests.
func TestFlowResultIsRemembered(t *testing.T) {
	e, a, s := newIdP(t), newAPI(t, nil), newShards(t)
	site := runSidecar(t, crm(a, e, withShards(s), ""))
	get := func() string {
		t.Helper()
		if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != http.StatusOK {
			t.Fatal(res.Status)
		}
		return a.last(t).Header.Get("X-Shard")
	}
	if got := get(); got != "s1" {
		t.Errorf("the API got %q", got)
	}
	laterForFlows(t, flows.ResultLifetime-2*time.Second)
	if status, body := refreshed(t); status != http.StatusOK {
		t.Fatal(body)
	}
	s.wantAsked(t, 1)
	laterForFlows(t, flows.ResultLifetime)
	if status, body := refreshed(t); status != http.StatusOK {
		t.Fatal(body)
	}
	s.wantAsked(t, 2)
}

// While a token lives, a flow that fails is a failed refresh: requests are sent with what they carried
// before.
func TestFlowFailsWhileTokenLives(t *testing.T) {
	e, a, s := newIdP(t), newAPI(t, nil), newShards(t)
	var shard atomic.Value
	e.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shard.Store(r.PostFormValue("shard"))
		grantToken(w, fmt.Sprintf("t%d", e.requests.Add(1)), 3600)
	})
	site := runSidecar(t, crm(a, e, withShards(s), ""))
	want := func(token, header string) {
		t.Helper()
		res, _ := call(t, "GET", site+"/", nil)
		got := a.last(t)
		if res.StatusCode != http.StatusOK || got.Header.Get("Authorization") != "Bearer "+token || got.Header.Get("X-Shard") != header {
			t.Fatalf("%s, %v", res.Status, got.Header)
		}
	}
	want("t1", "s1")

	s.down.Store(true)
	laterForFlows(t, flows.ResultLifetime)
	status, body := refreshed(t)
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "flow shard: its server responded with status 500") {
		t.Fatal(status, body)
	}
	if v := shownConnection(t, "billing"); v["state"] != "failing" {
		t.Errorf("%v", v)
	}
	want("t1", "s1")

	s.down.Store(false)
	if status, body := refreshed(t); status != http.StatusOK {
		t.Fatal(body)
	}
	fresh := fmt.Sprintf("s%d", s.asked.Load())
	if got := shard.Load(); got != fresh {
		t.Errorf("the token request has shard %v, want %s", got, fresh)
	}
	deadline := time.Now().Add(10 * time.Second) // what requests carry is worked out again in the background
	for a.last(t).Header.Get("X-Shard") != fresh && time.Now().Before(deadline) {
		_, _ = call(t, "GET", site+"/", io.NopCloser(http.NoBody))
	}
	want("t2", fresh)
}

// A flow that fails is asked once for all of its values in each try, and named once.
func TestFailingFlowIsNamedOnce(t *testing.T) {
	e, a, s := newIdP(t), newAPI(t, nil), newShards(t)
	s.down.Store(true)
	runSidecar(t, crm(a, e, withShards(s)+"\ntoken_request_param again {config.second}", ""))
	status, body := refreshed(t)
	if status != http.StatusServiceUnavailable || body != "connection billing: flow shard: its server responded with status 500" {
		t.Error(status, body)
	}
	s.wantAsked(t, 3) // an attempt has three tries
}

// What only requests to the API carry is worked out before the token request too, so that everybody
// sees that the connection does not work, and why.
func TestFlowForTheAPIFailsLikeATokenRequest(t *testing.T) {
	for name, use := range map[string]string{
		"header": "api_header X-Shard {config.shard}",
		"query":  "api_query shard {config.shard}",
		"URL":    "base_url BASE/{config.shard}",
	} {
		t.Run(name, func(t *testing.T) {
			e, a, s := newIdP(t), newAPI(t, nil), newShards(t)
			s.down.Store(true)
			config := crm(a, e, "config_value shard text {\n flow shard\n}\nflow shard request "+s.url+"\nping /me\n"+use, "")
			if base, ok := strings.CutPrefix(use, "base_url BASE"); ok {
				config = strings.Replace(strings.Replace(config, use, "", 1), "/{param.instance}/api", base, 1)
			}
			site := runSidecar(t, config)
			res, _ := call(t, "GET", site+"/", nil)
			const reason = "flow shard: its server responded with status 500"
			if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(res.Header.Get("Proxy-Status"), reason) {
				t.Fatal(res.Status, res.Header)
			}
			v := shownConnection(t, "billing")
			if v["state"] != "down" || v["last_error"].(map[string]any)["message"] != reason || v["token"] != nil {
				t.Error(v)
			}
			if n := e.requests.Load(); n != 0 {
				t.Errorf("%d token requests without what the API is to get", n)
			}
			s.down.Store(false)
			if status, body := refreshed(t); status != http.StatusOK {
				t.Fatal(body)
			}
			if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != http.StatusOK {
				t.Error(res.Status, res.Header)
			}
			s.wantAsked(t, 4) // an attempt has three tries
		})
	}
}

// Connections share tokens only if the same flows decide about both: what fails one must not fail the
// other.
func TestFlowForTheAPIIsOfOneConnection(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	service := flowstest.NewServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, `"s1"`)
	})
	connector := "parameter tenant text\nconfig_value shard text {\n flow shard\n}\nflow shard request " + service + "/{param.tenant}\napi_header X-Shard {config.shard}"
	config := crm(a, e, connector, "parameter tenant good")
	first, rest, _ := strings.Cut(config, "		connection billing")
	connection, _, _ := strings.Cut(rest, "\n}\n")
	other := strings.Replace("		connection other"+connection, "tenant good", "tenant bad", 1)
	config = first + strings.TrimSuffix(other, "\t}") + "		connection billing" + rest
	runSidecar(t, config)
	if status, _, body := admin(t, "POST", "/http_helper/connections/other/refresh"); status != http.StatusBadGateway || !strings.Contains(body, "flow shard") {
		t.Error(status, body)
	}
	if status, body := refreshed(t); status != http.StatusOK {
		t.Error(status, body)
	}
	if v := shownConnection(t, "other"); v["state"] != "down" {
		t.Error(v)
	}
}

// A result that cannot be used is not remembered, and the flow that it comes from is named.
func TestUnusableFlowResult(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	var result atomic.Value
	result.Store(`".."`)
	service := flowstest.NewServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, result.Load().(string)) })
	config := crm(a, e, "config_value shard text {\n flow shard\n}\nflow shard request "+service, "")
	runSidecar(t, strings.Replace(config, "/token?key=", "/{config.shard}/token?key=", 1))
	status, body := refreshed(t)
	if status != http.StatusBadGateway || !strings.Contains(body, "token_url: {config.shard}: ") || !strings.HasSuffix(body, "; see flow shard") {
		t.Error(status, body)
	}
	result.Store(`"s1"`)
	if status, body := refreshed(t); status != http.StatusOK {
		t.Error(status, body)
	}
}

// A flow that hangs is named, also when token_timeout ends before its own.
func TestFlowThatHangsIsNamed(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	address, _ := flowstest.NewHangingServer(t)
	site := runSidecar(t, crm(a, e, "config_value shard text {\n flow shard\n}\nflow shard request "+address+"\ntoken_request_param shard {config.shard}", "token_timeout 200ms"))
	res, _ := call(t, "GET", site+"/", nil)
	const reason = "flow shard: no response within token_timeout"
	if res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(res.Header.Get("Proxy-Status"), reason) {
		t.Error(res.Status, res.Header)
	}
	if v := shownConnection(t, "billing"); v["last_error"].(map[string]any)["message"] != reason {
		t.Error(v)
	}
}

// Where tokens cannot be revoked, nothing is worked out for that, and nothing can fail.
func TestNoFlowRunsForNoRevocation(t *testing.T) {
	e, a, s := newIdP(t), newAPI(t, nil), newShards(t)
	runSidecar(t, crm(a, e, withShards(s), ""))
	activeApp().active["billing"].tokens.revoke(&oauth.Token{Value: "t1"})
	s.wantAsked(t, 0)
}

// Forced refreshes revoke the old token, unless other replicas may use it.

// sharedMemory is where replicas share one record.
type sharedMemory struct {
	mu     sync.Mutex
	record []byte
}

// memorySlot is how one replica sees it. Its load function runs before the record is loaded.
type memorySlot struct {
	*sharedMemory
	load func() error
}

func (s *memorySlot) Slot([]byte) token.Slot { return s }

func (s *memorySlot) Load(context.Context) ([]byte, error) {
	if err := s.load(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.record, nil
}

func (s *memorySlot) Store(_ context.Context, record []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record = record
	return nil
}

func (s *memorySlot) Lock(context.Context) (func(), error) { return func() {}, nil }

// sharingReplica returns the tokens of a connection of one replica, and counts the tokens that it revokes.
func sharingReplica(t *testing.T, f *tokentest.Fetcher, s *memorySlot) (c *connectionTokens, revoked *atomic.Int64) {
	t.Helper()
	method, err := oauth.Method("none")
	if err != nil {
		t.Fatal(err)
	}
	id, _ := placeholder.Parse("id")
	revocation, _ := placeholder.Parse("https://auth.example.com/revoke")
	revoked, values := new(atomic.Int64), new(resolve.Connection)
	spec := &resolve.Spec{ServiceSpec: &resolve.ServiceSpec{AuthMethod: "none", Method: method, RevocationURL: &revocation}, ClientID: &id}
	if err := values.Init("billing", spec, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	values.Client = func(*tls.Certificate) *http.Client { return &http.Client{Transport: countingTransport{revoked}} }
	f.Identity = []byte("equal")
	c = &connectionTokens{source: token.NewSource(), values: values, timeout: token.DefaultTimeout}
	c.user = token.User{Name: "billing", Fetcher: f, Shared: s, Logger: zap.NewNop()}
	c.source.Attach(&c.user)
	c.start()
	return c, revoked
}

// countingTransport responds to every request with 200.
type countingTransport struct{ requests *atomic.Int64 }

func (c countingTransport) RoundTrip(*http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
}

// refreshAhead lets the replica begin to replace its token, which takes two seconds, and forces a refresh
// meanwhile.
func refreshAhead(t *testing.T, c *connectionTokens, s *memorySlot) {
	t.Helper()
	s.load = func() error { time.Sleep(2 * time.Second); return nil }
	tokentest.MustToken(t, c.source)
	synctest.Wait()
	if err := c.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestRefreshRevokesNoSharedToken(t *testing.T) {
	works := func() error { return nil }
	fails := func() error { return errors.New("broken") }
	always := func(context.Context, int) (*oauth.Token, error) {
		return &oauth.Token{Value: "always", Lifetime: time.Hour, HasExpiresIn: true}, nil
	}
	for name, test := range map[string]struct {
		grant func(context.Context, int) (*oauth.Token, error)
		load  func() error // while the first token is fetched
		run   func(t *testing.T, c, other *connectionTokens, f *tokentest.Fetcher, s *memorySlot)
		want  int64
	}{
		"shared": {nil, works, func(t *testing.T, c, _ *connectionTokens, _ *tokentest.Fetcher, _ *memorySlot) {
			if err := c.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, 0},
		"not shared": {nil, fails, func(t *testing.T, c, _ *connectionTokens, _ *tokentest.Fetcher, _ *memorySlot) {
			if err := c.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, 1},
		// The source does not know any more that the token was shared: it has adopted another one since.
		"forgotten during the refresh": {nil, works, func(t *testing.T, c, other *connectionTokens, _ *tokentest.Fetcher, s *memorySlot) {
			time.Sleep(30 * time.Minute)
			if err := other.source.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(28 * time.Minute)
			refreshAhead(t, c, s)
			tokentest.WantToken(t, c.source, "token-3")
		}, 0},
		// Another replica has been granted the same token.
		"shared during the refresh": {always, fails, func(t *testing.T, c, other *connectionTokens, f *tokentest.Fetcher, s *memorySlot) {
			time.Sleep(30 * time.Minute)
			tokentest.MustToken(t, other.source)
			time.Sleep(28 * time.Minute)
			f.SetRespond(nil)
			refreshAhead(t, c, s)
			tokentest.WantToken(t, c.source, "token-3")
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, memory := &tokentest.Fetcher{Respond: test.grant}, new(sharedMemory)
				s := &memorySlot{memory, test.load}
				c, revoked := sharingReplica(t, f, s)
				other, _ := sharingReplica(t, f, &memorySlot{memory, works})
				tokentest.MustToken(t, c.source)
				synctest.Wait()
				test.run(t, c, other, f, s)
				time.Sleep(time.Minute) // what is stored in the background is stored
				if got := revoked.Load(); got != test.want {
					t.Errorf("%d tokens revoked, want %d", got, test.want)
				}
			})
		})
	}
}
