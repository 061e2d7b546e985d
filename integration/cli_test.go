package integration

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// operator is a user who looks after a sidecar with connections.
type operator struct {
	*world
	*harness.User
	admin string
}

func newOperator(t *testing.T, config string, o options) *operator {
	t.Helper()
	w := newWorld(t, nil)
	op := &operator{world: w, User: harness.NewUser(t), admin: "unix/" + w.AdminSocket()}
	w.Run(t, w.expand(o, harness.Config{Options: config, Site: "http_helper billing"}))
	return op
}

// command runs a command about the sidecar.
func (o *operator) command(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return o.User.Run(t, append(args, "--address", o.admin)...)
}

// want checks what a command has printed.
func want(t *testing.T, got harness.Result, status int, texts ...string) {
	t.Helper()
	if got.Status != status {
		t.Errorf("exit status %d, want %d: %s%s", got.Status, status, got.Stdout, got.Stderr)
	}
	for _, text := range texts {
		if !strings.Contains(got.Stdout+got.Stderr, text) {
			t.Errorf("%q is not in\n%s%s", text, got.Stdout, got.Stderr)
		}
	}
}

// TestCommandsPrintWhatTheAdminAPISays compares --json with the admin API.
func TestCommandsPrintWhatTheAdminAPISays(t *testing.T) {
	t.Parallel()
	o := newOperator(t, documentedCaddyfile, options{})
	o.wantOK(t)
	for _, c := range []struct {
		args   []string
		method string
		path   string
	}{
		{[]string{"list"}, "GET", "/http_helper/connections"},
		{[]string{"show", "billing"}, "GET", "/http_helper/connections/billing"},
		{[]string{"connectors"}, "GET", "/http_helper/connectors"},
		{[]string{"connectors", "acme"}, "GET", "/http_helper/connectors/acme"},
		{[]string{"ping", "billing"}, "POST", "/http_helper/connections/billing/ping"},
	} {
		got := o.command(t, append(c.args, "--json")...)
		want(t, got, 0)
		equal(t, "complaints of "+c.args[0], got.Stderr, "")
		status, body, err := o.Admin(c.method, c.path, "", "")
		if err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %v", c.path, status, err)
		}
		if !reflect.DeepEqual(parsedJSON(t, got.Stdout), parsedJSON(t, body)) {
			t.Errorf("%s prints\n%s, the admin API says\n%s", c.args[0], got.Stdout, body)
		}
	}
	got := o.command(t, "refresh", "billing", "--json")
	want(t, got, 0)
	if parsedJSON(t, got.Stdout).(map[string]any)["state"] != "ready" {
		t.Error(got.Stdout)
	}
	got = o.command(t, "show", "nobody", "--json")
	want(t, got, 2, `Error: there is no connection "nobody"; there are billing, my-connection`)
	if body := parsedJSON(t, got.Stdout).(map[string]any)["error"]; body == "" {
		t.Error(got.Stdout)
	}
}

func parsedJSON(t *testing.T, text string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return value
}

// TestCommandsFindTheSidecar has the admin endpoint be named in each way.
func TestCommandsFindTheSidecar(t *testing.T) {
	t.Parallel()
	o := newOperator(t, documentedCaddyfile, options{})
	file := o.User.File(t, "my.conf", "{\n\tadmin "+o.admin+"\n}\n")
	o.User.File(t, "Caddyfile", "{\n\tadmin "+o.admin+"\n}\n")
	for _, flags := range [][]string{
		{"--address", o.admin},
		{"--address", o.AdminSocket()},
		{"--config", file, "--adapter", "caddyfile"},
		{"-c", "my.conf", "-a", "caddyfile"},
		{"--config", "Caddyfile"},
	} {
		got := o.User.Run(t, append([]string{"list"}, flags...)...)
		want(t, got, 0, "billing")
		equal(t, "complaints", got.Stderr, "")
	}
	listed := o.User.Run(t, "connectors", "--config", "Caddyfile")
	want(t, listed, 0, "To write a connection, run: caddy http-helper new <connector> --config Caddyfile\n")
}

// TestCommandsFindNoSidecar has no sidecar where they look.
func TestCommandsFindNoSidecar(t *testing.T) {
	t.Parallel()
	u := harness.NewUser(t)
	port := harness.Port(t)
	// Not Caddy's default port, which may be in use.
	want(t, u.Run(t, "list", "--address", "127.0.0.1:"+port), 1,
		"Error: no Caddy responds at 127.0.0.1:"+port+" (connection refused); start it if it does not run, or choose another one with --address or --config\n")
	want(t, u.Run(t, "ping", "x", "--address", "unix//none.sock"), 1, "no Caddy responds at unix//none.sock (no such file or directory)")
	want(t, u.Run(t, "list", "--address", "a:1-2"), 2, "a:1-2 is not the address of an admin endpoint")
	want(t, u.Run(t, "list", "--config", "none"), 2, "none: no such file or directory")
	want(t, u.Run(t, "list", "--adapter", "caddyfile"), 2, "--adapter needs --config")
}

