package command_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// full is a connector that asks every kind of question.
const full = `additional_scopes
			scopes_help https://help.example/scopes
			parameter pass password {
				label "Your passphrase"
			}
			parameter region dropdown {
				option eu "Europe"
				option us
				default eu
			}
			config_value audience text {
				value https://{param.instance}.example
			}
			config_value hidden text {
				hidden
				value hidden-value
			}
			config_value asked text {
				flow f
			}
			flow f request GET http://127.0.0.1:1/{param.instance} {
				pointer /x
			}
			token_request_header X-Key header-value
			token_request_param audience {config.audience}
			token_request_param region {param.region}
			token_request_param pass {param.pass}
			token_request_param hidden {config.hidden}
			token_request_param asked {config.asked}`

// configFile writes a Caddyfile whose connector is like that of crm, and returns the flag for it.
func configFile(t *testing.T, s *services, connector, connection string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "Caddyfile")
	text := strings.ReplaceAll(crm(s, connector, connection), "SITE", ":8080")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--config", file, "--adapter", "caddyfile"}
}

func newConnection(t *testing.T, answers string, flags []string) result {
	t.Helper()
	return cli(t, answers, append([]string{"new", "acme_crm"}, flags...)...)
}

func TestNewFromAnswers(t *testing.T) {
	s := newServices(t, nil)
	flags := configFile(t, s, full, "parameter pass p")
	answers := "my id\nmy-secret\nemea\nmy-pass\nus\ncontacts.delete\nreports.read  reports.export\nsales\nno\n"
	got := newConnection(t, answers, flags)
	got.want(t, 0)
	want := `# Secrets to store:
#   environment variable SALES_CLIENT_SECRET: Client secret
#   environment variable SALES_PASS: Your passphrase
connection sales acme_crm {
	client_id "my id"
	client_secret {env.SALES_CLIENT_SECRET}
	parameter instance emea
	parameter pass {env.SALES_PASS}
	parameter region us
	scopes contacts.read contacts.delete
	additional_scopes "reports.read  reports.export"
}
`
	if got.stdout != want {
		t.Errorf("got:\n%s", got.stdout)
	}
	got.want(t, 0, "POST "+s.idp.URL+"/token\n", "Authorization: Basic with my id and (the client secret)", "X-Key: the connector's",
		"audience = https://emea.example", "region = us", "pass = {param.pass}", "hidden = {config.hidden}", "asked = {config.asked}",
		"scope = contacts.read contacts.delete reports.read reports.export")
	for _, hidden := range []string{"my-secret", "my-pass", "hidden-value", "header-value", "env-value", "query-secret"} {
		if strings.Contains(got.stdout+got.stderr, hidden) {
			t.Errorf("%s is shown", hidden)
		}
	}
	if s.requests.Load() != 0 {
		t.Error("a token request was made that nobody wanted")
	}

	got = newConnection(t, answers, append(flags, "--secret-files", "/run/secrets"))
	got.want(t, 0, "#   file /run/secrets/sales_client_secret: Client secret", "client_secret {file./run/secrets/sales_client_secret}", "parameter pass {file./run/secrets/sales_pass}")
}

