package command_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddy-httphelper/caddy-httphelper"
)

// exitUsage is the exit status of a command that was used wrongly.
const exitUsage = 2

// result is what a command has printed, and its exit status.
type result struct {
	stdout, stderr string
	status         int
}

// cli uses `caddy http-helper` with arguments and standard input.
func cli(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	cmd := command()
	var stdout, stderr bytes.Buffer
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return result{stdout: stdout.String(), stderr: stderr.String(), status: exitStatus(err)}
}

// command is the command as Caddy makes it.
func command() *cobra.Command {
	cmd := &cobra.Command{Use: "http-helper", SilenceUsage: true}
	caddycmd.Commands()["http-helper"].CobraFunc(cmd)
	return cmd
}

// exitStatus is the status that Caddy's main function makes of an error.
func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	if value := reflect.Indirect(reflect.ValueOf(err)); value.Kind() == reflect.Struct {
		if code := value.FieldByName("ExitCode"); code.IsValid() {
			return int(code.Int())
		}
	}
	return 1
}

// want checks the status, and texts that must be in the output.
func (r result) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("exit status %d, want %d:\n%s%s", r.status, status, r.stdout, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stdout+r.stderr, text) {
			t.Errorf("%q is not in the output:\n%s%s", text, r.stdout, r.stderr)
		}
	}
}

// socketDir is a directory whose path is short enough for sockets in it.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serveAdmin serves an admin endpoint on a unix socket, and returns its address.
func serveAdmin(t *testing.T, socket string, handler http.Handler) string {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return "unix/" + socket
}

func TestCommandsUsedWrongly(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"nonsense"},
		{"list", "nonsense"},
		{"list", "--nonsense"},
		{"show"},
		{"show", "a", "b"},
		{"refresh"},
		{"ping", "a", "b"},
		{"connectors", "a", "b"},
		{"new"},
		{"list", "--adapter", "caddyfile"},
		{"list", "--address", "a:1-2"},
		{"list", "--address", "http://127.0.0.1:2019"},
		{"list", "--address", "udp/127.0.0.1:2019"},
		{"list", "--config", "not-there"},
		{"list", "--json=maybe"},
		{"run", "nonsense"},
	} {
		if got := cli(t, "", args...); got.status != exitUsage || got.stdout != "" || got.stderr == "" {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

// Whoever mistypes learns what there is.
func TestCommandsMistyped(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"lst", "did you mean list?"},
		{"connector", "did you mean connectors?"},
		{"nonsense", "there is no such command; see http-helper --help"},
		{"list --jso", "there is no flag --jso; see http-helper list --help"},
		{"run -x", "there is no flag -x; see http-helper run --help"},
	} {
		if got := cli(t, "", strings.Fields(test.args)...); got.status != exitUsage || !strings.Contains(got.stderr, test.want) {
			t.Errorf("%s: %+v", test.args, got)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}} {
		cli(t, "", args...).want(t, 0, "Available Commands:", "list ")
	}
	for _, args := range [][]string{{"help", "ping"}, {"ping", "--help"}, {"ping", "-h"}} {
		got := cli(t, "", args...)
		got.want(t, 0, "Makes the request that proves a connection", "--address")
		if strings.Contains(got.stdout, "caddyserver.com") {
			t.Errorf("%q points to documentation that is not ours", args)
		}
	}
}

// Whatever goes wrong with a secret in an argument, it is not shown again.
func TestNoSecretAsArgument(t *testing.T) {
	for _, args := range [][]string{
		{"run", "--client-secret", "hunter2"},
		{"run", "--client-secret=hunter2"},
		{"run", "-client-secret=hunter2"},
		{"run", "--client-secrets=hunter2"},
		{"run", "hunter2"},
		{"show", "x", "hunter2"},
		{"hunter2"},
		{"run", "--to", "https://a.example", "--token-url", "https://a.example", "--client-id", "a", "--client-secret-env", "hunter-2"},
	} {
		got := cli(t, "", args...)
		if got.status != exitUsage || strings.Contains(got.stdout+got.stderr, "hunter") {
			t.Errorf("%q: %+v", args, got)
		}
	}
	cli(t, "", "run", "--client-secret", "hunter2").want(t, exitUsage, "--client-secret-file", "--client-secret-env")
	for _, sub := range command().Commands() {
		if sub.Flags().Lookup("client-secret") != nil {
			t.Errorf("%s takes a secret as an argument", sub.Name())
		}
	}
}

