package integration

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
		config_value audience text {
			label "Audience"
			value https://{param.instance}.acme.example
		}
		config_value shard text {
			label "Shard"
			hidden
			value eu-1
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

// dialogue is `new` on a terminal.
type dialogue struct{ *harness.Terminal }

func (o *office) openDialogue(t *testing.T, variables ...string) dialogue {
	t.Helper()
	cmd := o.command(t)
	cmd.Env = append(cmd.Env, variables...)
	return dialogue{harness.OpenTerminal(t, cmd, 120, 60)}
}

// answer waits until the last thing on the screen is the question's prompt, and types a line.
func (d dialogue) answer(t *testing.T, prompt, line string) {
	t.Helper()
	d.WaitScreenEnd(t, prompt)
	d.Type(t, line, harness.Enter)
}

const (
	nothingShown = "Nothing is shown. Leave it empty to store it later, without trying it now.\nAnswer:"
	whichScopes  = "Permissions\nA scope is missing? See https://help.acme.example/scopes\n1. Use default scopes: contacts.read contacts.write contacts.delete\n2. Customize scopes\nNumber [1]:"
	tryIt        = "Make this request once now, to try it?\nThe connector's ping follows, with the token.\nyes or no [no]:"
)

// answerFields answers the questions up to the scopes.
func (d dialogue) answerFields(t *testing.T, secret string) {
	t.Helper()
	d.answer(t, "Client ID\nAnswer:", "my app")
	d.answer(t, "API password\n"+nothingShown, secret)
	d.answer(t, "Your instance name\nAnswer:", "emea")
	d.answer(t, "Region\n1. Europe\n2. United States\nNumber [1]:", "2")
	d.answer(t, "Passphrase\n"+nothingShown, "open sesame")
}

// answerAll answers all questions up to whether to try the connection.
func (d dialogue) answerAll(t *testing.T, secret string) {
	t.Helper()
	d.answerFields(t, secret)
	d.answer(t, whichScopes, "2")
	d.answer(t, "Numbers, separated by spaces:", "1")
	d.answer(t, "At most 500 characters:", "reports.read")
	d.answer(t, "Answer [acme]:", "")
	d.WaitScreenEnd(t, tryIt)
}

// wantGivenUp checks that nothing has come of a dialogue.
func (d dialogue) wantGivenUp(t *testing.T) {
	t.Helper()
	equal(t, "exit status", d.Ended(t), 1)
	if !strings.Contains(d.Written(), "Error: given up; nothing was made") || d.Logs() != "" || !d.Restored(t) {
		t.Errorf("the terminal is restored: %t, printed: %q, screen:\n%s", d.Restored(t), d.Logs(), d.Screen())
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
	for name, variable := range map[string]string{"terminal": "TERM=xterm-256color", "simple terminal": "TERM=dumb"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := o.server.Count()
			d := o.openDialogue(t, variable)
			d.WaitScreen(t, "A connection to Acme CRM\nThe connector sets by itself:\n  Audience  https://{param.instance}.acme.example\n\n")
			d.answer(t, "Client ID\nAnswer:", "")
			d.answer(t, "Not so: a value is needed\nAnswer:", "my app")
			d.answer(t, "API password\n"+nothingShown, "wrong"+harness.CtrlU+secret+"éx\b\x7f")
			d.answer(t, "Your instance name\nAnswer:", "emea")
			d.answer(t, "Region\n1. Europe\n2. United States\nNumber [1]:", "asia")
			d.answer(t, "Not so: the numbers are 1 to 2\nNumber [1]:", "2")
			d.answer(t, "Passphrase\n"+nothingShown, "open sesame")
			d.answer(t, whichScopes, "2")
			d.answer(t, "✓ contacts.read: Read contacts (always requested)\n1. contacts.write\n"+
				"2. contacts.delete: Delete contacts, also those of other people, for good and without asking anybody again\nNumbers, separated by spaces:", "1")
			d.answer(t, "See https://help.acme.example/scopes\nAt most 500 characters:", "reports.read "+strings.Repeat("x", 490))
			d.answer(t, "Not so: 503 characters are more than the 500 that are allowed\nAt most 500 characters:", "reports.read")
			d.answer(t, "Name of the connection\nSites use it: http_helper <name>\nAnswer [acme]:", "")
			d.WaitScreen(t, "The token request would be:", "POST "+o.server.URL, "Authorization: Basic with my app and (the client secret)",
				"grant_type = client_credentials", "region = us", "scope = contacts.read contacts.write reports.read")
			d.answer(t, tryIt, "y")
			equal(t, "exit status", d.Ended(t), 0)
			d.WaitScreen(t, "It works: there is a token.", "It lives 1 hour.", "Scopes granted: contacts.read contacts.write reports.read", "The ping works: the API responded with 200 OK, as expected.")
			equal(t, "printed", d.Logs(), wantBlock)
			for _, hidden := range []string{secret, "open sesame", "eu-1", "\x1b"} {
				if strings.Contains(d.Written()+d.Logs(), hidden) {
					t.Errorf("%q is shown", hidden)
				}
			}
			equal(t, "restored", d.Restored(t), true)
			if o.server.Count() == before {
				t.Error("no token request was made")
			}
			o.wantWorks(t, d.Logs())
		})
	}
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

// TestNewWithDefaultScopes has nothing chosen, and the server grants less than was requested.
func TestNewWithDefaultScopes(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.server.RespondWith(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"a-token","token_type":"Bearer","expires_in":3600,"scope":"contacts.read"}`)
	}))
	d := o.openDialogue(t)
	d.answerFields(t, secret)
	d.answer(t, whichScopes, "")
	d.answer(t, "Answer [acme]:", "")
	d.WaitScreen(t, "scope = contacts.read contacts.write contacts.delete")
	d.answer(t, tryIt, "y")
	equal(t, "exit status", d.Ended(t), 0)
	d.WaitScreen(t, "Scopes granted: contacts.read\nScopes not granted: contacts.write contacts.delete\n")
	if strings.Contains(d.Logs(), "scopes") {
		t.Errorf("scopes are chosen:\n%s", d.Logs())
	}
}

// TestNewShowsNothingOfASecret types secrets of different length: what is written is the same for all of
// them, while they are typed and afterwards.
func TestNewShowsNothingOfASecret(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	var seen []string
	for _, typed := range []string{"", "abc", strings.Repeat("a long secret ", 3)} {
		d := o.openDialogue(t)
		d.answer(t, "Client ID\nAnswer:", "my app")
		d.answer(t, "API password\n"+nothingShown, typed)
		d.WaitScreenEnd(t, "Your instance name\nAnswer:")
		seen = append(seen, d.Written())
		d.Type(t, harness.CtrlC)
		d.wantGivenUp(t)
	}
	for _, written := range seen[1:] {
		equal(t, "written", written, seen[0])
	}
}

func TestNewTriedInVain(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := o.openDialogue(t)
	d.answerAll(t, "wrong secret")
	d.Type(t, "y", harness.Enter)
	d.answer(t, "Type the secrets again, and try once more?\nyes or no [no]:", "y")
	d.answer(t, "API password\n"+nothingShown, "wrong again")
	d.answer(t, "Passphrase\n"+nothingShown, "open sesame")
	d.answer(t, "Type the secrets again, and try once more?\nyes or no [no]:", "")
	equal(t, "exit status", d.Ended(t), 1)
	d.WaitScreen(t, "It does not work: the token endpoint refused the request (status 401): check client_id, its", "(invalid_client)")
	equal(t, "printed", d.Logs(), wantBlock)
	equal(t, "restored", d.Restored(t), true)
}

// TestNewTypesASecretAgain has a person mistype the secret, and do no more than that again.
func TestNewTypesASecretAgain(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := o.openDialogue(t)
	d.answerAll(t, "wrong secret")
	d.Type(t, "y", harness.Enter)
	d.answer(t, "Type the secrets again, and try once more?\nyes or no [no]:", "y")
	d.answer(t, "API password\n"+nothingShown, secret)
	d.answer(t, "Passphrase\n"+nothingShown, "open sesame")
	equal(t, "exit status", d.Ended(t), 0)
	d.WaitScreen(t, "It works: there is a token.")
	equal(t, "printed", d.Logs(), wantBlock)
}

// TestNewPingsInVain has a token that the API does not accept.
func TestNewPingsInVain(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.api.RespondWith(harness.Status(http.StatusForbidden))
	d := o.openDialogue(t)
	d.answerAll(t, secret)
	d.Type(t, "y", harness.Enter)
	equal(t, "exit status", d.Ended(t), 1)
	d.WaitScreen(t, "There is a token, but it does not work.", "The ping does not work: ", "403")
	equal(t, "printed", d.Logs(), wantBlock)
}

// TestNewIsGivenUp ends a dialogue at each kind of question, also while the terminal shows nothing.
func TestNewIsGivenUp(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for key, end := range map[string]func(d dialogue){
		"Ctrl-C":  func(d dialogue) { d.Type(t, harness.CtrlC) },
		"Ctrl-D":  func(d dialogue) { d.Type(t, harness.CtrlD) },
		"SIGTERM": func(d dialogue) { d.Signal(syscall.SIGTERM) }, // as when the terminal's window is closed
	} {
		t.Run(key+" at a text", func(t *testing.T) {
			t.Parallel()
			d := o.openDialogue(t)
			d.WaitScreenEnd(t, "Client ID\nAnswer:")
			end(d)
			d.wantGivenUp(t)
		})
		t.Run(key+" at a secret", func(t *testing.T) {
			t.Parallel()
			d := o.openDialogue(t)
			d.answer(t, "Client ID\nAnswer:", "my app")
			d.WaitScreenEnd(t, "API password\n"+nothingShown)
			d.WaitHidden(t)
			switch key {
			case "Ctrl-C":
				d.Type(t, "abc")
			case "Ctrl-D": // has no effect in a line that is not empty
				d.Type(t, "abc", harness.CtrlU)
			case "SIGTERM": // may overtake what is typed
			}
			end(d)
			d.wantGivenUp(t)
			if strings.Contains(d.Written(), "abc") {
				t.Error("the secret is written")
			}
		})
	}
}

// TestNewTriedTooLong presses Ctrl-C because the token endpoint does not respond. The
// answers are not lost.
func TestNewTriedTooLong(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	never := make(chan struct{})
	defer close(never)
	o.server.RespondWith(harness.Blocked(never, harness.Status(http.StatusOK)))
	d := o.openDialogue(t)
	d.answerAll(t, secret)
	d.Type(t, "y", harness.Enter)
	o.server.Await(t, 1)
	d.Type(t, harness.CtrlC)
	equal(t, "exit status", d.Ended(t), 1)
	d.WaitScreen(t, "Not tried to the end.")
	equal(t, "printed", d.Logs(), wantBlock)
}

// TestNewSaves writes the connection and its secrets as files, and a sidecar loads them.
func TestNewSaves(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	dir := filepath.Join(t.TempDir(), "connections")
	cmd := o.command(t)
	cmd.Args = append(cmd.Args, "--save", dir)
	d := dialogue{harness.OpenTerminal(t, cmd, 200, 60)}
	d.answerAll(t, secret)
	d.Type(t, "n", harness.Enter)
	equal(t, "exit status", d.Ended(t), 0)
	for path, mode := range map[string]os.FileMode{
		"acme.caddyfile": 0o644, "secrets": os.ModeDir | 0o700, "secrets/acme": os.ModeDir | 0o700,
		"secrets/acme/client_secret": 0o600, "secrets/acme/pass": 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "mode of "+path, info.Mode(), mode)
	}
	d.WaitScreen(t, "Written: "+dir+"/acme.caddyfile", "import "+dir+"/*.caddyfile", "caddy reload --config Caddyfile")
	w := &world{Sidecar: harness.New(t), tokens: o.tokens, api: o.api}
	w.Run(t, w.expand(options{}, harness.Config{Options: "http_helper {\n" + acme + "\nimport " + dir + "/*.caddyfile\n}", Site: "http_helper acme"}))
	w.wantGranted(t)
	equal(t, "X-Pass", o.api.Last(t).Header.Get("X-Pass"), "open sesame")
}
