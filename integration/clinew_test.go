package integration

import (
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// acme is a connector that asks every kind of question.
const acme = `
	connector acme {
		label "Acme CRM"
		base_url $API/{param.instance}
		token_url $TOKENS
		client_secret_label "API password"
		scope contacts.read required {
			description "Read contacts"
		}
		scope contacts.write
		scope contacts.delete {
			description "Delete contacts, also those of other people, for good and without asking anybody again"
		}
		customize_scopes
		additional_scopes
		scopes_help https://help.acme.example/scopes
		parameter instance text {
			label "Your instance name"
		}
		parameter region dropdown {
			label "Region"
			option eu "Europe"
			option us "United States"
			default eu
		}
		parameter pass password {
			label "Passphrase"
		}
		token_request_param region {param.region}
		api_header X-Pass {param.pass}
		ping GET /me 200
	}`

// office is where a user writes a connection: a sidecar that knows the connector, and a real
// authorization server.
type office struct {
	*world
	server *harness.OIDCProvider
	user   *harness.User
}

func newOffice(t *testing.T) *office {
	t.Helper()
	server := harness.StartOIDCProvider(t, nil, harness.OIDCConfig{
		Scopes:  []string{"contacts.read", "contacts.write", "reports.read"},
		Clients: []map[string]any{{"client_id": "my app", "client_secret": secret, "scope": "contacts.read contacts.write reports.read"}},
	})
	w := &world{Sidecar: harness.New(t), tokens: server.TokenEndpoint, api: harness.NewAPI(t, nil, nil)}
	w.Run(t, w.expand(options{}, harness.Config{Options: "http_helper {\n" + acme + "\n}"}))
	return &office{world: w, server: server, user: harness.NewUser(t)}
}

// command is `new acme` with the connectors of the sidecar.
func (o *office) command(t *testing.T) *exec.Cmd {
	t.Helper()
	return o.user.Command(t, "new", "acme", "--address", "unix/"+o.AdminSocket())
}

// form is `new` on a terminal on which it draws.
type form struct{ *harness.Terminal }

func (o *office) openForm(t *testing.T, columns, rows uint16) form {
	t.Helper()
	return form{harness.OpenTerminal(t, o.command(t), columns, rows)}
}

// answer waits for a question's turn and presses keys.
func (f form) answer(t *testing.T, title string, keys ...string) {
	t.Helper()
	f.WaitScreen(t, "┃ "+title)
	f.Type(t, keys...)
}

const tryIt = "Make this request once now, to try it?"

// answerAll answers all questions up to whether to try the connection.
func (f form) answerAll(t *testing.T, secret string) {
	t.Helper()
	f.answer(t, "Client ID", "my app", harness.Enter)
	f.answer(t, "API password", secret, harness.Enter)
	f.answer(t, "Your instance name", "emea", harness.Enter)
	f.answer(t, "Region", harness.Down, harness.Enter)
	f.answer(t, "Passphrase", "open sesame", harness.Enter)
	f.answer(t, "Scopes", " ", harness.Enter)
	f.answer(t, "Additional scopes", "reports.read")
	f.WaitScreen(t, "12 of 500 characters")
	f.Type(t, harness.Enter)
	f.answer(t, "Name of the connection", harness.Enter)
	f.WaitScreen(t, "┃ "+tryIt)
}

// wantGivenUp checks that nothing has come of a form.
func (f form) wantGivenUp(t *testing.T) {
	t.Helper()
	equal(t, "exit status", f.Ended(t), 1)
	if !strings.Contains(f.Written(), "Error: given up; nothing was made") || f.Logs() != "" || !f.Restored(t) {
		t.Errorf("the terminal is restored: %t, printed: %q, screen:\n%s", f.Restored(t), f.Logs(), f.Screen())
	}
}

const wantBlock = `# Secrets to store:
#   environment variable ACME_CLIENT_SECRET: API password
#   environment variable ACME_PASS: Passphrase
connection acme acme {
	client_id "my app"
	client_secret {env.ACME_CLIENT_SECRET}
	parameter instance emea
	parameter region us
	parameter pass {env.ACME_PASS}
	scopes contacts.read contacts.write
	additional_scopes reports.read
}
`

func TestNewOnATerminal(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	f := o.openForm(t, 120, 40)
	f.WaitScreen(t, "Client ID", "API password", "Nothing is shown.", "Your instance name", "Region", "Europe", "United States", "Passphrase")
	f.answer(t, "Client ID", harness.Enter)
	f.WaitScreen(t, "a value is needed")
	f.answer(t, "Client ID", "my app", harness.Enter)
	f.answer(t, "API password", secret, harness.Enter)
	f.answer(t, "Your instance name", "emea", harness.Enter)
	f.answer(t, "Region", harness.Down, harness.Enter)
	f.answer(t, "Passphrase", "open sesame", harness.Enter)

	// What is required is fixed: it cannot be ticked off.
	f.WaitScreen(t, "┃ ✓ contacts.read: Read contacts (always requested)", "• contacts.write", "• contacts.delete: Delete contacts, also")
	if strings.Contains(f.Screen(), "• contacts.read") {
		t.Error("the required scope can be ticked")
	}
	f.answer(t, "Scopes", " ")
	f.WaitScreen(t, "✓ contacts.write")
	f.Type(t, harness.Enter)

	f.answer(t, "Additional scopes", harness.Pasted(strings.Repeat("x", 501)))
	f.WaitScreen(t, "https://help.acme.example/scopes", "501 of 500 characters")
	f.Type(t, harness.Enter)
	f.WaitScreen(t, "501 characters are more than the 500 that are allowed")
	f.Type(t, harness.CtrlU, "reports.read")
	f.WaitScreen(t, "12 of 500 characters")
	f.Type(t, harness.Enter)

	f.WaitScreen(t, "> acme")
	f.answer(t, "Name of the connection", harness.Enter)
	f.WaitScreen(t, "The token request would be:", "POST "+o.server.URL, "Authorization: Basic with my app and (the client secret)",
		"grant_type = client_credentials", "region = us", "scope = contacts.read contacts.write reports.read")
	equal(t, "token requests before anybody wanted one", o.server.Count(), 0)
	f.answer(t, tryIt, "y")
	equal(t, "exit status", f.Ended(t), 0)
	f.WaitScreen(t, "It works: there is a token.", "It lives 1h0m0s.", "Scopes granted: contacts.read contacts.write reports.read")
	equal(t, "restored", f.Restored(t), true)
	equal(t, "printed", f.Logs(), wantBlock)
	equal(t, "token requests", o.server.Count(), 1)
	for _, hidden := range []string{secret, "open sesame"} {
		if strings.Contains(f.Written()+f.Logs(), hidden) {
			t.Errorf("%s is shown", hidden)
		}
	}
	o.wantWorks(t, f.Logs())
}

var toStore = regexp.MustCompile(`(?m)^#   environment variable (\w+): (.*)$`)

// wantWorks puts a connection's block into a Caddyfile and its secrets where it says, and makes a
// request.
func (o *office) wantWorks(t *testing.T, block string) {
	t.Helper()
	secrets := map[string]string{"API password": secret, "Passphrase": "open sesame"}
	var env []string
	for _, match := range toStore.FindAllStringSubmatch(block, -1) {
		env = append(env, match[1]+"="+secrets[match[2]])
	}
	equal(t, "secrets to store", len(env), len(secrets))
	w := &world{Sidecar: harness.New(t), tokens: o.tokens, api: o.api}
	w.Run(t, w.expand(options{env: env}, harness.Config{Options: "http_helper {\n" + acme + "\n" + block + "\n}", Site: "http_helper acme"}))
	token := w.wantGranted(t)
	got := o.api.Last(t)
	equal(t, "request", got.RequestURI, "/emea/hello")
	equal(t, "X-Pass", got.Header.Get("X-Pass"), "open sesame")
	equal[any](t, "scope", o.server.Introspect(t, "my app", secret, token)["scope"], "contacts.read contacts.write reports.read")
}

// TestNewShowsNothingOfASecret types secrets of different length: the screen is
// the same for all of them, while they are typed and afterwards.
func TestNewShowsNothingOfASecret(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var seen []string
	for _, typed := range []string{"", "abc", strings.Repeat("a long secret ", 3)} {
		f := o.openForm(t, 120, 40)
		f.answer(t, "Client ID", "my app", harness.Enter)
		f.answer(t, "API password", typed, harness.Enter)
		f.answer(t, "Your instance name", harness.ShiftTab)
		f.WaitScreen(t, "┃ API password")
		seen = append(seen, f.Screen())
		f.Type(t, harness.CtrlC)
		f.wantGivenUp(t)
		if typed != "" && strings.Contains(f.Written(), typed) {
			t.Errorf("%q is written", typed)
		}
	}
	for _, screen := range seen[1:] {
		equal(t, "screen", screen, seen[0])
	}
}

func TestNewTriedInVain(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	f := o.openForm(t, 120, 40)
	f.answerAll(t, "wrong secret")
	f.Type(t, "y")
	equal(t, "exit status", f.Ended(t), 1)
	f.WaitScreen(t, "It does not work: the token endpoint refused the request (status 401): check client_id, its", "(invalid_client)")
	equal(t, "printed", f.Logs(), wantBlock)
	equal(t, "restored", f.Restored(t), true)
}

// TestNewIsGivenUp presses Ctrl-C at each kind of question.
func TestNewIsGivenUp(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for name, until := range map[string]func(t *testing.T, f form){
		"text": func(t *testing.T, f form) { f.answer(t, "Client ID", "my") },
		"secret": func(t *testing.T, f form) {
			f.answer(t, "Client ID", "my app", harness.Enter)
			f.answer(t, "API password", "abc")
		},
		"confirm": func(t *testing.T, f form) { f.answerAll(t, secret) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := o.openForm(t, 120, 40)
			until(t, f)
			f.Type(t, harness.CtrlC)
			f.wantGivenUp(t)
		})
	}
}

