package httphelper

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/flows/flowstest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// Connections, connectors and errors as the admin API shows them.

func TestConnectionShown(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	e.respond(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"crm-token","expires_in":3600,"scope":"contacts.read"}`))
	})
	site := runSidecar(t, crm(a, e, "", ""))

	want := map[string]any{
		"name": "billing", "connector": "acme_crm", "state": "idle", "auth_method": "client_secret_basic",
		"token_url": e.URL + "/token", "base_url": a.URL + "/emea/api",
		"scopes":     map[string]any{"requested": []any{"contacts.read", "contacts.write"}, "granted": []any{}, "missing": []any{}, "confirmed": nil},
		"token":      nil,
		"counts":     map[string]any{"token_requests": 0.0, "token_failures": 0.0, "rejected": 0.0, "adopted": 0.0},
		"last_error": nil, "next_attempt": nil,
		"shared": map[string]any{"state": "off", "last_error": nil},
	}
	if got := shownConnection(t, "billing"); !reflect.DeepEqual(got, want) {
		t.Errorf("before the first request:\n got %v\nwant %v", got, want)
	}

	before := time.Now().Truncate(time.Second)
	call(t, "GET", site+"/", nil)
	got := shownConnection(t, "billing")
	token := got["token"].(map[string]any)
	obtained, expires, refresh := timeIn(t, token, "obtained"), timeIn(t, token, "expires"), timeIn(t, token, "refresh")
	if obtained.Before(before) || expires.Sub(obtained) != time.Hour || !refresh.After(obtained) || !refresh.Before(expires) || token["source"] != "own" || len(token) != 4 {
		t.Errorf("token: %v", token)
	}
	want["state"], want["token"] = "ready", token
	want["scopes"] = map[string]any{"requested": []any{"contacts.read", "contacts.write"}, "granted": []any{"contacts.read"}, "missing": []any{"contacts.write"}, "confirmed": true}
	want["counts"] = map[string]any{"token_requests": 1.0, "token_failures": 0.0, "rejected": 0.0, "adopted": 0.0}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("with a token:\n got %v\nwant %v", got, want)
	}

	var list []map[string]any
	adminJSON(t, "GET", "/http_helper/connections", &list)
	if len(list) != 1 || !reflect.DeepEqual(list[0], want) {
		t.Errorf("the list is %v", list)
	}
}

func timeIn(t *testing.T, object map[string]any, field string) time.Time {
	t.Helper()
	text := object[field].(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || !strings.HasSuffix(text, "Z") {
		t.Fatalf("%s: %q is no UTC time: %v", field, text, err)
	}
	return at
}

func TestStatesShown(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "name c"))
	refuse := func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"literal-secret is wrong"}`))
	}
	e.respond(refuse)
	call(t, "GET", site+"/", nil)
	got := shownConnection(t, "c")
	lastError, _ := got["last_error"].(map[string]any)
	if got["state"] != "down" || got["token"] != nil || got["connector"] != nil || lastError["class"] != "configuration" || lastError["code"] != "invalid_client" || lastError["message"] == "" {
		t.Errorf("after a refusal: %v", got)
	}
	timeIn(t, lastError, "at")
	timeIn(t, got, "next_attempt")

	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, "good-token", 3600) })
	var refreshed map[string]any
	adminJSON(t, "POST", "/http_helper/connections/c/refresh", &refreshed)
	if refreshed["state"] != "ready" || refreshed["last_error"] != nil || refreshed["next_attempt"] != nil || !reflect.DeepEqual(refreshed, shownConnection(t, "c")) {
		t.Errorf("after a refresh: %v", refreshed)
	}
	if scopes := refreshed["scopes"].(map[string]any); !reflect.DeepEqual(scopes["granted"], []any{}) || scopes["confirmed"] != false {
		t.Errorf("granted without scopes: %v", scopes)
	}

	e.respond(refuse)
	status, _, body := admin(t, "POST", "/http_helper/connections/c/refresh")
	if status != http.StatusBadGateway || !strings.Contains(body, "invalid_client") || strings.Contains(body, "literal-secret") {
		t.Errorf("a refresh that fails: %d %s", status, body)
	}
	if got := shownConnection(t, "c"); got["state"] != "failing" || got["token"] == nil || got["last_error"] == nil {
		t.Errorf("after a refresh that failed: %v", got)
	}

	e.respond(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	status, header, _ := admin(t, "POST", "/http_helper/connections/c/refresh")
	if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" {
		t.Errorf("a refresh in an outage: %d %v", status, header)
	}
}