// What is printed is a connection that loads, once the secrets are stored.
func TestNewBlockLoads(t *testing.T) {
	s := newServices(t, nil)
	dir := t.TempDir()
	flags := append(configFile(t, s, "additional_scopes\nparameter pass password", "parameter pass p"), "--secret-files", dir)
	got := newConnection(t, "id\n\nemea\n\ncontacts.write\na b\nsales\n", flags)
	got.want(t, 0)
	for _, name := range []string{"sales_client_secret", "sales_pass"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("stored"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	caddyfile := crm(s, "additional_scopes\nparameter pass password", "parameter pass p\n}\n"+strings.TrimSuffix(got.stdout, "}\n"))
	s.run(t, caddyfile)
	cli(t, "", "show", "sales", "--address", s.admin).want(t, 0, "Connector         acme_crm")
}

func TestNewDefaults(t *testing.T) {
	s := newServices(t, nil)
	got := newConnection(t, "id\n\nemea\n\n\n\n\n", configFile(t, s, full, "parameter pass p"))
	got.want(t, 0, "connection acme_crm acme_crm {", "parameter region eu", "\tscopes contacts.read\n}")
	if strings.Contains(got.stdout, "additional_scopes") {
		t.Error("additional scopes out of nothing")
	}
}

func TestNewWrongAnswers(t *testing.T) {
	s := newServices(t, nil)
	flags := configFile(t, s, full, "parameter pass p")
	for _, test := range []struct{ answers, want string }{
		{"", "Client ID: a value is needed"},
		{"id\n", "Your instance name: a value is needed"},
		{"i{x}d\n", "Client ID: unknown placeholder"},
		{"i{$HOME}d\n", "Client ID: the value contains {$, which begins a variable that Caddy replaces"},
		{"id\ns\nemea\np\neu\n\na{$HOME}\nsales\nno\n", "additional_scopes: the value contains {$"},
		{"id\nmy-\x01secret\n", "Client secret: there is a control character"},
		{"id\ns\nemea\np\nasia\n", "region: must be one of eu, us"},
		{"id\ns\nemea\np\neu\ncontacts.none\n", "Scopes: must be one of contacts.write, contacts.delete"},
		{"id\ns\nemea\np\neu\n\n" + strings.Repeat("é", 501) + "\n", "501 characters are more than the 500"},
		{"id\ns\nemea\np\neu\n\na\"b\n", "is not a scope"},
		{"id\ns\nemea\np\neu\n\n\nbilling\n", "there is a connection of this name already"},
		{"id\ns\nemea\np\neu\n\n\na b\n", "a name consists of"},
		{"id\ns\nemea\np\neu\n\n\nsales\nmaybe\n", "must be one of yes, no"},
		{"id\ns\nemea\np\neu\n\n\nsales\nno\nmore\n", "more answers than questions"},
		{"id\n\nemea\np\neu\n\n\nsales\nyes\n", "a secret was left empty"},
		{"id\ns\nemea\np\neu\ndefault contacts.write\n", "Scopes: must be one of contacts.write, contacts.delete"},
		{"id\ns\nemea\np\neu\ndefault\na b\n", "Additional scopes: the default scopes have none"},
	} {
		got := newConnection(t, test.answers, flags)
		got.want(t, exitUsage, test.want)
		if strings.Contains(got.stderr, "my-") {
			t.Errorf("a secret is shown: %s", got.stderr)
		}
	}
	if s.requests.Load() != 0 {
		t.Error("a token request was made")
	}
}

// An answer may not move the token or the secret to another host (rule 7).
func TestNewAnswersThatDoNotFit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "Caddyfile")
	text := "{\n\thttp_helper {\n\t\tconnector c {\n\t\t\tbase_url https://{param.host}.example\n\t\t\ttoken_url https://{param.host}.example/token\n\t\t\tparameter host text\n\t\t}\n\t}\n}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cli(t, "id\ns\nevil.test/\nname\n", "new", "c", "--config", file, "--adapter", "caddyfile").want(t, exitUsage, "base_url: {param.host}", "token_url: {param.host}")
	cli(t, "id\ns\ngood\nname\n", "new", "c", "--config", file, "--adapter", "caddyfile").want(t, 0, "POST https://good.example/token")
}

func TestNewTries(t *testing.T) {
	s := newServices(t, nil)
	flags := configFile(t, s, "", "")
	s.respond(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"the-token","expires_in":3600,"scope":"contacts.read"}`))
	})
	const answers = "id\nmy-secret\nemea\ncontacts.write\nsales\ny\n"
	got := newConnection(t, answers, flags)
	got.want(t, 0, "It works: there is a token.\nIt lives 1 hour.", "Scopes granted: contacts.read", "Scopes not granted: contacts.write", "connection sales acme_crm {")
	if n := s.requests.Load(); n != 1 {
		t.Errorf("%d token requests", n)
	}
	s.respond(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"the-token","expires_in":3600}`))
	})
	newConnection(t, answers, flags).want(t, 0, "Scopes granted: not confirmed by the server")
	if strings.Contains(got.stdout+got.stderr, "the-token") || strings.Contains(got.stdout+got.stderr, "my-secret") {
		t.Error("a secret is shown")
	}

	s.respond(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"my-secret"}`))
	})
	got = newConnection(t, answers, flags)
	got.want(t, 1, "It does not work: ", "invalid_client", "connection sales acme_crm {")
	if strings.Contains(got.stdout+got.stderr, "my-secret") {
		t.Error("a secret is shown")
	}
}

// The ping follows the token request, with the token.
func TestNewTriesThePing(t *testing.T) {
	status := http.StatusOK
	s := newServices(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer a-token" || r.URL.Path != "/emea/api/me" {
			t.Errorf("the ping is %s %v", r.URL, r.Header)
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte("about my-secret"))
	})
	flags := configFile(t, s, "ping GET /me 200", "")
	const answers = "id\nmy-secret\nemea\ncontacts.write\nsales\ny\n"
	newConnection(t, answers, flags).want(t, 0, "It works: there is a token.", "The ping works: the API responded with 200 OK, as expected.", "connection sales acme_crm {")

	status = http.StatusForbidden
	got := newConnection(t, answers, flags)
	got.want(t, 1, "There is a token, but it does not work.", "The ping does not work: ", "403", "about ", "connection sales acme_crm {")
	if strings.Contains(got.stdout+got.stderr, "my-secret") || strings.Contains(got.stderr, "It works") {
		t.Errorf("%s%s", got.stdout, got.stderr)
	}
}

// A secret is sent as it was typed, whatever is in it, and is nowhere in the environment.
func TestNewTriesTheSecretItself(t *testing.T) {
	const odd = `a{env.HOME}\{b}\\{x}{`
	s := newServices(t, nil)
	s.respond(func(w http.ResponseWriter, r *http.Request) {
		if secret := r.PostFormValue("client_secret"); secret != odd {
			t.Errorf("the secret is %q", secret)
		}
		for _, variable := range os.Environ() {
			if strings.Contains(variable, odd) {
				t.Errorf("the secret is in the environment: %s", variable)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"the-token","expires_in":3600}`))
	})
	newConnection(t, "id\n"+odd+"\nemea\n\nsales\ny\n", configFile(t, s, "auth_method client_secret_post", "")).want(t, 0, "It works")
}

