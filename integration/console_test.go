package integration

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// consoleURL matches the URL that opens the console.
var consoleURL = regexp.MustCompile(`http-helper: console (http://\S+)`)

// startConsole starts the console, and returns the URL that opens it.
func startConsole(t *testing.T, user *harness.User, args ...string) (running harness.Running, url string) {
	t.Helper()
	running = user.Start(t, append([]string{"console"}, args...)...)
	running.WaitLog(t, "Ctrl-C ends the console")
	return running, consoleURL.FindStringSubmatch(running.Logs())[1]
}

// sidecarStandIn is an admin endpoint that says what a sidecar would say. Its times are relative to now.
func sidecarStandIn(t *testing.T, says map[string]any) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "admin.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: harness.Timeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		response, ok := says[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if text, ok := response.(string); ok {
			_, _ = w.Write([]byte(text))
			return
		}
		_ = json.NewEncoder(w).Encode(response)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return "unix/" + socket
}

type object = map[string]any

// showcase is what the stand-in says for the screenshots: a connection in each state.
func showcase() map[string]any {
	at := func(minutes float64) string {
		return time.Now().Add(time.Duration(minutes * float64(time.Minute))).UTC().Format(time.RFC3339)
	}
	token := func(obtained, refresh, expires float64, source string) object {
		return object{"obtained": at(obtained), "refresh": at(refresh), "expires": at(expires), "source": source}
	}
	connection := func(name, connector, state string, scopes []string, more object) object {
		c := object{
			"name": name, "connector": connector, "state": state, "auth_method": "client_secret_basic", "token_url": "https://auth.acme.example/oauth2/token",
			"base_url": "https://api.acme.example/v2", "scopes": object{"requested": scopes, "granted": scopes, "missing": []string{}, "confirmed": true},
			"token": nil, "counts": object{"token_requests": 12, "token_failures": 0, "rejected": 0, "adopted": 0}, "last_error": nil, "next_attempt": nil,
			"shared": object{"state": "off", "last_error": nil},
		}
		for key, value := range more {
			c[key] = value
		}
		return c
	}
	failure := func(minutes float64, class, code, message string) object {
		return object{"at": at(minutes), "class": class, "code": code, "message": message}
	}
	billing := connection("billing", "acme_crm", "ready", []string{"contacts.read", "contacts.write", "reports.read"}, object{
		"token":  token(-22, 26, 38, "shared"),
		"scopes": object{"requested": []string{"contacts.read", "contacts.write", "reports.read"}, "granted": []string{"contacts.read", "contacts.write"}, "missing": []string{"reports.read"}, "confirmed": true},
		"counts": object{"token_requests": 9, "token_failures": 1, "rejected": 2, "adopted": 31}, "shared": object{"state": "on", "last_error": nil},
	})
	orders := connection("orders", "acme_crm", "down", []string{"contacts.read"}, object{
		"last_error": failure(-0.4, "configuration", "invalid_client", "the token endpoint refused the client"), "next_attempt": at(0.6),
		"counts": object{"token_requests": 48, "token_failures": 48, "rejected": 0, "adopted": 0},
	})
	shipping := connection("shipping", "parcel_service", "failing", []string{"labels"}, object{
		"token": token(-50, -2, 10, "own"), "last_error": failure(-0.1, "outage", "", "the token endpoint responded with status 503"), "next_attempt": at(0.3),
	})
	delete(shipping["last_error"].(object), "code")
	all := []object{
		connection("archive", "acme_crm", "idle", []string{"contacts.read"}, nil), billing, orders,
		connection("payroll", "people", "ready", []string{"employees.read"}, object{"token": token(-4, 40, 56, "own")}), shipping,
	}
	says := map[string]any{
		"/http_helper/connections": all,
		"/http_helper/connections/billing/events": []object{
			{"at": at(-1), "kind": "refused", "status": 403, "code": nil, "duration": nil, "count": 3},
			{"at": at(-22), "kind": "adopted", "status": nil, "code": nil, "duration": nil, "count": 1},
			{"at": at(-81), "kind": "rejected", "status": 401, "code": nil, "duration": nil, "count": 1},
			{"at": at(-82), "kind": "obtained", "status": 200, "code": nil, "duration": 0.184, "count": 1},
			{"at": at(-83), "kind": "failed", "status": 503, "code": "temporarily_unavailable", "duration": 0.092, "count": 1},
		},
		"/http_helper/connections/billing/ping": object{"working": true, "service_response": object{"status_code": 200, "message": "the API responded with 200 OK", "response_body": ""}},
		"/http_helper/connectors": []object{
			connectorForm("acme_crm", "Acme CRM", []string{"archive", "billing", "orders"}, "contacts.read", "contacts.write", "contacts.delete"),
			connectorForm("parcel_service", "Parcel Service", []string{"shipping"}, "labels", "tracking"),
			connectorForm("people", "People", []string{"payroll"}, "employees.read"),
		},
		"/metrics": "# TYPE caddy_http_helper_requests_total counter\n" +
			`caddy_http_helper_requests_total{connection="billing",outcome="sent"} 18204` + "\n" +
			`caddy_http_helper_requests_total{connection="billing",outcome="refused"} 3` + "\n" +
			`caddy_http_helper_requests_total{connection="orders",outcome="no_token"} 117` + "\n" +
			`caddy_http_helper_requests_total{connection="shipping",outcome="sent"} 642` + "\n" +
			`caddy_http_helper_requests_total{connection="payroll",outcome="sent"} 96` + "\n",
	}
	for _, c := range all {
		says["/http_helper/connections/"+c["name"].(string)] = c
	}
	says["/http_helper/connections/billing/refresh"] = billing
	return says
}