func TestAdminErrors(t *testing.T) {
	_ = caddy.Stop()
	var list []any
	if adminJSON(t, "GET", "/http_helper/connections", &list); len(list) != 0 || list == nil {
		t.Errorf("without a config: %v", list)
	}
	e, a := newIdP(t), newAPI(t, nil)
	runSidecar(t, inline(a, e, "name c"))
	for _, test := range []struct {
		method, path, allow string
		status              int
	}{
		{"GET", "/http_helper/connections/unknown", "", 404},
		{"POST", "/http_helper/connections/unknown/refresh", "", 404},
		{"POST", "/http_helper/connections/unknown/ping", "", 404},
		{"GET", "/http_helper/connectors/unknown", "", 404},
		{"POST", "/http_helper/connections", "GET", 405},
		{"DELETE", "/http_helper/connections/c", "GET", 405},
		{"GET", "/http_helper/connections/c/refresh", "POST", 405},
		{"HEAD", "/http_helper/connections/c/ping", "POST", 405},
		{"PUT", "/http_helper/connectors", "GET", 405},
		{"HEAD", "/http_helper/connections/c", "", 200},
	} {
		status, header, _ := admin(t, test.method, test.path)
		if status != test.status || header.Get("Allow") != test.allow {
			t.Errorf("%s %s: %d, Allow %q", test.method, test.path, status, header.Get("Allow"))
		}
	}
	if e.requests.Load() != 0 {
		t.Error("looking made a token request")
	}
}

// A config that is rejected, at whatever stage, leaves the admin API with the running one.
func TestAdminAfterRejectedReload(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "name c"))
	call(t, "GET", site+"/", nil)
	for name, rejected := range map[string]string{
		"when provisioning": inline(a, e, "name other\n\t\tallow_clients nonsense"),
		"when starting":     inline(a, e, "name other") + "http://192.0.2.1:1 {\n\tbind 192.0.2.1\n}\n",
	} {
		if err := tryCaddyfile(onPort(rejected, site)); err == nil {
			t.Fatalf("%s: the config was not rejected", name)
		}
		if got := shownConnection(t, "c"); got["state"] != "ready" {
			t.Errorf("%s: %v", name, got)
		}
		if status, _, _ := admin(t, "GET", "/http_helper/connections/other"); status != 404 {
			t.Errorf("%s: a rejected connection is shown: %d", name, status)
		}
	}
	loadCaddyfile(t, onPort(inline(a, e, "name other"), site))
	if got := shownConnection(t, "other"); got["state"] != "ready" {
		t.Errorf("a renamed connection has lost its token: %v", got)
	}
}