// TestNewIsEnded has a signal end the command, as when the terminal's window is closed.
func TestNewIsEnded(t *testing.T) {
	t.Parallel()
	f := newOffice(t).openForm(t, 120, 40)
	f.answer(t, "Client ID", "my app")
	f.Signal(syscall.SIGTERM)
	f.wantGivenUp(t)
}

// TestNewTriedTooLong presses Ctrl-C because the token endpoint does not respond. The
// answers are not lost.
func TestNewTriedTooLong(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	never := make(chan struct{})
	defer close(never)
	o.server.RespondWith(harness.Blocked(never, harness.Status(http.StatusOK)))
	f := o.openForm(t, 120, 40)
	f.answerAll(t, secret)
	f.Type(t, "y")
	o.server.Await(t, 1)
	f.Type(t, harness.CtrlC)
	equal(t, "exit status", f.Ended(t), 1)
	f.WaitScreen(t, "Not tried to the end.")
	equal(t, "printed", f.Logs(), wantBlock)
}

// TestNewOnASmallTerminal has every question fit on the screen of a phone.
func TestNewOnASmallTerminal(t *testing.T) {
	t.Parallel()
	f := newOffice(t).openForm(t, 44, 13)
	f.answerAll(t, secret)
	f.Type(t, "n")
	equal(t, "exit status", f.Ended(t), 0)
	equal(t, "printed", f.Logs(), wantBlock)
	if !strings.Contains(f.Written(), "contacts.delete: Delete contacts, a…") {
		t.Error("a long option is not cut")
	}
}
