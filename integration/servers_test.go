package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// Ids and secrets with every character that form encoding, Basic, JSON or a shell treats apart.
const (
	reservedID     = "id a:b/c?d&e=f+g%20h;i@j#k~l*m(n)o'p\"q"
	reservedSecret = "pa ss:w/o?r&d=+%41;@#~*()'\"\\!"
	foreignSecret  = reservedSecret + "ä€" // beyond what RFC 6749 allows
)

// throughTo runs a sidecar that gets its tokens from a real server.
func throughTo(t *testing.T, tokens *harness.TokenEndpoint, o options) *world {
	t.Helper()
	w := &world{Sidecar: harness.New(t), tokens: tokens}
	w.api = harness.NewAPI(t, nil, nil)
	w.Run(t, w.inline(o))
	return w
}

// withCredentials puts id and secret where no Caddyfile syntax touches them.
func withCredentials(o options, id, secret string) options {
	o.connection = "client_id {env.ID}\n" + o.connection
	o.env = append([]string{"ID=" + id, "SECRET=" + secret}, o.env...)
	return o
}

// wantGranted makes a request and returns the token that the API saw.
func (w *world) wantGranted(t *testing.T) (token string) {
	t.Helper()
	w.wantOK(t)
	token = harness.Bearer(w.api.Last(t).Header)
	if token == "" {
		t.Fatal("the API saw no token")
	}
	return token
}

// wantRefused makes a request for which the server must refuse the client.
func (w *world) wantRefused(t *testing.T) {
	t.Helper()
	response := w.Get(t, "/")
	wantSidecarError(t, response, http.StatusBadGateway, "proxy_configuration_error")
	if got := response.Header.Get("Proxy-Status"); !strings.Contains(got, "invalid_client") {
		t.Errorf("Proxy-Status %q, want invalid_client", got)
	}
	equal(t, "token requests", w.tokens.Count(), 1)
	equal(t, "API requests", w.api.Count(), 0)
}

const (
	basic = "auth_method client_secret_basic\n"
	post  = "auth_method client_secret_post\n"
)

func TestOIDCProviderByBasicAndPost(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	for name, authority := range map[string]*harness.CA{"http": nil, "https": ca} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := func(id, secret, method string) map[string]any {
				return map[string]any{"client_id": id, "client_secret": secret, "token_endpoint_auth_method": method, "scope": "a b"}
			}
			start := func(t *testing.T) *harness.OIDCProvider {
				return harness.StartOIDCProvider(t, authority, harness.OIDCConfig{Scopes: []string{"a", "b"}, Clients: []map[string]any{
					client("by-basic", "basic secret", "client_secret_basic"), client(reservedID, reservedSecret, "client_secret_basic"),
					client("by-post", "post secret", "client_secret_post"), client(reservedID+" post", reservedSecret, "client_secret_post"),
				}})
			}
			for _, c := range []struct {
				name, service, id, secret string
				refused                   bool
			}{
				{"basic", basic, "by-basic", "basic secret", false},
				{"basic with reserved characters", basic, reservedID, reservedSecret, false},
				{"post", post, "by-post", "post secret", false},
				{"post with reserved characters", post, reservedID + " post", reservedSecret, false},
				{"wrong secret by basic", basic, "by-basic", "wrong", true},
				{"wrong secret by post", post, "by-post", "wrong", true},
			} {
				t.Run(c.name, func(t *testing.T) {
					server := start(t)
					w := throughTo(t, server.TokenEndpoint, withCredentials(options{
						service: c.service + "token_transport {\ntls_trust_pool file " + ca.File + "\n}", connection: "scopes b",
					}, c.id, c.secret))
					if c.refused {
						w.wantRefused(t)
						return
					}
					response := server.Introspect(t, "by-post", "post secret", w.wantGranted(t))
					equal[any](t, "active", response["active"], true)
					equal[any](t, "client", response["client_id"], c.id)
					equal[any](t, "scope", response["scope"], "b")
				})
			}
		})
	}
}