func TestURLsShownWithoutSecrets(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	file := filepath.Join(t.TempDir(), "region")
	if err := os.WriteFile(file, []byte("eu west\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ connector, connection, base, want string }{
		{"", "", "/{param.instance}/x", "/emea/x"},
		{"parameter tenant text\napi_header X-Tenant {param.tenant}", "parameter tenant a-long-name", "/{param.tenant}/x", "/a-long-name/x"},
		{"parameter region text", "parameter_file region " + file, "/{param.region}", "/eu%20west"},
		{"parameter pass password", "parameter pass my-password", "/{param.pass}/{param.instance}", "/{param.pass}/emea"},
		{"config_value v text {\n value a-{param.instance}\n}", "", "/{config.v}", "/a-emea"},
		{"config_value v text {\n value v\n hidden\n}", "", "/{config.v}", "/{config.v}"},
		{"config_value v password {\n value my-password\n}", "", "/{config.v}", "/{config.v}"},
		{"parameter pass password\nconfig_value v text {\n value x{param.pass}\n}", "parameter pass my-password", "/{config.v}", "/{config.v}"},
		{"config_value v text {\n flow f\n}\nflow f template `{{.param.instance | upper}}`", "", "/{config.v}", "/EMEA"},
		{"parameter pass password\nconfig_value v text {\n flow f\n}\nflow f template `{{.param.pass | b64enc}}`", "parameter pass my-password", "/{config.v}", "/{config.v}"},
		{"config_value v text {\n flow f\n}\nflow f request http://127.0.0.1:1/ {\n pointer /x\n}", "", "/{config.v}", "/{config.v}"},
		// Two parameters with the same value: the secret shows, so the whole URL stays as written.
		{"parameter pass password\nparameter again text", "parameter pass my-password\nparameter again my-password", "/{param.pass}/{param.again}", ""},
	} {
		caddyfile := strings.ReplaceAll(crm(a, e, test.connector, test.connection), "/{param.instance}/api", test.base)
		runSidecar(t, caddyfile)
		got := shownConnection(t, "billing")["base_url"].(string)
		if strings.Contains(got, "my-password") {
			t.Errorf("%s: %s", test.base, got)
		}
		if test.want != "" && got != a.URL+test.want {
			t.Errorf("%s: got %s, want %s", test.base, got, a.URL+test.want)
		}
	}
}

func TestConnectorForm(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	runSidecar(t, crm(a, e, `client_id_label "API user"
			additional_scopes
			scopes_delimiter comma
			scopes_help https://help.example/scopes
			parameter secret password {
				label "Your secret"
			}
			parameter region dropdown {
				option eu "Europe"
				option us
				default eu
			}
			config_value audience text {
				label "Audience"
				value https://{param.instance}.example
			}
			config_value key password {
				value password-value
			}
			config_value shard text {
				hidden
				value hidden-value
			}
			config_value computed text {
				flow f
			}
			flow f template {{.param.instance}}`, "parameter secret s\n"))
	var form map[string]any
	body := adminJSON(t, "GET", "/http_helper/connectors/acme_crm", &form)
	for _, secret := range []string{"password-value", "hidden-value", "shard", "query-secret"} {
		if strings.Contains(body, secret) {
			t.Errorf("the form shows %s: %s", secret, body)
		}
	}
	var want map[string]any
	if err := json.Unmarshal(fmt.Appendf(nil, `{
		"name": "acme_crm", "label": "Acme CRM", "auth_method": "client_secret_basic",
		"base_url": "%s/{param.instance}/api", "token_url": "%s/token",
		"fields": [
			{"key": "client_id", "type": "text", "label": "API user", "fixed": true},
			{"key": "client_secret", "type": "password", "label": "Client secret", "fixed": true},
			{"key": "instance", "type": "text", "label": "Your instance name", "fixed": false},
			{"key": "secret", "type": "password", "label": "Your secret", "fixed": false},
			{"key": "region", "type": "dropdown", "label": "region", "fixed": false,
				"options": [{"value": "eu", "label": "Europe"}, {"value": "us", "label": "us"}], "default": "eu"}
		],
		"config_values": [
			{"key": "audience", "type": "text", "label": "Audience", "value": "https://{param.instance}.example", "flow": null},
			{"key": "key", "type": "password", "label": "key", "value": null, "flow": null},
			{"key": "computed", "type": "text", "label": "computed", "value": null, "flow": "f"}
		],
		"scopes": [
			{"name": "contacts.read", "required": true, "description": "Read contacts"},
			{"name": "contacts.write", "required": false, "description": null},
			{"name": "contacts.delete", "required": false, "description": null}
		],
		"permissions": {"customize_scopes": true, "additional_scopes": true, "scopes_delimiter": "comma", "scopes_help": "https://help.example/scopes"},
		"connections": ["billing"]
	}`, a.URL, e.URL), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(form, want) {
		t.Errorf("got %v\nwant %v", form, want)
	}
	var list []map[string]any
	adminJSON(t, "GET", "/http_helper/connectors", &list)
	if len(list) != 1 || !reflect.DeepEqual(list[0], want) {
		t.Errorf("the list is %v", list)
	}
}

func TestFixedFieldsByMethod(t *testing.T) {
	for method, want := range map[string]string{
		"client_secret_post": "client_id client_secret",
		"private_key_jwt":    "client_id client_key_file",
		"tls_client_auth":    "client_id client_certificate_file client_certificate_key_file",
		"none":               "client_id",
	} {
		var keys []string
		for _, field := range (&Connector{Service: Service{AuthMethod: method}}).form().Fields {
			keys = append(keys, field.Key)
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("%s: %s, want %s", method, got, want)
		}
	}
}

// Whatever the servers say, nobody who looks gets to see a secret.
func TestNoSecretIsShown(t *testing.T) {
	secrets := []string{"crm-secret", "param-secret", "config-secret", "query-secret", "crm-token"}
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="crm-secret"`)
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprint(w, r.URL, r.Header, secrets)
	})
	site := runSidecar(t, withHealth(crm(a, e, `parameter p password
			config_value v password {
				value config-secret
			}
			token_request_param p {param.p}
			api_header X-P "{param.p} {config.v}"
			scopes_help https://help.example/
			ping /me/x`, "parameter p param-secret"), ""))
	look := func() {
		for _, path := range []string{
			"GET /http_helper/connections", "GET /http_helper/connections/billing", "POST /http_helper/connections/billing/ping",
			"GET /http_helper/connectors", "GET /http_helper/connectors/acme_crm", "POST /http_helper/connections/billing/refresh", "GET /health",
		} {
			method, path, _ := strings.Cut(path, " ")
			var body string
			if path == "/health" {
				_, body = call(t, method, site+path, nil)
			} else {
				_, _, body = admin(t, method, path)
			}
			for _, secret := range secrets {
				if strings.Contains(body, secret) {
					t.Errorf("%s shows %s: %s", path, secret, body)
				}
			}
		}
		for name := range series(t) {
			for _, secret := range secrets {
				if strings.Contains(name, secret) {
					t.Errorf("a metric has %s: %s", secret, name)
				}
			}
		}
	}
	for _, code := range append(secrets[:4:4], "invalid_client") {
		e.respond(func(w http.ResponseWriter, _ int64) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"error":%q,"error_description":"crm-secret"}`, code)
		})
		look()
	}
	e.respond(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":"crm-token","scope":%q}`, strings.Join(secrets[:3], " "))
	})
	look()
	look()
}

// Pings.

// wantPing pings the connection c and checks what that says.
func wantPing(t *testing.T, working bool, status int, words ...string) adminapi.Ping {
	t.Helper()
	var view adminapi.Ping
	body := adminJSON(t, "POST", "/http_helper/connections/c/ping", &view)
	got := 0
	if view.Response.StatusCode != nil {
		got = *view.Response.StatusCode
	}
	if view.Working != working || got != status || (view.Response.Body == nil) != (status == 0) {
		t.Errorf("ping: %s, want %v with status %d", body, working, status)
	}
	for _, word := range words {
		if !strings.Contains(view.Response.Message, word) {
			t.Errorf("the ping's message is %q, without %q", view.Response.Message, word)
		}
	}
	return view
}

