package integration

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// trouble is something that does not work, and what each place where one can look says about it.
type trouble struct {
	connection string
	cause      func(t *testing.T, w *world) // before the sidecar runs

	status     int    // that the app gets
	details    string // in Proxy-Status; empty: the response is the API's own
	documented string // what docs/troubleshooting.md has about it

	list, show, ping []string
	listStatus       int
	pingStatus       int
	refresh          string // what is said when it fails; empty: it works
	ready            int
	health           string
	metrics          []string
	log              []string
}

const (
	invalidClient = "the token endpoint refused the request (status 401): check client_id, its secret or key, and auth_method (invalid_client)"
	invalidScope  = "the token endpoint refused the request (status 400): the client may not have a scope that is requested: check the scopes (invalid_scope)"
	refusedDial   = "the token endpoint cannot be reached: connection refused"
)

// troubles are what an operator is called for at night.
var troubles = map[string]trouble{
	"a wrong secret": {
		connection: "client_secret {env.WRONG}",
		cause:      func(*testing.T, *world) {},
		status:     http.StatusBadGateway, details: "connection billing: " + invalidClient, documented: "`invalid_client`",
		list:       []string{"billing  service    down   none", "billing cannot get a token: " + invalidClient, "Fix what is named here. The next request sees a changed file, after a second at most. To try now, run: caddy http-helper refresh billing"},
		listStatus: 1, show: []string{"State             down: it has no token, and cannot get one", "Token requests    1, of which 1 failed"},
		ping: []string{"billing does not work: there is no token: " + invalidClient + "."}, pingStatus: 1,
		refresh: "Error: connection billing: " + invalidClient,
		ready:   http.StatusServiceUnavailable, health: `"class":"configuration","code":"invalid_client","message":"the token endpoint refused the request (status 401)`,
		metrics: []string{`token_requests_total{connection="billing",result="configuration"}`, `requests_total{connection="billing",outcome="no_token"}`},
		log:     []string{"getting a token failed; requests are refused until there is one", `"class":"configuration","reason":"` + invalidClient + `"`, `"token_url":"$TOKENS"`},
	},
	"a scope that the client may not have": {
		connection: "scopes a b",
		cause:      func(*testing.T, *world) {},
		status:     http.StatusBadGateway, details: "connection billing: " + invalidScope, documented: "`invalid_scope`",
		list:       []string{"billing cannot get a token: " + invalidScope},
		listStatus: 1, show: []string{"Scopes requested  a b"},
		ping: []string{"billing does not work: there is no token: " + invalidScope + "."}, pingStatus: 1,
		refresh: "Error: connection billing: " + invalidScope,
		ready:   http.StatusServiceUnavailable, health: `"code":"invalid_scope"`,
		metrics: []string{`token_requests_total{connection="billing",result="configuration"}`},
		log:     []string{`"reason":"` + invalidScope + `"`},
	},
	"a scope that is not granted": {
		connection: "scopes a b",
		cause: func(_ *testing.T, w *world) {
			w.tokens.RespondWith(harness.Reply(http.StatusOK, `{"access_token":"t","expires_in":3600,"scope":"a"}`))
			w.api.RespondWith(harness.Reply(http.StatusForbidden, `{"error":"no"}`, "WWW-Authenticate", `Bearer error="insufficient_scope", scope="b c"`))
		},
		status: http.StatusForbidden, documented: "403 without `Proxy-Status`",
		list:       []string{"billing  service    ready  expires in 59 minutes", "billing did not get scopes that were requested: b\n  Grant them to the client at the authorization server, or stop requesting them."},
		show:       []string{"Scopes requested     a b", "Scopes granted       a\n", "billing did not get scopes that were requested: b"},
		ping:       []string{"billing does not work: the API refuses the request (403 Forbidden): it wants the scope b c; the connection does not request c; the token endpoint did not grant b.\nThe API's response:\n{\"error\":\"no\"}\n"},
		pingStatus: 1, ready: http.StatusOK, health: `"state":"ready"`,
		metrics: []string{`requests_total{connection="billing",outcome="sent"}`, `token_requests_total{connection="billing",result="ok"}`},
		log:     []string{`"msg":"the token lacks scopes that were requested","connection":"billing","missing":["b"]`},
	},
	"a token endpoint that is down": {
		cause:  func(t *testing.T, w *world) { w.tokens.URL = "http://127.0.0.1:" + harness.Port(t) + "/token" },
		status: http.StatusServiceUnavailable, details: "connection billing: " + refusedDial, documented: "`cannot be reached: ",
		list:       []string{"billing cannot get a token: " + refusedDial, "Token endpoint: $TOKENS\n", "It ends by itself once that server responds as it should. If it never has, fix what is named here. To try now, run: caddy http-helper refresh billing"},
		listStatus: 1, show: []string{"State             down", "Token endpoint    $TOKENS\n"},
		ping: []string{"billing does not work: there is no token: " + refusedDial + "."}, pingStatus: 1,
		refresh: "Error: connection billing: " + refusedDial,
		ready:   http.StatusServiceUnavailable, health: `"class":"outage","code":null,"message":"` + refusedDial + `"`,
		metrics: []string{`token_requests_total{connection="billing",result="outage"}`, `requests_total{connection="billing",outcome="no_token"}`},
		log:     []string{`"class":"outage","reason":"` + refusedDial + `"`, `"token_url":"$TOKENS"`},
	},
	"a token endpoint that hangs": {
		connection: "token_timeout 500ms",
		cause: func(t *testing.T, w *world) {
			w.tokens.RespondWith(harness.Blocked(t.Context().Done(), harness.Status(http.StatusOK)))
		},
		status: http.StatusGatewayTimeout, details: "connection billing: no token within token_timeout", documented: "`no token within token_timeout`",
		list: []string{"billing cannot get a token: no token within token_timeout"}, listStatus: 1,
		ping: []string{"billing does not work: there is no token: no token within token_timeout."}, pingStatus: 1,
		refresh: "Error: connection billing: no token within token_timeout",
		ready:   http.StatusServiceUnavailable, health: `"message":"no token within token_timeout"`,
		metrics: []string{`token_requests_total{connection="billing",result="outage"}`},
		log:     []string{`"reason":"no token within token_timeout"`},
	},
	"an API that is down": {
		cause:  func(t *testing.T, w *world) { w.api.URL = "http://127.0.0.1:" + harness.Port(t) },
		status: http.StatusBadGateway, details: "connection billing: the API cannot be reached: connection refused", documented: "`destination_unavailable`",
		list: []string{"billing  service    ready  expires in 59 minutes"}, show: []string{"State                ready: it has a token", "API                  $API\n"},
		ping: []string{"billing does not work: the API cannot be reached: connection refused.\n"}, pingStatus: 1,
		ready: http.StatusOK, health: `"healthy":true`,
		metrics: []string{`requests_total{connection="billing",outcome="sent"}`},
		log:     []string{`"logger":"http.log.error","msg":"connection billing: the API cannot be reached: connection refused (dial tcp `},
	},
	"an API that rejects every token": {
		cause:  func(_ *testing.T, w *world) { w.api.Accept(func(string) bool { return false }) },
		status: http.StatusUnauthorized, documented: "401 without `Proxy-Status`",
		list: []string{"billing  service    ready"}, show: []string{"Tokens rejected      1, by the API"},
		ping: []string{"billing does not work: the API rejects the token (401 Unauthorized): check token_url, scopes and audience, and that base_url belongs to them."}, pingStatus: 1,
		ready: http.StatusOK, health: `"healthy":true`,
		metrics: []string{`unauthorized_total{connection="billing",outcome="passed"}`, `unauthorized_total{connection="billing",outcome="replayed"}`},
		log:     []string{`"msg":"the API rejected the token, which is replaced","connection":"billing","rejected":1`},
	},
}