func connectorForm(name, label string, connections []string, scopes ...string) object {
	offered := make([]object, len(scopes))
	for i, scope := range scopes {
		offered[i] = object{"name": scope, "required": i == 0, "description": nil}
	}
	return object{
		"name": name, "label": label, "auth_method": "client_secret_basic", "token_url": "https://{param.instance}.acme.example/oauth2/token", "base_url": "https://{param.instance}.acme.example/api",
		"fields": []object{
			{"key": "client_id", "type": "text", "label": "Client ID", "fixed": true}, {"key": "client_secret", "type": "password", "label": "Client secret", "fixed": true},
			{"key": "instance", "type": "text", "label": "Your instance name", "fixed": false},
		},
		"config_values": []object{}, "scopes": offered, "connections": connections,
		"permissions": object{"customize_scopes": true, "additional_scopes": name == "acme_crm", "scopes_delimiter": "space", "scopes_help": nil},
	}
}

// screenshots is the environment variable with the directory that the tests write pictures of the pages to.
// docs/screenshots has them.
const screenshots = "CONSOLE_SCREENSHOTS"

// picture takes a screenshot, if that is wanted.
func picture(t *testing.T, b *harness.Browser, name string) {
	t.Helper()
	if dir := os.Getenv(screenshots); dir != "" {
		b.Screenshot(t, filepath.Join(dir, name+".png"))
	}
}

// TestConsolePictures shows the pages about a sidecar in each size and color, without a complaint of the
// browser's.
func TestConsolePictures(t *testing.T) {
	t.Parallel()
	address := sidecarStandIn(t, showcase())
	for name, options := range map[string]harness.BrowserOptions{
		"":       {Width: 1200, Height: 800},
		"-dark":  {Width: 1200, Height: 800, Dark: true},
		"-phone": {Width: 500, Height: 860},
	} {
		t.Run("pages"+name, func(t *testing.T) {
			t.Parallel()
			_, url := startConsole(t, harness.NewUser(t), "--address", address)
			base, _, _ := strings.Cut(url, "/open/")
			b := harness.OpenBrowser(t, options)
			b.Open(t, url)
			equal(t, "title", b.Text(t, "h1"), "Connections")
			picture(t, b, "connections"+name)
			b.Open(t, base+"/connections/billing")
			picture(t, b, "connection"+name)
			b.Open(t, base+"/connectors")
			picture(t, b, "connectors"+name)
			if problems := b.Problems(); len(problems) > 0 {
				t.Errorf("the browser complains: %q", problems)
			}
		})
	}
}