func TestPingGoesTheWayOfRequests(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})
	runSidecar(t, inline(a, e, `name c
		ping POST /me%2Fx?a=b 418 200
		access_token_header X-Token token
		api_header X-Key key
		api_query tenant t`))
	view := wantPing(t, true, 418, "418")
	if *view.Response.Body != "short and stout" {
		t.Errorf("body %q", *view.Response.Body)
	}
	r := a.last(t)
	if r.Method != "POST" || r.RequestURI != "/base/me%2Fx?a=b&tenant=t" || r.Header.Get("X-Token") != "token t1" || r.Header.Get("X-Key") != "key" || r.Header.Get("Authorization") != "" {
		t.Errorf("asked %s %s with %v", r.Method, r.RequestURI, r.Header)
	}
}

func TestPingTrustsWhatRequestsTrust(t *testing.T) {
	e := newIdP(t)
	a, ca := tlsAPI(t, nil)
	options := "name c\n\t\tping /me\n"
	runSidecar(t, inline(a, e, options))
	wantPing(t, false, 0, "cannot be reached", "certificate")
	runSidecar(t, inline(a, e, options+"\t\ttransport http {\n\t\t\ttls_trust_pool file "+ca+"\n\t\t}"))
	wantPing(t, true, 200)
}

// A ping dials the address that requests dial, wherever in the routes that stands, and only with TLS.
func TestPingDialsUpstreams(t *testing.T) {
	e := newIdP(t)
	a, ca := tlsAPI(t, nil)
	address := strings.TrimPrefix(a.URL, "https://")
	site := func(options string) string {
		return fmt.Sprintf("SITE {\n\thandle_path /a/* {\n\t\thttp_helper https://example.com/v1 {\n\t\t\tname c\n\t\t\ttoken_url %s\n\t\t\tclient_id id\n\t\t\tclient_secret s\n\t\t\tping /me\n%s\n\t\t}\n\t}\n}\n", e.URL, options)
	}
	runSidecar(t, site("to "+address+" 127.0.0.1:1\n\ttransport http {\n\ttls_trust_pool file "+ca+"\n\t}"))
	wantPing(t, true, 200)
	if r := a.last(t); r.Host != "example.com" || r.URL.Path != "/v1/me" || r.TLS.ServerName != "example.com" {
		t.Errorf("asked %s%s, SNI %s", r.Host, r.URL.Path, r.TLS.ServerName)
	}

	plain := newAPI(t, nil)
	runSidecar(t, inline(plain, e, "name c\n\t\tping /me\n\t\tto "+address))
	wantPing(t, false, 0, "in the clear only the address of base_url")
}

func TestPingTellsFailuresApart(t *testing.T) {
	e := newIdP(t)
	respond := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		}
	}
	for _, test := range []struct {
		respond http.HandlerFunc
		status  int
		words   []string
	}{
		{respond(401), 401, []string{"rejects the token"}},
		{respond(401, "WWW-Authenticate", `Bearer error="insufficient_scope", scope="orders.read t1"`), 401, []string{"refuses", "scope orders.read"}},
		{respond(403), 403, []string{"refuses", "lack a permission"}},
		{respond(403, "WWW-Authenticate", `Bearer error="insufficient_scope", scope="a b"`), 403, []string{"it wants the scope a b; the connection does not request a b"}},
		{respond(403, "WWW-Authenticate", `Bearer error="insufficient_scope", scope="literal-secret \"x"`), 403, []string{"lack a permission"}},
		{respond(302, "Location", "https://evil.example"), 302, []string{"redirects", "not followed"}},
		{respond(500), 500, []string{"500", "instead of", "200 to 299"}},
	} {
		a := newAPI(t, test.respond)
		runSidecar(t, inline(a, e, "name c\n\t\tping /"))
		view := wantPing(t, false, test.status, test.words...)
		if strings.Contains(view.Response.Message, "literal-secret") {
			t.Error(view.Response.Message)
		}
	}

	a := newAPI(t, nil)
	runSidecar(t, inline(a, e, "name c\n\t\tping /"))
	a.Close()
	wantPing(t, false, 0, "the API cannot be reached: connection refused")

	e.respond(func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
	})
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\ttoken_request_param x y"))
	wantPing(t, false, 0, "there is no token", "invalid_client")
}

func TestPingNamesScopesThatWereNotGranted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	e.respond(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"t","scope":"a"}`)
	})
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\tscopes a b"))
	wantPing(t, false, 403, "lacks the scope b")

	a = newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="a b c"`)
		w.WriteHeader(http.StatusForbidden)
	})
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\tscopes a b"))
	wantPing(t, false, 403, "it wants the scope a b c; the connection does not request c; the token endpoint did not grant b")
}

