package httphelper

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// sidecarWithCLI runs a sidecar with the connection c, and returns its site and what asks about it.
func sidecarWithCLI(t *testing.T, a *api, e *standInIdP, options string) (site string, ask func(args ...string) cliResult) {
	t.Helper()
	caddyfile := inline(a, e, "name c\n\t\t"+options)
	site = runSidecar(t, caddyfile)
	address := ownAdmin(t, caddyfile)
	return site, func(args ...string) cliResult {
		t.Helper()
		return cli(t, "", append(args, "--address", address)...)
	}
}

func TestCommandsInEachState(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site, ask := sidecarWithCLI(t, a, e, "ping GET /me 200")
	ask("list").want(t, 0, "NAME", "c     -          idle   none\n")
	ask("show", "c").want(t, 0, "State             idle: it has no token, and none was needed lately", "API               "+a.URL+"/base", "Token endpoint    "+e.URL+"/token")

	call(t, "GET", site+"/", nil)
	ask("list").want(t, 0, "ready  expires in 5")
	ask("show", "c").want(t, 0, "ready: it has a token", "Token expires", "1, of which 0 failed")
	ask("ping", "c").want(t, 0, "c works: the API responded with 200 OK")
	ask("refresh", "c").want(t, 0, "c has a new token, which expires in 5")

	refuse := func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
	}
	e.answers(refuse)
	ask("refresh", "c").want(t, 1, "Error: connection c: ", "invalid_client", "check client_id")
	ask("list").want(t, 0, "failing", "c cannot get a new token, while the one in hand lives: ", "invalid_client",
		"Token endpoint: "+e.URL+"/token\n", "It does not mend itself: correct what is named here, then run: caddy http-helper refresh c --address unix/")
	ask("show", "c").want(t, 0, "State                failing", "Last tried now; tried again when it is needed")

	site, ask = sidecarWithCLI(t, a, e, "ping GET /me 200\n\t\ttoken_request_param other 1")
	call(t, "GET", site+"/", nil)
	ask("list").want(t, 1, "c     -          down   none\n", "c cannot get a token: the token endpoint refused the request (status 401)")
	ask("show", "c").want(t, 1, "down: it has no token, and cannot get one")
	ask("ping", "c").want(t, 1, "c does not work: there is no token: ", "invalid_client")

	e.Close()
	site, ask = sidecarWithCLI(t, a, e, "token_request_param other 2")
	call(t, "GET", site+"/", nil)
	ask("show", "c").want(t, 1, "the token endpoint cannot be reached: connection refused", "It ends by itself once that server answers as it should. If it never has, correct what is named here. To try now, run: caddy http-helper refresh c")
}

func TestUnknownNames(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	_, ask := sidecarWithCLI(t, a, e, "")
	for _, args := range [][]string{{"show", "x y/z"}, {"refresh", "x"}, {"ping", "x"}, {"connectors", "x"}, {"new", "x"}} {
		got := ask(args...)
		got.want(t, exitUsage, "Error: there is no conn")
		if got.stdout != "" {
			t.Errorf("%s prints %q", args, got.stdout)
		}
	}
	for _, name := range []string{"", ".", ".."} { // that lead elsewhere in a URL
		ask("show", name).want(t, exitUsage, "is not a name")
		ask("ping", name).want(t, exitUsage, "is not a name")
		ask("connectors", name).want(t, exitUsage, "is not a name")
	}
}

