package integration

import (
	"bytes"
	"cmp"
	"encoding/json"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// consoleURL matches the URL that opens the console.
var consoleURL = regexp.MustCompile(`http-helper: console (http://\S+)`)

// startConsole starts the console, and returns the URL that opens it.
func startConsole(t *testing.T, user *harness.User, args ...string) (running harness.Running, url string) {
	t.Helper()
	running = user.Start(t, append([]string{"console"}, args...)...)
	running.WaitLog(t, "Ctrl-C ends the console")
	t.Cleanup(func() {
		if logs := running.Logs(); strings.Contains(logs, "DATA RACE") || strings.Contains(logs, "panic:") {
			t.Error("the console has a data race, or has panicked")
		}
	})
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
		"/http_helper/connections/billing/values": object{
			"parameters": []object{
				{"key": "instance", "type": "text", "label": "Your instance name", "value": "emea"}, {"key": "region", "type": "dropdown", "label": "Region", "value": "eu"},
			},
			"config_values": []object{{"key": "audience", "type": "text", "label": "Audience", "value": "https://emea.acme.example", "flow": nil}},
		},
		"/http_helper/connections/billing/ping": object{"working": true, "service_response": object{"status_code": 200, "message": "the API responded with 200 OK", "response_body": ""}},
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

// showcaseFile is a configuration file with the connectors of the showcase.
const showcaseFile = `{
	http_helper {
		connector acme_crm {
			label "Acme CRM"
			base_url https://{param.instance}.acme.example/api
			token_url https://{param.instance}.acme.example/oauth2/token
			scope contacts.read required {
				description "Read contacts"
			}
			scope contacts.write {
				description "Create and change contacts"
			}
			scope contacts.delete
			customize_scopes
			additional_scopes
			scopes_help https://acme.example/help/scopes
			parameter instance text {
				label "Your instance name"
			}
			parameter region dropdown {
				label "Region"
				option eu "Europe"
				option us "United States"
				default eu
			}
			config_value audience text {
				label "Audience"
				value https://{param.instance}.acme.example
			}
			token_request_param audience {config.audience}
			token_request_param region {param.region}
			ping GET /me 200
		}
		connector parcel_service {
			label "Parcel Service"
			base_url https://api.parcels.example
			token_url https://auth.parcels.example/token
			scope labels
			scope tracking
			customize_scopes
			parameter account password {
				label "Account key"
			}
			api_header X-Account {param.account}
		}
		connector people {
			label "People"
			base_url https://people.example/v1
			token_url https://people.example/token
			scope employees.read
		}
		connection archive acme_crm {
			client_id archive
			client_secret {env.SECRET}
			parameter instance emea
		}
	}
}
`

// screenshots is the environment variable with the directory that the tests write pictures of the pages to.
// docs/screenshots has them.
const screenshots = "CONSOLE_SCREENSHOTS"

// picture takes a screenshot, if that is wanted.
func picture(t *testing.T, b *harness.Browser, name string) {
	t.Helper()
	dir := os.Getenv(screenshots)
	if dir == "" {
		return
	}
	b.Script(t, "scrollTo(0, 0)")
	file := filepath.Join(dir, name+".png")
	b.Screenshot(t, file)
	shrink(t, file)
}

// shrink reduces a picture to its 256 most frequent colors.
func shrink(t *testing.T, file string) {
	t.Helper()
	full, err := png.Decode(bytes.NewReader(must(os.ReadFile(file))))
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[color.Color]int)
	bounds := full.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[full.At(x, y)]++
		}
	}
	frequent := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return cmp.Compare(counts[b], counts[a]) })
	small := image.NewPaletted(bounds, frequent[:min(len(frequent), 256)])
	draw.Draw(small, bounds, full, bounds.Min, draw.Src)
	var data bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&data, small); err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, file, data.String())
}

// TestConsolePictures shows the pages in each size and color, without a complaint of the browser's. The
// pictures are those of the documentation.
func TestConsolePictures(t *testing.T) {
	t.Parallel()
	address := sidecarStandIn(t, showcase())
	for name, options := range map[string]harness.BrowserOptions{
		"":       {Width: 1100, Height: 1100},
		"-dark":  {Width: 1100, Height: 1100, Dark: true},
		"-phone": {Width: 375, Height: 812},
	} {
		t.Run("pages"+name, func(t *testing.T) {
			t.Parallel()
			d := openDesk(t, options, "--address", address, "--config", showcaseConfig(t))
			equal(t, "title", d.Text(t, "h1"), "Connections")
			picture(t, d.Browser, "connections"+name)
			for _, page := range []string{"connections/billing", "connectors", "connectors/acme_crm", "new"} {
				d.Open(t, d.base+"/"+page)
				picture(t, d.Browser, strings.NewReplacer("connections/billing", "connection", "/acme_crm", "-one", "new", "choose").Replace(page)+name)
			}
			d.fillShowcaseConnection(t)
			picture(t, d.Browser, "new-connection"+name)
			d.fillShowcaseConnector(t)
			picture(t, d.Browser, "new-connector"+name)
			d.press(t, "check")
			picture(t, d.Browser, "checked"+name)
			d.wantNoSecret(t)

			d = openDesk(t, options, "--config", showcaseConfig(t), "--save", t.TempDir())
			d.fillShowcaseConnection(t)
			d.press(t, "save")
			d.waitText(t, "#result", "The connection is saved")
			picture(t, d.Browser, "saved"+name)
			d.wantNoSecret(t, "not-shown")
		})
	}
}

func showcaseConfig(t *testing.T) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "Caddyfile")
	harness.WriteFile(t, file, showcaseFile)
	return file
}

func (d *desk) fillShowcaseConnection(t *testing.T) {
	t.Helper()
	d.Open(t, d.base+"/new/acme_crm")
	d.fill(t, "name", "billing")
	d.fill(t, "client_id", "billing-app")
	d.fill(t, "client_secret", "not-shown")
	d.fill(t, "parameters.instance", "emea")
	d.click(t, at("customize-yes"))
	d.click(t, `[value="contacts.write"]`)
	d.fill(t, "additional_scopes", "reports.read reports.export")
	d.waitText(t, "#request", "reports.export")
	d.waitText(t, "#block", "reports.export")
}

func (d *desk) fillShowcaseConnector(t *testing.T) {
	t.Helper()
	d.Open(t, d.base+"/new-connector")
	d.fill(t, "name", "acme_billing")
	d.fill(t, "label", "Acme Billing")
	d.fill(t, "base_url", "https://billing.acme.example/v2")
	d.click(t, `button[value="add:scopes"]`)
	d.fill(t, "scopes.0.name", "invoices.read")
	d.fill(t, "scopes.0.description", "Read invoices")
	d.click(t, `button[value="add:parameters"]`)
	d.fill(t, "parameters.0.key", "tenant")
	d.fill(t, "parameters.0.label", "Your tenant")
	d.fill(t, "token_url", "http://auth.acme.example/token")
	d.Run(t, chromedp.SendKeys(at("token_url"), kb.Tab, chromedp.ByQuery))
	d.waitText(t, at("token_url-error"), "https")
	d.waitText(t, "#block", "Read invoices")
}