// What is no text is shown as far as it goes, and is no longer for that.
func TestPingShowsAtMost4KiB(t *testing.T) {
	e := newIdP(t)
	for name, body := range map[string]string{"long": strings.Repeat("x", 10000), "cut inside of a character": "x" + strings.Repeat("é", 5000), "no text": strings.Repeat("\xffa", 5000)} {
		a := newAPI(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		runSidecar(t, inline(a, e, "name c\n\t\tping /"))
		got := *wantPing(t, true, 200).Response.Body
		if len(got) > 4096 || len(got) < 4092 || !utf8.ValidString(got) || !strings.HasPrefix(got, strings.ToValidUTF8(body, "\uFFFD")[:100]) {
			t.Errorf("%s: %d bytes: %q", name, len(got), got)
		}
	}
}

func TestPingWithoutAny(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	runSidecar(t, inline(a, e, "name c"))
	wantPing(t, true, 0, "no ping is configured")
	if len(a.seen()) != 0 || e.requests.Load() != 1 {
		t.Errorf("%d requests to the API, %d token requests", len(a.seen()), e.requests.Load())
	}
}

// TestPingWithoutAnyAfterAFailedRefresh does not claim that a token was obtained.
func TestPingWithoutAnyAfterAFailedRefresh(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	runSidecar(t, inline(a, e, "name c"))
	wantPing(t, true, 0, "a token was obtained")
	e.respond(func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
	})
	if status, _, _ := admin(t, http.MethodPost, "/http_helper/connections/c/refresh"); status != http.StatusBadGateway {
		t.Fatalf("refreshing: status %d", status)
	}
	wantPing(t, true, 0, "the current token is usable, but getting a new one failed: the token endpoint refused", "no ping is configured")
}

// A connection that no handler uses can be pinged too.
func TestPingUnusedConnection(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	caddyfile := strings.NewReplacer("http_helper billing\n", "respond unused\n", "connection billing", "connection c").Replace(crm(a, e, "ping /me", ""))
	runSidecar(t, caddyfile)
	wantPing(t, true, 200)
	if r := a.last(t); r.RequestURI != "/emea/api/me" || r.Header.Get("Authorization") != "Bearer t1" {
		t.Errorf("asked %s with %v", r.RequestURI, r.Header)
	}
}

func TestPingShowsNoSecret(t *testing.T) {
	token := strings.Repeat("tok/en+", 30)
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("é", 1500))
		quoted, _ := json.Marshal(map[string]any{
			"header": r.Header, "query": r.URL.RawQuery, "path": r.URL.Path, "cut": token[:40], "secret": "literal-secret",
		})
		_, _ = w.Write(quoted)
		_, _ = io.WriteString(w, strings.Repeat(token, 100))
	})
	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, token, 3600) })
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\tapi_header X-Key \"very secret\"\n\t\tapi_query key my&very=secret"))
	view := wantPing(t, true, 200)
	body := *view.Response.Body
	if len(body) > 4096 || !strings.HasPrefix(body, "éé") || !strings.Contains(body, `"secret":"[redacted]"`) {
		t.Errorf("%d bytes: %s", len(body), body)
	}
	for _, secret := range []string{token[:20], "literal-secret", "very secret", "my%26very"} {
		if strings.Contains(body, secret) {
			t.Errorf("%s is in %s", secret, body)
		}
	}
}

// What a request carries may be older than what would be found now: a flow's result that is no longer
// remembered, a file that has changed.
func TestPingShowsNoSecretThatWasForgotten(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Pass")+" and "+r.Header.Get("X-Key"))
	})
	asked := flowstest.NewServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `"computed-pass"`) })
	key := writeFile(t, "key", "the-key-before")
	connector := `ping /me
			config_value pass password {
				flow compute
			}
			flow compute request ` + asked + `
			api_header X-Pass {config.pass}
			parameter key password
			api_header X-Key {param.key}`
	runSidecar(t, strings.NewReplacer("connection billing", "connection c", "http_helper billing", "http_helper c").Replace(crm(a, e, connector, "parameter_file key "+key)))
	const shown = "[redacted] and [redacted]"
	if body := *wantPing(t, true, 200).Response.Body; body != shown {
		t.Errorf("body %q", body)
	}
	laterForFlows(t, flows.ResultLifetime)
	if err := os.WriteFile(key, []byte("another-key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if body := *wantPing(t, true, 200).Response.Body; body != shown {
		t.Errorf("later: body %q", body)
	}
}

func TestPingShowsNoProofOfPossession(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "proof "+r.Header.Get("DPoP")) })
	e.respond(func(w http.ResponseWriter, _ int64) {
		_, _ = io.WriteString(w, `{"access_token":"a-bound-token","token_type":"DPoP"}`)
	})
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\tdpop"))
	if body := *wantPing(t, true, 200).Response.Body; body != "proof [redacted]" {
		t.Errorf("body %s", body)
	}
}

func TestRedactor(t *testing.T) {
	secret := "s3cr3t/value with \"quotes\" & more"
	r := redact.New([]string{secret, "ab", ""})
	for _, text := range []string{
		secret,
		`s3cr3t\/value with \"quotes\" & more`,
		`s3cr3t/value with \"quotes\" \u0026 more`,
		"s3cr3t%2Fvalue+with+%22quotes%22+%26+more",
		"s3cr3t%2Fvalue%20with%20%22quotes%22%20&%20more",
		"czNjcjN0L3ZhbHVlIHdpdGggInF1b3RlcyIgJiBtb3Jl",
		"ab",
	} {
		if got := r.Redact("<" + text + ">"); got != "<[redacted]>" {
			t.Errorf("%s became %s", text, got)
		}
	}
	if got := r.Redact("the value is a b"); got != "the value is a b" {
		t.Errorf("harmless text became %s", got)
	}
	if got := r.Redact(fmt.Sprintf("begin %s", secret[:20])); got != "begin [redacted]" {
		t.Errorf("a piece of a secret became %s", got)
	}
}

