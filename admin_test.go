package httphelper

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// admin asks the admin API of the running config.
func admin(t *testing.T, method, path string) (int, http.Header, string) {
	t.Helper()
	mux := http.NewServeMux()
	for _, route := range (AdminAPI{}).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.Handler.ServeHTTP(w, r)
			if err == nil {
				return
			}
			failed, ok := err.(caddy.APIError) // as Caddy does
			if !ok {
				t.Errorf("%s %s: %v is no APIError", method, path, err)
			}
			w.WriteHeader(failed.HTTPStatus)
			_, _ = w.Write([]byte(failed.Err.Error()))
		})
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Header(), w.Body.String()
}

// adminJSON is admin for answers that must be good.
func adminJSON(t *testing.T, method, path string, into any) string {
	t.Helper()
	status, header, body := admin(t, method, path)
	if status != http.StatusOK || header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %s: %d %v %s", method, path, status, header, body)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatal(err)
	}
	return body
}

// shownConnection is what the admin API says of the connection c.
func shownConnection(t *testing.T, name string) map[string]any {
	t.Helper()
	var v map[string]any
	adminJSON(t, "GET", "/http_helper/connections/"+name, &v)
	return v
}

// crm is a Caddyfile with a connector and the connection billing; its texts are put in.
func crm(a *api, e *standInIdP, connector, connection string) string {
	return fmt.Sprintf(`{
	http_helper {
		connector acme_crm {
			label "Acme CRM"
			base_url %s/{param.instance}/api
			token_url %s/token?key=query-secret
			scope contacts.read required {
				description "Read contacts"
			}
			scope contacts.write
			scope contacts.delete
			customize_scopes
			parameter instance text {
				label "Your instance name"
			}
			%s
		}
		connection billing acme_crm {
			client_id crm-id
			client_secret crm-secret
			parameter instance emea
			scopes contacts.write
			%s
		}
	}
}
SITE {
	http_helper billing
}
`, a.URL, e.URL, connector, connection)
}

func TestConnectionShown(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	e.answers(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"crm-token","expires_in":3600,"scope":"contacts.read"}`))
	})
	site := runSidecar(t, crm(a, e, "", ""))

	want := map[string]any{
		"name": "billing", "connector": "acme_crm", "state": "idle", "auth_method": "client_secret_basic",
		"token_url": e.URL + "/token", "base_url": a.URL + "/emea/api",
		"scopes":     map[string]any{"requested": []any{"contacts.read", "contacts.write"}, "granted": []any{}, "missing": []any{}},
		"token":      nil,
		"counts":     map[string]any{"token_requests": 0.0, "token_failures": 0.0, "rejected": 0.0},
		"last_error": nil, "next_attempt": nil,
	}
	if got := shownConnection(t, "billing"); !reflect.DeepEqual(got, want) {
		t.Errorf("before the first request:\n got %v\nwant %v", got, want)
	}

	before := time.Now().Truncate(time.Second)
	call(t, "GET", site+"/", nil)
	got := shownConnection(t, "billing")
	token := got["token"].(map[string]any)
	obtained, expires, refresh := timeIn(t, token, "obtained"), timeIn(t, token, "expires"), timeIn(t, token, "refresh")
	if obtained.Before(before) || expires.Sub(obtained) != time.Hour || !refresh.After(obtained) || !refresh.Before(expires) || len(token) != 3 {
		t.Errorf("token: %v", token)
	}
	want["state"], want["token"] = "ready", token
	want["scopes"] = map[string]any{"requested": []any{"contacts.read", "contacts.write"}, "granted": []any{"contacts.read"}, "missing": []any{"contacts.write"}}
	want["counts"] = map[string]any{"token_requests": 1.0, "token_failures": 0.0, "rejected": 0.0}
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
	e.answers(refuse)
	call(t, "GET", site+"/", nil)
	got := shownConnection(t, "c")
	lastError, _ := got["last_error"].(map[string]any)
	if got["state"] != "down" || got["token"] != nil || got["connector"] != nil || lastError["class"] != "configuration" || lastError["code"] != "invalid_client" || lastError["message"] == "" {
		t.Errorf("after a refusal: %v", got)
	}
	timeIn(t, lastError, "at")
	timeIn(t, got, "next_attempt")

	e.answers(func(w http.ResponseWriter, _ int64) { grantToken(w, "good-token", 3600) })
	var refreshed map[string]any
	adminJSON(t, "POST", "/http_helper/connections/c/refresh", &refreshed)
	if refreshed["state"] != "ready" || refreshed["last_error"] != nil || refreshed["next_attempt"] != nil || !reflect.DeepEqual(refreshed, shownConnection(t, "c")) {
		t.Errorf("after a refresh: %v", refreshed)
	}
	if granted := refreshed["scopes"].(map[string]any)["granted"]; !reflect.DeepEqual(granted, []any{}) {
		t.Errorf("granted without scopes: %v", granted)
	}

	e.answers(refuse)
	status, _, body := admin(t, "POST", "/http_helper/connections/c/refresh")
	if status != http.StatusBadGateway || !strings.Contains(body, "invalid_client") || strings.Contains(body, "literal-secret") {
		t.Errorf("a refresh that fails: %d %s", status, body)
	}
	if got := shownConnection(t, "c"); got["state"] != "failing" || got["token"] == nil || got["last_error"] == nil {
		t.Errorf("after a refresh that failed: %v", got)
	}

	e.answers(func(w http.ResponseWriter, _ int64) {
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
		e.answers(func(w http.ResponseWriter, _ int64) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprintf(w, `{"error":%q,"error_description":"crm-secret"}`, code)
		})
		look()
	}
	e.answers(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":"crm-token","scope":%q}`, strings.Join(secrets[:3], " "))
	})
	look()
	look()
}
