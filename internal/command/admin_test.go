package command_test

import (
	"net/http"
	"strings"
	"testing"
)

// inline is a Caddyfile with the connection c in its directive.
func inline(s *services, options string) string {
	return "SITE {\n\thttp_helper " + s.api.URL + "/base {\n\t\tname c\n\t\ttoken_url " + s.idp.URL +
		"/token\n\t\tclient_id id\n\t\tclient_secret literal-secret\n\t\t" + options + "\n\t}\n}\n"
}

// sidecarWithCLI runs a sidecar with the connection c, and returns its site and what asks about it.
func sidecarWithCLI(t *testing.T, s *services, options string) (site string, ask func(args ...string) result) {
	t.Helper()
	site = s.run(t, inline(s, options))
	return site, func(args ...string) result {
		t.Helper()
		return cli(t, "", append(args, "--address", s.admin)...)
	}
}

func TestCommandsInEachState(t *testing.T) {
	s := newServices(t, nil)
	site, ask := sidecarWithCLI(t, s, "ping GET /me 200")
	ask("list").want(t, 0, "NAME", "c     -          idle   none\n")
	ask("show", "c").want(t, 0, "State             idle: it has no token, and none was needed lately", "API               "+s.api.URL+"/base", "Token endpoint    "+s.idp.URL+"/token")

	get(t, site)
	ask("list").want(t, 0, "ready  expires in 5")
	ask("show", "c").want(t, 0, "ready: it has a token", "Token expires", "1, of which 0 failed")
	ask("ping", "c").want(t, 0, "c works: the API responded with 200 OK")
	ask("refresh", "c").want(t, 0, "c has a new token, which expires in 5")

	refuse := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
	}
	s.respond(refuse)
	ask("refresh", "c").want(t, 1, "Error: connection c: ", "invalid_client", "check client_id")
	ask("list").want(t, 0, "failing", "c cannot get a new token, while the current one is valid: ", "invalid_client",
		"Token endpoint: "+s.idp.URL+"/token\n", "Fix what is named here. The next request sees a changed file, after a second at most. To try now, run: caddy http-helper refresh c --address unix/")
	ask("show", "c").want(t, 0, "State                failing", "Last tried ", "; tried again when it is needed")

	site, ask = sidecarWithCLI(t, s, "ping GET /me 200\n\t\ttoken_request_param other 1")
	get(t, site)
	ask("list").want(t, 1, "c     -          down   none\n", "c cannot get a token: the token endpoint refused the request (status 401)")
	ask("show", "c").want(t, 1, "down: it has no token, and cannot get one")
	ask("ping", "c").want(t, 1, "c does not work: there is no token: ", "invalid_client")

	for range 2 {
		get(t, site+"/%2e%2e/")
	}
	ask("show", "c").want(t, 1, "Requests refused  2 with status 400, the last one now")

	s.idp.Close()
	site, ask = sidecarWithCLI(t, s, "token_request_param other 2")
	get(t, site)
	ask("show", "c").want(t, 1, "the token endpoint cannot be reached: connection refused", "It ends by itself once that server responds as it should. If it never has, fix what is named here. To try now, run: caddy http-helper refresh c")
}