// Metrics.

// series are the values of our metrics in the running config's registry, by name and labels; of a
// histogram the number of observations.
func series(t *testing.T) map[string]float64 {
	t.Helper()
	ctx := caddy.ActiveContext()
	families, err := ctx.GetMetricsRegistry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, family := range families {
		name, ours := strings.CutPrefix(family.GetName(), "caddy_http_helper_")
		if !ours {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, label := range metric.GetLabel() {
				labels = append(labels, label.GetName()+"="+label.GetValue())
			}
			value := metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			values[name+" "+strings.Join(labels, " ")] = value
		}
	}
	return values
}

// wantSeries compares some series with what there is.
func wantSeries(t *testing.T, want map[string]float64) {
	t.Helper()
	got := series(t)
	for name, value := range want {
		if actual, ok := got[name]; !ok || actual != value {
			t.Errorf("%s is %v (%v), want %v", name, actual, ok, value)
		}
	}
}

func TestRequestsCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "name counted\n\t\tapp_authorization keep")+
		strings.Replace(inline(a, e, "name chosen\n\t\tapp_authorization reject"), "SITE {", "unused.example:0 {", 1))
	wantSeries(t, map[string]float64{
		"token_requests_total connection=counted result=ok":            0,
		"token_requests_total connection=counted result=configuration": 0,
		"token_requests_total connection=counted result=outage":        0,
		"requests_total connection=counted outcome=sent":               0,
		"requests_total connection=chosen outcome=sent":                0,
		"unauthorized_total connection=counted outcome=passed":         0,
	})
	if _, there := series(t)["token_expiry_timestamp_seconds connection=counted"]; there {
		t.Error("a token that is not there expires")
	}

	e.respond(func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
	})
	call(t, "GET", site+"/", nil)
	e.respond(func(w http.ResponseWriter, n int64) { grantToken(w, fmt.Sprintf("t%d", n), 3600) })
	refreshed := map[string]any{}
	adminJSON(t, "POST", "/http_helper/connections/counted/refresh", &refreshed)
	call(t, "GET", site+"/", nil)
	call(t, "GET", site+"/", nil)
	call(t, "GET", site+"/", nil, "Authorization", "Bearer app")
	call(t, "GET", site+"/%2e%2e/", nil)
	wantSeries(t, map[string]float64{
		"token_requests_total connection=counted result=ok":            1,
		"token_requests_total connection=counted result=configuration": 1,
		"token_requests_total connection=counted result=outage":        0,
		"token_request_duration_seconds connection=counted":            2,
		"requests_total connection=counted outcome=sent":               2,
		"requests_total connection=counted outcome=kept":               1,
		"requests_total connection=counted outcome=no_token":           1,
		"requests_total connection=counted outcome=refused":            1,
		"requests_total connection=chosen outcome=sent":                0,
		"token_expiry_timestamp_seconds connection=counted": float64(timeIn(t, refreshed["token"].(map[string]any), "expires").Unix()) +
			fractionOfExpiry(t, "counted"),
	})
}

// fractionOfExpiry is what the admin API does not show of a token's expiry.
func fractionOfExpiry(t *testing.T, name string) float64 {
	t.Helper()
	expires := activeApp().active[name].tokens.source.Status().Expires
	return float64(expires.UnixMilli())/1000 - float64(expires.Truncate(time.Second).Unix())
}

func TestUnknownConnectionCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, strings.Replace(crm(a, e, "", ""), "http_helper billing\n", "http_helper {header.X-Connection} {\n\t\tconnections billing\n\t}\n", 1))
	before := series(t)["requests_total connection= outcome=refused"]
	call(t, "GET", site+"/", nil, "X-Connection", "secret-of-the-app")
	call(t, "GET", site+"/", nil, "X-Connection", "billing")
	wantSeries(t, map[string]float64{
		"requests_total connection= outcome=refused":        before + 1,
		"requests_total connection=billing outcome=refused": 0,
		"requests_total connection=billing outcome=sent":    1,
	})
	for name := range series(t) {
		if strings.Contains(name, "secret-of-the-app") {
			t.Error(name)
		}
	}
}

func TestUnauthorizedCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, rejects("t2"))
	site := runSidecar(t, inline(a, e, "name c"))
	call(t, "GET", site+"/", nil)
	wantSeries(t, map[string]float64{
		"unauthorized_total connection=c outcome=replayed": 1,
		"unauthorized_total connection=c outcome=passed":   0,
		"requests_total connection=c outcome=sent":         1,
	})

	a2 := newAPI(t, rejects("none"))
	site = runSidecar(t, inline(a2, e, "name d\n\t\ton_unauthorized pass\n\t\tapp_authorization keep"))
	call(t, "GET", site+"/", nil)
	call(t, "GET", site+"/", nil, "Authorization", "Bearer app") // the app's token, not ours
	wantSeries(t, map[string]float64{
		"unauthorized_total connection=d outcome=replayed": 0,
		"unauthorized_total connection=d outcome=passed":   1,
	})
}

func TestUnreachableAPICounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "name c\n\t\tlb_retries 2"))
	a.Close()
	call(t, "GET", site+"/", nil)
	wantSeries(t, map[string]float64{
		"requests_total connection=c outcome=sent":    1,
		"requests_total connection=c outcome=refused": 0,
	})
}

func TestForbiddenRequestsCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "name c\n\t\tto 127.0.0.1:1")) // in the clear elsewhere
	call(t, "GET", site+"/", nil)
	wantSeries(t, map[string]float64{
		"requests_total connection=c outcome=sent":    0,
		"requests_total connection=c outcome=refused": 1,
	})
}

func TestRequestsOfTransportByHandCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	address := strings.TrimPrefix(a.URL, "http://")
	site := runSidecar(t, strings.Replace(crm(a, e, "", ""), "http_helper billing\n",
		"reverse_proxy "+address+" {\n\t\thealth_uri /up\n\t\ttransport http_helper {\n\t\t\tconnection billing\n\t\t}\n\t}\n", 1))
	call(t, "GET", site+"/", nil)
	call(t, "GET", site+"/%2e%2e/", nil)
	wantSeries(t, map[string]float64{
		"requests_total connection=billing outcome=sent":    1,
		"requests_total connection=billing outcome=refused": 1,
	})
}

// Values survive reloads, a rejected one too; the series of a connection that is gone do not.
func TestMetricsAcrossReloads(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	first := inline(a, e, "name c\n\t\theader_up X-Config 1")
	site := runSidecar(t, first)
	call(t, "GET", site+"/", nil)
	loadCaddyfile(t, onPort(strings.Replace(first, "X-Config 1", "X-Config 2", 1), site))
	callAcrossReload(t, site+"/")
	if err := tryCaddyfile(onPort(inline(a, e, "name c\n\t\tallow_clients nonsense"), site)); err == nil {
		t.Fatal("the config was not rejected")
	}
	wantSeries(t, map[string]float64{
		"requests_total connection=c outcome=sent":               2,
		"token_requests_total connection=c result=ok":            1,
		"token_request_duration_seconds connection=c":            1,
		"unauthorized_total connection=c outcome=replayed":       0,
		"token_requests_total connection=c result=outage":        0,
		"requests_total connection=c outcome=no_token":           0,
		"unauthorized_total connection=c outcome=passed":         0,
		"requests_total connection=c outcome=kept":               0,
		"requests_total connection=c outcome=refused":            0,
		"token_requests_total connection=c result=configuration": 0,
	})

	loadCaddyfile(t, onPort(strings.Replace(first, "name c", "name d", 1), site))
	var names []string
	for name := range series(t) {
		names = append(names, name)
	}
	if slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, "connection=c") }) {
		t.Errorf("series of a connection that is gone: %v", names)
	}
	// The token is the same one still.
	if _, there := series(t)["token_expiry_timestamp_seconds connection=d"]; !there {
		t.Errorf("the token of a renamed connection does not expire: %v", names)
	}
}

// Events.

// subscriber is an event handler that hands events to a test.
type subscriber struct{}

var subscribed = make(chan caddy.Event, 100)

func init() { caddy.RegisterModule(subscriber{}) }

func (subscriber) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.http_helper_test", New: func() caddy.Module { return new(subscriber) }}
}

func (subscriber) Handle(_ context.Context, event caddy.Event) error {
	subscribed <- event
	return nil
}