// TestTroubles has each of them named in the same words in every place.
func TestTroubles(t *testing.T) {
	t.Parallel()
	for name, c := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := harness.StartOIDCProvider(t, nil, harness.OIDCConfig{
				Scopes: []string{"a", "b"}, Clients: []map[string]any{{"client_id": "app", "client_secret": secret, "scope": "a"}},
			})
			w := &world{Sidecar: harness.New(t), tokens: server.TokenEndpoint, api: harness.NewAPI(t, nil, nil)}
			o := &operator{world: w, User: harness.NewUser(t), admin: "unix/" + w.AdminSocket()}
			c.cause(t, w)
			probes := harness.Port(t)
			settings := options{
				service: "scope a\nscope b\ncustomize_scopes\nping GET /me 200", connection: c.connection, env: []string{"WRONG=wrong"},
				more: ":" + probes + " {\nbind 127.0.0.1\nhttp_helper_health\n}",
			}
			if c.connection == "" || !strings.Contains(c.connection, "scopes") {
				settings.connection += "\nscopes a"
			}
			if strings.Contains(c.connection, "client_secret ") {
				settings.secretLine = "# the secret is below"
			}
			w.Run(t, w.named(settings))
			o.wantTrouble(t, c, probes)
		})
	}
}

func (o *operator) wantTrouble(t *testing.T, c trouble, probes string) {
	t.Helper()
	here := strings.NewReplacer("$TOKENS", o.tokens.URL, "$API", o.api.URL)
	says := func(who, text string, wanted ...string) {
		t.Helper()
		for _, phrase := range wanted {
			if phrase = here.Replace(phrase); !strings.Contains(text, phrase) {
				t.Errorf("%s does not say %q:\n%s", who, phrase, text)
			}
		}
	}
	response := o.Get(t, "/hello")
	wantStatus(t, response, c.status)
	if c.details == "" {
		equal(t, "Proxy-Status", response.Header.Get("Proxy-Status"), "")
	} else {
		says("the response", response.Header.Get("Proxy-Status"), `details="`+c.details+`"`)
	}
	says("docs/troubleshooting.md", readShipped(t, "docs/troubleshooting.md"), c.documented)

	list := o.command(t, "list")
	equal(t, "exit status of list", list.Status, c.listStatus)
	says("list", list.Stdout, c.list...)
	says("show", o.command(t, "show", "billing").Stdout, c.show...)
	ping := o.command(t, "ping", "billing")
	equal(t, "exit status of ping", ping.Status, c.pingStatus)
	says("ping", ping.Stdout, c.ping...)
	refresh := o.command(t, "refresh", "billing")
	equal(t, "refresh works", refresh.Status == 0, c.refresh == "")
	says("refresh", refresh.Stderr, c.refresh)

	status, health := o.probe(t, "http://127.0.0.1:"+probes)
	equal(t, "status of http_helper_health", status, c.ready)
	says("http_helper_health", health, c.health)
	_, metrics, err := o.Admin(http.MethodGet, "/metrics", "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, series := range c.metrics {
		if strings.Contains(metrics, "caddy_http_helper_"+series+" 0\n") {
			t.Errorf("%s is zero", series)
		}
		says("/metrics", metrics, "caddy_http_helper_"+series)
	}
	for _, phrase := range c.log {
		o.WaitLog(t, here.Replace(phrase))
	}
}