// TestConsoleWhosePortIsTaken does not work, but is used rightly.
func TestConsoleWhosePortIsTaken(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	cli(t, "", "console", "--listen", listener.Addr().String()).want(t, 1, "address already in use")
	cli(t, "", "console", "--listen", "0.0.0.0:0").want(t, exitUsage, "loopback")
}

func TestNobodyAnswers(t *testing.T) {
	dir := socketDir(t)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("XDG_CACHE_HOME", dir)
	t.Setenv("HOME", dir)
	saved := caddy.DefaultAdminListen
	t.Cleanup(func() { caddy.DefaultAdminListen = saved })
	caddy.DefaultAdminListen = freeAddress(t)
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte("{\n\tadmin unix//none.sock\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cli(t, "", "connectors", "--config", file).want(t, 0, "There are no connectors.")
	cli(t, "", "list", "--config", file).want(t, 1, "no Caddy responds at unix//none.sock (no such file or directory); "+
		"start it with caddy run --config "+file+" if it does not run, or choose another one with --address or --config\n")
	cli(t, "", "list", "--address", "unix//none.sock").want(t, 1, "no Caddy responds at unix//none.sock (no such file or directory); start it if it does not run, or choose another one with")
	cli(t, "", "list").want(t, 1, "no caddy http-helper run of yours is running", caddy.DefaultAdminListen, "refused", "--config <file>", "--address")
	cli(t, "", "list", "--address", "unix/"+dir+"/gone.sock").want(t, 1, "no such file", "--address")
	cli(t, "", "new", "x", "--address", caddy.DefaultAdminListen).want(t, 1, "refused")
}

// The commands look for the user's own sidecars first; sockets that are left over do not count, nor
// do others that stand beside them.
func TestFindsOwnSidecars(t *testing.T) {
	runtime, cache := socketDir(t), socketDir(t)
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	t.Setenv("XDG_CACHE_HOME", cache)
	for _, dir := range []string{runtime, cache} {
		if err := os.Mkdir(filepath.Join(dir, "http_helper"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(runtime, "http_helper/run-8081-1.sock")})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	_ = left.Close()
	list := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `[{"name":%q,"state":"idle"}]`, name) })
	}
	serveAdmin(t, filepath.Join(runtime, "http_helper/orders.sock"), list("not an admin endpoint"))
	address := serveAdmin(t, filepath.Join(runtime, "http_helper/run-8080-1.sock"), list("first"))
	cli(t, "", "list").want(t, 0, "first")

	other := serveAdmin(t, filepath.Join(cache, "http_helper/run-8082-2.sock"), list("second"))
	cli(t, "", "list").want(t, exitUsage, "several sidecars", "--address "+address, "--address "+other)
	cli(t, "", "list", "--address", other).want(t, 0, "second")
	cli(t, "", "list", "--address", address).want(t, 0, "first")
}