// loadSubscribed loads a Caddyfile with the subscriber bound to events of that name, or to all.
func loadSubscribed(t *testing.T, caddyfile string, names ...string) {
	t.Helper()
	adapted, err := adaptQuietly(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	config["apps"].(map[string]any)["events"] = map[string]any{"subscriptions": []any{map[string]any{
		"events":   names,
		"modules":  []any{"http_helper"},
		"handlers": []any{map[string]any{"handler": "http_helper_test"}},
	}}}
	if adapted, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
}

// wantEvent waits for an event.
func wantEvent(t *testing.T, name string, data map[string]any) {
	t.Helper()
	select {
	case event := <-subscribed:
		if event.Name() != name || event.Origin().CaddyModule().ID != "http_helper" {
			t.Fatalf("event %s of %v, want %s", event.Name(), event.Origin(), name)
		}
		if expires, ok := event.Data["expires"].(string); ok {
			if _, err := time.Parse(time.RFC3339, expires); err != nil {
				t.Errorf("expires: %v", err)
			}
			data["expires"] = expires
		}
		if !reflect.DeepEqual(event.Data, data) {
			t.Errorf("%s with %v, want %v", name, event.Data, data)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no event %s", name)
	}
}

func TestEvents(t *testing.T) {
	e, a := newIdP(t), newAPI(t, rejects("t3"))
	site := freeAddress(t)
	e.respond(func(w http.ResponseWriter, n int64) {
		if n == 1 {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		grantToken(w, fmt.Sprintf("t%d", n), 3600)
	})
	loadSubscribed(t, onPort(inline(a, e, "name c\n\t\twarm"), "http://"+site))
	wantEvent(t, "http_helper.token_failed", map[string]any{"connection": "c", "class": "configuration", "code": "invalid_client"})
	admin(t, "POST", "/http_helper/connections/c/refresh")
	wantEvent(t, "http_helper.token_obtained", map[string]any{"connection": "c"})
	call(t, "GET", "http://"+site+"/", nil)
	wantEvent(t, "http_helper.token_rejected", map[string]any{"connection": "c"})
	wantEvent(t, "http_helper.token_obtained", map[string]any{"connection": "c"})
}

// A subscriber that takes its time holds nobody up.
func TestEventsAreNotWaitedFor(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := freeAddress(t)
	for range cap(subscribed) {
		subscribed <- caddy.Event{} // there is no room for another
	}
	loadSubscribed(t, onPort(inline(a, e, "name c"), "http://"+site), "http_helper.token_obtained")
	if res, _ := call(t, "GET", "http://"+site+"/", nil); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
	for range cap(subscribed) {
		<-subscribed
	}
	wantEvent(t, "http_helper.token_obtained", map[string]any{"connection": "c"})
}

// Traces.

// collector is a fake OpenTelemetry collector and keeps what arrives.
func collector(t *testing.T) (spans chan string) {
	t.Helper()
	spans = make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		spans <- string(body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	return spans
}

// A request that finds a token teaches the tracer for later token requests, which no request causes.
func TestTracerIsLearntFromRequestsWithAToken(t *testing.T) {
	spans := collector(t)
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, strings.Replace(inline(a, e, "name c"), "SITE {", "SITE {\n\ttracing {\n\t\tspan app\n\t}", 1))
	admin(t, "POST", "/http_helper/connections/c/refresh") // no tracer is known so far
	call(t, "GET", site+"/", nil)
	admin(t, "POST", "/http_helper/connections/c/refresh")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case all := <-spans:
		if strings.Count(all, "http_helper token") != 1 {
			t.Errorf("spans: %q", all)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no spans")
	}
}

func TestTokenRequestsAreTraced(t *testing.T) {
	spans := collector(t)
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, strings.Replace(inline(a, e, "name c"), "SITE {", "SITE {\n\ttracing {\n\t\tspan app\n\t}", 1))
	call(t, "GET", site+"/", nil)
	e.respond(func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_scope"}`)
	})
	admin(t, "POST", "/http_helper/connections/c/refresh") // that is not traced itself
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case all := <-spans:
		if strings.Count(all, "http_helper token") != 2 || !strings.Contains(all, "http_helper.connection") || !strings.Contains(all, "invalid_scope") {
			t.Errorf("spans: %q", all)
		}
		for _, secret := range []string{"literal-secret", "t1"} {
			if strings.Contains(all, secret) {
				t.Errorf("%s is in %q", secret, all)
			}
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no spans")
	}
}

// eventsOf returns the events of the connection c without their times, which must be in order and have fractions of
// a second.
func eventsOf(t *testing.T) []map[string]any {
	t.Helper()
	var events []map[string]any
	adminJSON(t, "GET", "/http_helper/connections/c/events", &events)
	last := time.Now()
	for _, event := range events {
		text, _ := event["at"].(string)
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil || at.After(last) || !strings.HasSuffix(text, "Z") {
			t.Errorf("the time of %v is wrong", event)
		}
		last = at
		delete(event, "at")
		if seconds, ok := event["duration"].(float64); ok && seconds > 0 && seconds < 10 {
			event["duration"] = "some"
		}
	}
	return events
}

func wantEvents(t *testing.T, want string) {
	t.Helper()
	got, _ := json.Marshal(eventsOf(t))
	if string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestEventsShown, also after a reload, of requests by both ways.
func TestEventsShown(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, rejects("t2"))
		caddyfile := inline(a, e, "name c\n\t\tallow GET\n\t\t"+option)
		site := runSidecar(t, caddyfile)
		wantEvents(t, `[]`)
		call(t, "GET", site+"/%2e%2e/", nil)
		call(t, "POST", site+"/", nil)
		call(t, "GET", site+"/", nil)
		call(t, "DELETE", site+"/", nil)
		const obtained = `{"code":null,"count":1,"duration":"some","kind":"obtained","status":200}`
		const before = `{"code":null,"count":2,"duration":null,"kind":"refused","status":403},` + obtained +
			`,{"code":null,"count":1,"duration":null,"kind":"rejected","status":401},` + obtained +
			`,{"code":null,"count":1,"duration":null,"kind":"refused","status":400}]`
		wantEvents(t, "["+before)

		e.respond(func(w http.ResponseWriter, _ int64) {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
		})
		admin(t, "POST", "/http_helper/connections/c/refresh")
		loadCaddyfile(t, strings.Replace(onPort(caddyfile, site), "allow GET", "allow GET PUT", 1))
		wantEvents(t, `[{"code":"invalid_client","count":1,"duration":"some","kind":"failed","status":401},`+before)
	})
}

func TestEventsOfNobody(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	runSidecar(t, inline(a, e, "name c"))
	if status, _, _ := admin(t, "GET", "/http_helper/connections/d/events"); status != http.StatusNotFound {
		t.Errorf("got %d", status)
	}
	if status, _, _ := admin(t, "POST", "/http_helper/connections/c/events"); status != http.StatusMethodNotAllowed {
		t.Errorf("got %d", status)
	}
}