// TestCommandsOfAnotherUser has a user without permission look.
func TestCommandsOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	o := newOperator(t, documentedCaddyfile, options{})
	// Everybody may run the program and enter the directory, but not open the socket.
	program := filepath.Join(o.Dir, "caddy")
	equal(t, "exit status of cp", harness.Execute(t, o.Program("cp", harness.Caddy(t), program)).Status, 0)
	if err := os.Chmod(o.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := o.Program(program, "http-helper", "list", "--address", o.admin)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	got := harness.Execute(t, cmd)
	want(t, got, 1, "Error: you may not open "+o.admin+" (permission denied); run the command as the user of that Caddy\n")
}

// TestManyConnections has very many connections in the same trouble: what is wrong is said once.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	const many = 300
	var config strings.Builder
	config.WriteString("http_helper {\nconnector service {\nbase_url $API\ntoken_url $TOKENS\nparameter tenant text\ntoken_request_param tenant {param.tenant}\n}\n")
	for i := range many {
		name := "billing"
		if i > 0 {
			name = "a-tenant-with-a-rather-long-name." + strconv.Itoa(i)
		}
		config.WriteString("connection " + name + " service {\nclient_id app\nclient_secret {env.SECRET}\nparameter tenant " + strconv.Itoa(i) + "\nwarm\n}\n")
	}
	config.WriteString("}\n")
	w := newWorld(t, nil)
	w.tokens.RespondWith(harness.Refuse(http.StatusUnauthorized, "invalid_client"))
	o := &operator{world: w, User: harness.NewUser(t), admin: "unix/" + w.AdminSocket()}
	w.Run(t, w.expand(options{}, harness.Config{Options: config.String(), Site: "http_helper billing"}))
	w.tokens.Await(t, many)
	var got harness.Result
	eventually(t, "all are down", func() bool {
		got = o.command(t, "list")
		return strings.Count(got.Stdout, "  down ") == many
	})
	want(t, got, 1, "\na-tenant-with-a-rather-long-name.1, a-tenant-with-a-rather-long-name.10, a-tenant-with-a-rather-long-name.100 and 297 more cannot get a token: ",
		"To try now, run: caddy http-helper refresh <connection> --address "+o.admin+"\n")
	if lines := strings.Count(got.Stdout, "\n"); lines > many+10 {
		t.Errorf("%d lines about %d connections", lines, many)
	}
	want(t, o.command(t, "show", "billin"), 2, `there is no connection "billin" (did you mean billing?); there are a-tenant-with-a-rather-long-name.1, `, "and 290 more\n")
	want(t, o.command(t, "show", "nobody"), 2, `there is no connection "nobody"; there are a-tenant-with-a-rather-long-name.1, `, "and 290 more\n")
}

// TestNothingIsColoured has programs read what is printed.
func TestNothingIsColoured(t *testing.T) {
	t.Parallel()
	o := newOperator(t, documentedCaddyfile, options{})
	for _, args := range [][]string{{"list"}, {"show", "billing"}, {"ping", "billing"}, {"connectors", "acme"}, {"list", "--json"}} {
		if got := o.command(t, args...); strings.Contains(got.Stdout+got.Stderr, "\x1b") {
			t.Errorf("%s: %q", args, got.Stdout+got.Stderr)
		}
	}
}

// TestHelpOfEachCommand has every command explain itself, on standard output.
func TestHelpOfEachCommand(t *testing.T) {
	t.Parallel()
	u := harness.NewUser(t)
	for _, command := range []string{"", "run", "list", "show", "refresh", "ping", "connectors", "new"} {
		got := u.Run(t, append(strings.Fields(command), "--help")...)
		want(t, got, 0, "Usage:\n  caddy http-helper")
		equal(t, "complaints of "+command, got.Stderr, "")
		if command == "list" {
			equal(t, "help list", u.Run(t, "help", "list").Stdout, got.Stdout)
		}
	}
	none := u.Run(t)
	want(t, none, 2, "Available Commands:")
	equal(t, "printed", none.Stdout, "")
	want(t, u.Run(t, "lst"), 2, "Error: there is no such command; did you mean list?\n")
	want(t, u.Run(t, "whatever"), 2, "Error: there is no such command; see caddy http-helper --help\n")
}