// Without choosing, a connection has all of the connector's scopes.
func TestNewDefaultScopes(t *testing.T) {
	s := newServices(t, nil)
	got := newConnection(t, "id\n\nemea\n\n\ndefault\n\n\n\n", configFile(t, s, full, "parameter pass p"))
	got.want(t, 0, "scope = contacts.read contacts.write contacts.delete\n")
	if strings.Contains(got.stdout, "scopes") {
		t.Errorf("scopes are chosen:\n%s", got.stdout)
	}
	// A scope of this name is that scope.
	got = newConnection(t, "id\n\nemea\ndefault\n\n", configFile(t, s, "scope default", ""))
	got.want(t, 0, "\tscopes contacts.read default\n")
}

// The connection and its secrets are saved, and the sidecar that imports them works.
func TestNewSaves(t *testing.T) {
	s := newServices(t, nil)
	const connector = "parameter pass password {\nlabel Passphrase\n}\ntoken_request_param pass {param.pass}"
	flags := configFile(t, s, connector, "parameter pass p")
	dir := filepath.Join(socketDir(t), "connections")
	answers := "id\nmy-secret\nemea\nmy-pass\n\nsales\nno\n"
	got := newConnection(t, answers, append(flags, "--save", dir))
	secrets := filepath.Join(dir, "secrets", "sales")
	got.want(t, 0, "connection sales acme_crm {", "client_secret {file."+secrets+"/client_secret}",
		"Written: "+secrets+"/client_secret\nWritten: "+secrets+"/pass\nWritten: "+dir+"/sales.caddyfile\n",
		"inside the global option http_helper:\n\n  import "+dir+"/*.caddyfile\n", "\n  caddy reload --config "+flags[1]+" --adapter caddyfile\n")
	if strings.Contains(got.stdout+got.stderr, "my-secret") || strings.Contains(got.stdout+got.stderr, "my-pass") {
		t.Error("a secret is shown")
	}
	if block, err := os.ReadFile(filepath.Join(dir, "sales.caddyfile")); string(block) != got.stdout || err != nil {
		t.Errorf("%s %v", block, err)
	}
	config := strings.Replace(crm(s, connector, "parameter pass p"), "connection billing", "import "+dir+"/*.caddyfile\n\t\tconnection billing", 1)
	s.respond(func(w http.ResponseWriter, r *http.Request) {
		if id, secret, _ := r.BasicAuth(); id != "id" || secret != "my-secret" || r.PostFormValue("pass") != "my-pass" {
			t.Errorf("the token request has %s, %s and %s", id, secret, r.PostForm)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"access_token":"the-token","expires_in":3600}`))
	})
	s.run(t, config)
	cli(t, "", "refresh", "sales", "--address", s.admin).want(t, 0)

	newConnection(t, answers, append(flags, "--save", dir)).want(t, exitUsage, "Name of the connection: there is a file of this name already")
	t.Chdir(filepath.Dir(dir))
	newConnection(t, strings.Replace(answers, "sales", "other", 1), append(flags, "--save", filepath.Base(dir))).want(t, 0, "Written: "+dir+"/other.caddyfile")
	newConnection(t, answers, append(flags, "--save", dir, "--secret-files", "/run/secrets")).want(t, exitUsage, "exclude each other")
	newConnection(t, answers, append(flags, "--save", "a}b")).want(t, exitUsage, "--save: the path has braces")
}

func TestNewFromRunningCaddy(t *testing.T) {
	s := newServices(t, nil)
	caddyfile := crm(s, "", "")
	s.run(t, caddyfile)
	address := s.admin
	got := newConnection(t, "id\ns\nemea\n\n\n", []string{"--address", address})
	got.want(t, 0, "connection acme_crm acme_crm {", "POST "+s.idp.URL+"/token")
	if s.requests.Load() != 0 {
		t.Error("a token request was made")
	}
	cli(t, "", "new", "other", "--address", address).want(t, exitUsage, `there is no connector "other"; there is acme_crm`)
}