func TestUnknownNames(t *testing.T) {
	s := newServices(t, nil)
	_, ask := sidecarWithCLI(t, s, "")
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

// The name is not needed when there is only one connection.
func TestPingOfTheOnlyConnection(t *testing.T) {
	s := newServices(t, nil)
	_, ask := sidecarWithCLI(t, s, "")
	ask("ping").want(t, 0, "c works: a token was obtained")
	got := ask("ping", "--json")
	got.want(t, 0, `"working": true`)
	if strings.Contains(got.stdout, `"name"`) {
		t.Errorf("more is printed than the response: %s", got.stdout)
	}

	s.run(t, strings.Replace(crm(s, "", ""), "connection billing", "connection other acme_crm {\n\t\t\tclient_id i\n\t\t\tclient_secret s\n\t\t\tparameter instance x\n\t\t}\n\t\tconnection billing", 1))
	cli(t, "", "ping", "--address", s.admin).want(t, exitUsage, "there are several connections; name one of them: billing, other")

	s.run(t, "")
	cli(t, "", "ping", "--address", s.admin).want(t, 1, "there are no connections")
}

// What a connection was given is shown, and secrets are not.
func TestShowValues(t *testing.T) {
	t.Setenv("TEST_INSTANCE", "emea")
	s := newServices(t, nil)
	s.run(t, strings.Replace(crm(s, full, "parameter pass my-pass\n\t\t\tparameter region us"), "parameter instance emea", "parameter instance {env.TEST_INSTANCE}", 1))
	got := cli(t, "", "show", "billing", "--address", s.admin)
	got.want(t, 0, "Its parameters:\n  Your instance name  emea\n  Your passphrase     a secret\n  region              us\n",
		"The connector sets by itself:\n  audience  https://emea.example\n  asked     computed by the flow f\n")
	for _, hidden := range []string{"my-pass", "hidden-value"} {
		if strings.Contains(got.stdout, hidden) {
			t.Errorf("%s is shown", hidden)
		}
	}
}

// The connectors of a file are shown as those of a running sidecar.
func TestConnectorsOfAFile(t *testing.T) {
	s := newServices(t, nil)
	flags := configFile(t, s, full, "parameter pass p")
	connectors := func(args ...string) result {
		return cli(t, "", append(append([]string{"connectors"}, args...), flags...)...)
	}
	connectors().want(t, 0, "NAME      LABEL     CONNECTIONS\nacme_crm  Acme CRM  billing\n")
	connectors("acme_crm").want(t, 0, "Connections     billing", "Your passphrase     password", "https://{param.instance}.example")
	connectors("acme").want(t, exitUsage, `there is no connector "acme"`)
	cli(t, "", "connectors", "--config", "/none/Caddyfile").want(t, exitUsage, "/none/Caddyfile")

	s.run(t, crm(s, full, "parameter pass p"))
	for _, args := range [][]string{{"--json"}, {"acme_crm", "--json"}, {}, {"acme_crm"}} {
		running := cli(t, "", append(append([]string{"connectors"}, args...), "--address", s.admin)...)
		running.want(t, 0)
		offline := connectors(args...)
		want := strings.ReplaceAll(running.stdout, "--address "+s.admin, strings.Join(flags, " "))
		if offline.stdout != want || offline.status != 0 {
			t.Errorf("%s: got\n%s\nwant\n%s", args, offline.stdout, want)
		}
	}
}

func TestPingNotWorking(t *testing.T) {
	status := http.StatusForbidden
	s := newServices(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="contacts.read"`)
		w.WriteHeader(status)
		_, _ = w.Write([]byte("not\x1b[31m red\n"))
	})
	_, ask := sidecarWithCLI(t, s, "ping GET /me 200")
	got := ask("ping", "c")
	got.want(t, 1, "c does not work: the API refuses the request (403 Forbidden): it wants the scope contacts.read", "The API's response:\nnot\uFFFD[31m red\n")
	if strings.Contains(got.stdout, "\x1b") {
		t.Error("the API steers the terminal")
	}
	ask("ping", "c", "--json").want(t, 1, `"working": false`, `"status_code": 403`)
	s.api.Close()
	ask("ping", "c").want(t, 1, "the API cannot be reached: connection refused")
}

func TestAsJSON(t *testing.T) {
	s := newServices(t, nil)
	_, ask := sidecarWithCLI(t, s, "")
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
	s := newServices(t, nil)
	caddyfile := crm(s, `additional_scopes
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
	s.run(t, caddyfile)
	address := s.admin
	cli(t, "", "connectors", "--address", address).want(t, 0, "acme_crm  Acme CRM  billing")
	got := cli(t, "", "connectors", "acme_crm", "--address", address)
	got.want(t, 0, "Client secret       password", "Your instance name  text", "region              dropdown  eu (Europe); us, the default",
		"Audience  https://{param.instance}.example", "key       a secret", "computed  computed by the flow f",
		"choose among these scopes, and may add others", "  contacts.read    always  Read contacts\n  contacts.write\n", "caddy http-helper new acme_crm")
	if strings.Contains(got.stdout, "password-value") {
		t.Error("a secret is shown")
	}
}