// A Caddyfile in the current directory is asked for its admin endpoint, after the user's own sidecars and
// before Caddy's default.
func TestFindsTheCaddyfileHere(t *testing.T) {
	dir := socketDir(t)
	t.Chdir(dir)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Setenv("XDG_CACHE_HOME", dir)
	saved := caddy.DefaultAdminListen
	t.Cleanup(func() { caddy.DefaultAdminListen = saved })
	caddy.DefaultAdminListen = freeAddress(t)
	list := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `[{"name":%q,"state":"idle"}]`, name) })
	}
	file := func(name, admin string) {
		if err := os.WriteFile(name, []byte("{\n\tadmin "+admin+"\n}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file("Caddyfile", "unix/not-there.sock")
	cli(t, "", "list").want(t, 1, "no Caddy responds at unix/not-there.sock (no such file or directory), where Caddyfile has its admin endpoint; start it with caddy run --config Caddyfile if")

	caddy.DefaultAdminListen = serveAdmin(t, filepath.Join(dir, "default.sock"), list("default"))
	cli(t, "", "list").want(t, 0, "default")

	serveAdmin(t, filepath.Join(dir, "example.sock"), list("example"))
	file("Caddyfile.example", "unix/example.sock") // relative to the directory
	cli(t, "", "list").want(t, 0, "example")

	file("Caddyfile", serveAdmin(t, filepath.Join(dir, "admin.sock"), list("here")))
	cli(t, "", "list").want(t, 0, "here")

	if err := os.WriteFile("Caddyfile", []byte("what is {\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cli(t, "", "list").want(t, 0, "example")
	if err := os.Remove("Caddyfile.example"); err != nil {
		t.Fatal(err)
	}
	running := caddy.DefaultAdminListen
	caddy.DefaultAdminListen = freeAddress(t)
	cli(t, "", "list").want(t, 1, "no caddy http-helper run of yours is running", "(./Caddyfile cannot be used: ")
	caddy.DefaultAdminListen = running

	if err := os.Mkdir("http_helper", 0o700); err != nil {
		t.Fatal(err)
	}
	serveAdmin(t, filepath.Join(dir, "http_helper/run-8080-1.sock"), list("own"))
	cli(t, "", "list").want(t, 0, "own")
}

func TestAdminFromConfigFile(t *testing.T) {
	address := serveAdmin(t, filepath.Join(socketDir(t), "admin.sock"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[]`))
	}))
	file := filepath.Join(t.TempDir(), "my.conf")
	if err := os.WriteFile(file, []byte("{\n\tadmin "+address+"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cli(t, "", "list", "--config", file, "--adapter", "caddyfile").want(t, 0, "There are no connections.")
	cli(t, "", "list", "--address", strings.TrimPrefix(address, "unix/")).want(t, 0, "There are no connections.")

	t.Setenv("ADMIN_SOCKET", strings.TrimPrefix(address, "unix/"))
	if err := os.WriteFile(file, []byte("{\n\tadmin unix/{env.ADMIN_SOCKET}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cli(t, "", "list", "--config", file, "--adapter", "caddyfile").want(t, 0, "There are no connections.")
}

func TestOddAdminEndpoints(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		exit   int
		want   string
	}{
		"no plugin":      {404, "404 page not found", 1, "without http_helper"},
		"refusal":        {403, `{"error": "not allowed from here"}`, 1, "not allowed from here"},
		"no JSON":        {200, "hello", 1, "another version"},
		"nothing to say": {500, "", 1, "status 500"},
	} {
		t.Run(name, func(t *testing.T) {
			address := serveAdmin(t, filepath.Join(socketDir(t), "admin.sock"), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			}))
			cli(t, "", "list", "--address", address).want(t, test.exit, test.want)
			cli(t, "", "connectors", "--address", address).want(t, test.exit, test.want)
		})
	}
}

// A TCP endpoint may insist on a known origin and host.
func TestAdminOnTCP(t *testing.T) {
	t.Cleanup(func() { _ = caddy.Load([]byte(`{"admin": {"disabled": true}}`), true) })
	for _, apps := range []string{`, "apps": {"http_helper": {}}`, `, "apps": {}`, ""} {
		address := freeAddress(t)
		config := fmt.Sprintf(`{"admin": {"listen": %q, "enforce_origin": true, "config": {"persist": false}}, "logging": {"logs": {"default": {"level": "FATAL"}}}%s}`, address, apps)
		if err := caddy.Load([]byte(config), true); err != nil {
			t.Fatal(err)
		}
		cli(t, "", "list", "--address", address).want(t, 0, "There are no connections.")
		cli(t, "", "connectors", "--address", address).want(t, 0, "There are no connectors.")
		cli(t, "", "new", "x", "--address", address).want(t, exitUsage, "there is none")
	}
}

func TestCompletion(t *testing.T) {
	s := newServices(t, nil)
	caddyfile := crm(s, "", "")
	s.run(t, caddyfile)
	address := s.admin
	for _, test := range []struct{ args, want string }{
		{"show", "billing\n:4"},
		{"refresh", "billing\n:4"},
		{"ping", "billing\n:4"},
		{"connectors", "acme_crm\n:4"},
		{"connectors --config " + configFile(t, s, "", "")[1], "acme_crm\n:4"},
		{"new", "acme_crm\n:4"},
		{"list", ":4"},
		{"show billing", ":4"},
	} {
		args := append(append([]string{cobra.ShellCompNoDescRequestCmd}, strings.Fields(test.args)...), "--address", address, "")
		if got := cli(t, "", args...); strings.TrimSpace(got.stdout) != test.want {
			t.Errorf("%s: %q, want %q", test.args, got.stdout, test.want)
		}
	}
	if got := cli(t, "", cobra.ShellCompNoDescRequestCmd, "show", "--address", "unix//not/there", ""); strings.TrimSpace(got.stdout) != ":4" {
		t.Errorf("when nobody responds: %q", got.stdout)
	}
	got := cli(t, "", cobra.ShellCompNoDescRequestCmd, "run", "--auth-method", "")
	if !strings.Contains(got.stdout, "private_key_jwt\n") {
		t.Errorf("auth methods: %q", got.stdout)
	}
}