func TestPingNotWorking(t *testing.T) {
	status := http.StatusForbidden
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="contacts.read"`)
		w.WriteHeader(status)
		_, _ = w.Write([]byte("not\x1b[31m red\n"))
	})
	_, ask := sidecarWithCLI(t, a, e, "ping GET /me 200")
	got := ask("ping", "c")
	got.want(t, 1, "c does not work: the API refuses the request (403 Forbidden): it wants the scope contacts.read", "The API's answer:\nnot\uFFFD[31m red\n")
	if strings.Contains(got.stdout, "\x1b") {
		t.Error("the API steers the terminal")
	}
	ask("ping", "c", "--json").want(t, 1, `"working": false`, `"status_code": 403`)
	a.Close()
	ask("ping", "c").want(t, 1, "the API cannot be reached: connection refused")
}

func TestAsJSON(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	_, ask := sidecarWithCLI(t, a, e, "")
	for _, test := range []struct{ args, want string }{
		{"list", "[\n  {\n    \"name\": \"c\","},
		{"show c", "{\n  \"name\": \"c\","},
		{"refresh c", "{\n  \"name\": \"c\","},
		{"ping c", "{\n  \"working\": true,"},
		{"connectors", "[]\n"},
	} {
		got := ask(append(strings.Fields(test.args), "--json")...)
		got.want(t, 0)
		if !strings.HasPrefix(got.stdout, test.want) || got.stderr != "" {
			t.Errorf("%s: %q %q", test.args, got.stdout, got.stderr)
		}
	}
	got := ask("show", "x", "--json")
	got.want(t, exitUsage, "Error: there is no connection")
	if !strings.HasPrefix(got.stdout, "{\n  \"error\": ") {
		t.Errorf("an error as JSON: %q", got.stdout)
	}
}

func TestConnectorsShown(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	caddyfile := crm(a, e, `additional_scopes
			parameter secret password
			parameter region dropdown {
				option eu "Europe"
				option us
				default us
			}
			config_value audience text {
				label "Audience"
				value https://{param.instance}.example
			}
			config_value key password {
				value password-value
			}
			config_value computed text {
				flow f
			}
			flow f template {{.param.instance}}`, "parameter secret s\n")
	runSidecar(t, caddyfile)
	address := ownAdmin(t, caddyfile)
	cli(t, "", "connectors", "--address", address).want(t, 0, "acme_crm  Acme CRM  billing")
	got := cli(t, "", "connectors", "acme_crm", "--address", address)
	got.want(t, 0, "Client secret       password", "Your instance name  text", "region              dropdown  eu (Europe); us, the default",
		"Audience  https://{param.instance}.example", "key       a secret", "computed  computed by the flow f",
		"choose among these scopes, and may add others", "contacts.read  always  Read contacts", "caddy http-helper new acme_crm")
	if strings.Contains(got.stdout, "password-value") {
		t.Error("a secret is shown")
	}
}

func TestScopeRules(t *testing.T) {
	for _, test := range []struct {
		form formView
		want string
	}{
		{formView{}, "no scopes"},
		{formView{Scopes: []scopeView{{Name: "a"}}}, "All of these"},
		{formView{Scopes: []scopeView{{Name: "a"}}, Permissions: permissionsView{CustomizeScopes: true}}, "choose among these scopes:"},
		{formView{Permissions: permissionsView{CustomizeScopes: true, AdditionalScopes: true}}, "may add others"},
	} {
		if got := test.form.scopeRule(); !strings.Contains(got, test.want) {
			t.Errorf("%+v: %s", test.form, got)
		}
	}
}

// What people see of one moment, to the letter.
func TestPage(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	connector, tokenURL, code, next := "acme_crm", "https://emea.acme.example/oauth2/token", "invalid_client", now.Add(20*time.Second)
	conns := []connectionView{
		{
			Name: "billing", Connector: &connector, State: token.StateReady, AuthMethod: "client_secret_basic", TokenURL: &tokenURL,
			BaseURL: "https://emea.acme.example/api",
			Scopes:  scopesView{Requested: []string{"contacts.read", "contacts.write"}, Granted: []string{"contacts.read"}, Missing: []string{"contacts.write"}},
			Token:   &tokenView{Obtained: now.Add(-10 * time.Minute), Expires: now.Add(50 * time.Minute), Refresh: now.Add(45 * time.Minute)},
			Counts:  countsView{TokenRequests: 3, TokenFailures: 1, Rejected: 1},
		},
		{
			Name: "orders", State: token.StateDown,
			LastError: &errorView{At: now.Add(-3 * time.Minute), Class: oauth.ClassConfiguration, Code: &code, Message: "the token endpoint refused the request (status 401)"},
			NextTry:   &next,
		},
		{
			Name: "stock", State: token.StateDown,
			LastError: &errorView{At: now, Class: oauth.ClassOutage, Message: "the token endpoint cannot be reached: no such host"},
			NextTry:   &now,
		},
	}
	other, soon := "https://apac.acme.example/oauth2/token", now.Add(5*time.Second)
	for _, name := range []string{"tenant-1", "tenant-2", "tenant-3", "tenant-4"} {
		conns = append(conns, connectionView{
			Name: name, State: token.StateFailing, TokenURL: &other,
			LastError: &errorView{At: now.Add(-time.Minute), Class: oauth.ClassOutage, Message: "the token endpoint answered with status 503"},
			NextTry:   &next,
		})
	}
	conns[4].LastError.At, conns[5].NextTry = now.Add(-time.Second), &soon
	var out strings.Builder
	p := newPage(&out, now, " --address unix//admin.sock")
	p.connections(conns)
	p.sentence("---")
	p.connection(conns[0])
	p.end()
	want, err := os.ReadFile("testdata/page.txt")
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got:\n%s", out.String())
	}
}