func TestHydraByBasicAndPost(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	for _, c := range []struct {
		name, service, registered, id, secret, sent string
		refused                                     bool
	}{
		{"basic", basic, "client_secret_basic", "by-basic", "basic secret", "basic secret", false},
		{"basic with reserved characters", basic, "client_secret_basic", reservedID, foreignSecret, foreignSecret, false},
		{"post", post, "client_secret_post", "by-post", "post secret", "post secret", false},
		{"post with reserved characters", post, "client_secret_post", reservedID, foreignSecret, foreignSecret, false},
		{"basic for a client of post", basic, "client_secret_post", "by-post", "post secret", "post secret", true},
		{"post for a client of basic", post, "client_secret_basic", "by-basic", "basic secret", "basic secret", true},
		{"wrong secret", basic, "client_secret_basic", "by-basic", "basic secret", "wrong", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := harness.StartHydra(t, ca)
			server.Register(t, harness.HydraClient{ID: c.id, Secret: c.secret, AuthMethod: c.registered, Scope: "a b", Audience: []string{"https://api.example.com"}})
			w := throughTo(t, server.TokenEndpoint, withCredentials(options{
				service:    c.service + "token_request_param audience https://api.example.com",
				connection: "scopes a", env: []string{"SSL_CERT_FILE=" + ca.File},
			}, c.id, c.sent))
			if c.refused {
				w.wantRefused(t)
				return
			}
			response := server.Introspect(t, w.wantGranted(t))
			equal[any](t, "active", response["active"], true)
			equal[any](t, "client", response["client_id"], c.id)
			equal[any](t, "scope", response["scope"], "a")
		})
	}
}

// TestBasicEncodingRawAgainstGoOAuth2 has a server that takes id and secret inside the Basic header
// as they are, and so understands them only when they are sent raw.
func TestBasicEncodingRawAgainstGoOAuth2(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		service, id string
		refused     bool
	}{
		"raw":  {"basic_encoding raw", "id with space/and+more", false},
		"form": {"basic_encoding form", "plain", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := throughTo(t, harness.StartGoOAuth2(t, c.id, foreignSecret), withCredentials(options{service: c.service}, c.id, foreignSecret))
			if c.refused {
				w.wantRefused(t)
				return
			}
			w.wantGranted(t)
		})
	}
}

func TestDiscoveryFindsTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	server := harness.StartOIDCProvider(t, nil, harness.OIDCConfig{Clients: []map[string]any{{"client_id": "app", "client_secret": secret}}})
	w := &world{Sidecar: harness.New(t), tokens: server.TokenEndpoint}
	w.api = harness.NewAPI(t, nil, nil)
	w.Run(t, w.expand(options{}, harness.Config{
		Site: "http_helper $API {\nissuer " + server.Issuer + "\nclient_id app\nclient_secret {env.SECRET}\n}",
	}))
	token := w.wantGranted(t)
	equal[any](t, "active", server.Introspect(t, "app", secret, token)["active"], true)
}

func TestARemovedConnectionRevokesItsToken(t *testing.T) {
	t.Parallel()
	server := harness.StartOIDCProvider(t, nil, harness.OIDCConfig{Clients: []map[string]any{{"client_id": "app", "client_secret": secret}}})
	w := throughTo(t, server.TokenEndpoint, options{service: "revocation_url " + server.Base + "/token/revocation"})
	token := w.wantGranted(t)
	active := func() any { return server.Introspect(t, "app", secret, token)["active"] }
	if err := w.Reload(w.inline(generation(options{service: "revocation_url " + server.Base + "/token/revocation"}, 1))); err != nil {
		t.Fatal(err)
	}
	w.wantGranted(t)
	equal(t, "active after a reload that keeps the connection", active(), any(true))
	if err := w.Reload(harness.Config{Site: "respond gone 410"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token revoked", func() bool { return active() == false })
}
