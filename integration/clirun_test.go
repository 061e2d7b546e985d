package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// laptop is a developer with an API and a token endpoint, who runs sidecars without a file.
type laptop struct {
	*harness.User
	tokens *harness.TokenEndpoint
	api    *harness.API
	client *http.Client
}

func newLaptop(t *testing.T) *laptop {
	t.Helper()
	l := &laptop{User: harness.NewUser(t), tokens: harness.NewTokenEndpoint(t, nil), client: harness.NewClient(t)}
	l.api = harness.NewAPI(t, nil, l.tokens)
	l.File(t, "secret", secret+"\n")
	return l
}

// flags are those that every sidecar needs but the client's secret, and others.
func (l *laptop) flags(port string, others ...string) []string {
	return append([]string{"run", "--from", ":" + port, "--to", l.api.URL + "/v2", "--token-url", l.tokens.URL, "--client-id", "my-app"}, others...)
}

// withSecret are flags that are enough.
func (l *laptop) withSecret(port string, others ...string) []string {
	return l.flags(port, append([]string{"--client-secret-file", "./secret"}, others...)...)
}

// running is a sidecar that `run` runs.
type running struct {
	harness.Running
	admin string // the address of its admin endpoint, as it was printed
}

var adminPrinted = regexp.MustCompile(`(?m)^http-helper: admin endpoint (\S+)$`)

// start runs a sidecar until it says that it runs.
func (l *laptop) start(t *testing.T, args ...string) running {
	t.Helper()
	return awaitRunning(t, l.Start(t, args...))
}

func awaitRunning(t *testing.T, r harness.Running) running {
	t.Helper()
	r.WaitLog(t, "http-helper: admin endpoint ")
	var printed []string
	eventually(t, "the admin endpoint is printed", func() bool {
		printed = adminPrinted.FindStringSubmatch(r.Logs())
		return printed != nil
	})
	return running{Running: r, admin: printed[1]}
}

func (r running) socket() string { return strings.TrimPrefix(r.admin, "unix/") }

// get makes a request to a sidecar.
func (l *laptop) get(t *testing.T, address string) int {
	t.Helper()
	res, err := l.client.Get("http://" + address + "/orders")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// wantGone checks that a sidecar ends well at a signal, and leaves nothing behind.
func (r running) wantGone(t *testing.T, signal os.Signal) {
	t.Helper()
	r.Signal(signal)
	equal(t, "exit status", r.Wait(t), 0)
	if _, err := os.Stat(r.socket()); err == nil {
		t.Error("the socket is left")
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	port := harness.Port(t)
	r := l.start(t, l.withSecret(port)...)
	if !strings.Contains(r.Logs(), "http-helper: http://127.0.0.1:"+port+" goes to "+l.api.URL+"/v2\n") {
		t.Error("it does not say where requests go")
	}
	equal(t, "status", l.get(t, "127.0.0.1:"+port), http.StatusOK)
	equal(t, "status by name", l.get(t, "localhost:"+port), http.StatusOK)
	equal(t, "request", l.api.Last(t).RequestURI, "/v2/orders")
	equal(t, "Authorization at the token endpoint", l.tokens.Only(t).Header.Get("Authorization"), basicAuth("my-app", secret))

	// No host means loopback, and not every interface: this address is the machine's too.
	if conn, err := net.Dial("tcp", "127.0.0.2:"+port); err == nil {
		conn.Close()
		t.Error("it listens elsewhere than on 127.0.0.1")
	}

	// The admin endpoint is this user's own, and where the other commands look.
	dir := filepath.Join(l.Runtime, "http_helper")
	equal(t, "directory of the socket", filepath.Dir(r.socket()), dir)
	info, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "permissions", info.Mode().Perm(), 0o700)
	got := l.Run(t, "list")
	equal(t, "exit status of list", got.Status, 0)
	if !strings.Contains(got.Stdout, "127.0.0.1  -          ready") {
		t.Errorf("list says %s", got.Stdout)
	}
	wantQuiet(t, r.Logs())
	r.wantGone(t, syscall.SIGTERM)
	if got := l.Run(t, "list"); got.Status != 1 || !strings.Contains(got.Stderr, "no caddy http-helper run of yours is running") {
		t.Errorf("list without a sidecar: %+v", got)
	}
}

// TestRunEndsWithAStreamOpen: a response that does not end keeps the sidecar for the grace period only.
func TestRunEndsWithAStreamOpen(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	l.api.RespondWith(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	port := harness.Port(t)
	r := l.start(t, l.withSecret(port)...)
	res, err := l.client.Get("http://127.0.0.1:" + port + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r.wantGone(t, syscall.SIGTERM)
}

// TestRunTakesLongHeads, which Caddy's default refuses.
func TestRunTakesLongHeads(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	port := harness.Port(t)
	l.start(t, l.withSecret(port)...)
	res, err := l.client.Get("http://127.0.0.1:" + port + "/?q=" + strings.Repeat("x", 40<<10))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	equal(t, "status", res.StatusCode, http.StatusOK)
}

// TestRunSecrets has the secret come from each place that it may come from. It is in no argument.
func TestRunSecrets(t *testing.T) {
	t.Parallel()
	for name, place := range map[string]struct {
		flags []string
		env   string
		stdin string
	}{
		"file":           {flags: []string{"--client-secret-file", "./secret"}},
		"variable":       {flags: []string{"--client-secret-env", "MY_SECRET"}, env: "MY_SECRET=" + secret},
		"standard input": {flags: []string{"--client-secret-file", "-"}, stdin: secret + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLaptop(t)
			port := harness.Port(t)
			cmd := l.Command(t, l.flags(port, place.flags...)...)
			cmd.Stdin = strings.NewReader(place.stdin)
			if place.env != "" {
				cmd.Env = append(cmd.Env, place.env)
			}
			r := awaitRunning(t, harness.Background(t, cmd))
			equal(t, "status", l.get(t, "127.0.0.1:"+port), http.StatusOK)
			equal(t, "Authorization at the token endpoint", l.tokens.Only(t).Header.Get("Authorization"), basicAuth("my-app", secret))
			arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", r.Pid()))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(arguments), secret) || strings.Contains(r.Logs(), secret) {
				t.Error("the secret can be seen")
			}
		})
	}
}

// TestRunAsksForTheSecret types the secret, which is not shown, also when the log goes to a
// file.
func TestRunAsksForTheSecret(t *testing.T) {
	t.Parallel()
	for name, stderr := range map[string]io.Writer{"on the terminal": nil, "log elsewhere": io.Discard} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLaptop(t)
			port := harness.Port(t)
			cmd := l.Command(t, l.flags(port, "--client-secret-file", "-")...)
			cmd.Stderr = stderr
			terminal := harness.OpenTerminal(t, cmd, 100, 30)
			terminal.WaitScreen(t, "Client secret")
			terminal.Type(t, secret, harness.Enter)
			terminal.WaitLog(t, "http-helper: admin endpoint ")
			equal(t, "status", l.get(t, "127.0.0.1:"+port), http.StatusOK)
			equal(t, "Authorization at the token endpoint", l.tokens.Only(t).Header.Get("Authorization"), basicAuth("my-app", secret))
			terminal.Type(t, harness.CtrlC)
			equal(t, "exit status", terminal.Ended(t), 0)
			if strings.Contains(terminal.Written(), secret) || !terminal.Restored(t) {
				t.Errorf("the terminal is restored: %t, written: %q", terminal.Restored(t), terminal.Written())
			}
		})
	}
}

// TestRunNeverTakesASecretAsAnArgument has one given all the same. It is not shown again.
func TestRunNeverTakesASecretAsAnArgument(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	for _, flag := range [][]string{{"--client-secret", secret}, {"--client-secret=" + secret}, {"--client-secret-env", secret}, {secret}} {
		got := l.Run(t, l.flags("8080", flag...)...)
		if got.Status != 2 || got.Stdout != "" || !strings.HasPrefix(got.Stderr, "Error: ") || strings.Contains(got.Stderr, secret) {
			t.Errorf("%q: %+v", flag[0], got)
		}
	}
}

// everyFlag is what `run` takes besides the least.
func everyFlag(admin string) []string {
	return []string{
		"--auth-method", "client_secret_post", "--name", "orders", "--scope", "a b", "--scope", "c",
		"--param", "audience=https://x y", "--param", "b=1", "--param", "audience=2=3", "--header", "X-Key: {env.KEY}",
		"--ping", "GET /me?x=y 200", "--allow-clients", "192.0.2.0/24", "--warm", "--access-log", "--debug", "--admin", admin,
	}
}

// wantEveryFlag checks what those flags come to.
func (l *laptop) wantEveryFlag(t *testing.T, r harness.Running, address, admin string) {
	t.Helper()
	before := l.tokens.Count()
	l.tokens.Await(t, max(before, 1)) // warm: fetched before the first request
	sent := l.tokens.Requests()[l.tokens.Count()-1]
	equal(t, "token request", sent.Body, "audience=https%3A%2F%2Fx+y&audience=2%3D3&b=1&client_id=my-app&client_secret="+secret+"&grant_type=client_credentials&scope=a+b+c")
	equal(t, "status", l.get(t, address), http.StatusOK)
	equal(t, "X-Key", l.api.Last(t).Header.Get("X-Key"), "key")
	got := l.Run(t, "ping", "orders", "--address", admin)
	equal(t, "ping", got.Stdout, "orders works: the API responded with 200 OK, as expected.\n")
	equal(t, "request of the ping", l.api.Last(t).RequestURI, "/v2/me?x=y")
	for _, text := range []string{`"logger":"http.log.access`, `"level":"debug"`} {
		if !strings.Contains(r.Logs(), text) {
			t.Errorf("%s is not logged", text)
		}
	}
}

// TestRunPrintsItsCaddyfile has a sidecar run by flags, and one by the Caddyfile that is printed for
// the same flags. They behave the same.
func TestRunPrintsItsCaddyfile(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	l.Env = append(l.Env, "KEY=key")
	port := harness.Port(t)
	admin := "unix/" + filepath.Join(l.Home, "flags.sock")
	r := l.start(t, l.withSecret(port, everyFlag(admin)...)...)
	equal(t, "admin endpoint", r.admin, admin)
	l.wantEveryFlag(t, r.Running, "127.0.0.1:"+port, admin)
	r.wantGone(t, syscall.SIGTERM)

	admin = "unix/" + filepath.Join(l.Home, "file.sock")
	printed := l.Run(t, l.withSecret(port, append(everyFlag(admin), "--print-caddyfile")...)...)
	equal(t, "exit status", printed.Status, 0)
	equal(t, "complaints", printed.Stderr, "")
	file := l.File(t, "Caddyfile", printed.Stdout)
	if got := harness.Execute(t, l.Program(harness.Caddy(t), "fmt", "--diff", file)); got.Status != 0 {
		t.Errorf("it is not formatted: %s", got.Stdout)
	}
	count := l.tokens.Count()
	again := harness.Background(t, l.Program(harness.Caddy(t), "run", "--config", file, "--adapter", "caddyfile"))
	l.tokens.Await(t, count+1)
	again.WaitLog(t, "serving initial configuration")
	l.wantEveryFlag(t, again, "127.0.0.1:"+port, admin)
}

// TestRunWithAKey has the sidecar find a real token endpoint, and prove itself with a key.
func TestRunWithAKey(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	key := newSigner(t, "ES256", "key-1")
	server := harness.StartOIDCProvider(t, nil, harness.OIDCConfig{Scopes: []string{"a", "b"}, Clients: []map[string]any{
		introspector, oidcClient("my-app", "private_key_jwt", map[string]any{"jwks": keySet(t, key.public()), "token_endpoint_auth_signing_alg": "ES256"}),
	}})
	l.api.Accept(func(token string) bool {
		return server.Introspect(t, "introspector", longSecret, token)["client_id"] == "my-app"
	})
	l.File(t, "key.pem", key.pem(t))
	port := harness.Port(t)
	l.start(t, "run", "--from", "127.0.0.1:"+port, "--to", l.api.URL, "--issuer", server.Issuer, "--client-id", "my-app",
		"--auth-method", "private_key_jwt", "--client-key-file", "key.pem", "--key-id", "key-1")
	equal(t, "status", l.get(t, "127.0.0.1:"+port), http.StatusOK)
}

// TestRunWithACertificate has the sidecar show a client certificate to the token endpoint.
func TestRunWithACertificate(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	l := newLaptop(t)
	l.tokens = harness.NewTokenEndpoint(t, ca)
	l.api.Accept(l.tokens.Valid)
	ca.Client(t, "my-app", filepath.Join(l.Home, "cert.pem"), filepath.Join(l.Home, "key.pem"))
	l.Env = append(l.Env, "SSL_CERT_FILE="+ca.File)
	port := harness.Port(t)
	l.start(t, l.flags(port, "--auth-method", "tls_client_auth", "--client-certificate-file", "cert.pem", "--client-certificate-key-file", "key.pem")...)
	equal(t, "status", l.get(t, "127.0.0.1:"+port), http.StatusOK)
	shown := l.tokens.Only(t).TLS.PeerCertificates
	if len(shown) != 1 || shown[0].Subject.CommonName != "my-app" {
		t.Errorf("shown: %v", shown)
	}
}

// TestRunInTheClear permits http to a host elsewhere, with a warning.
func TestRunInTheClear(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	flags := append(l.withSecret(harness.Port(t)), "--to", "http://api.internal.example")
	got := l.Run(t, flags...)
	equal(t, "exit status without --allow-insecure", got.Status, 2)
	if !strings.Contains(got.Stderr, "--to is http and its host is not loopback: use https, or permit it with --allow-insecure") {
		t.Error(got.Stderr)
	}
	r := l.start(t, append(flags, "--allow-insecure")...)
	r.WaitLog(t, "allow_insecure permits to send secrets or tokens where others can read them")
}

// TestRunOnAUnixSocket has the app reach the sidecar by a socket.
func TestRunOnAUnixSocket(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	socket := filepath.Join(l.Home, "app.sock")
	for _, from := range []string{"unix/" + socket, socket} {
		r := l.start(t, l.withSecret("", "--from", from)...)
		got := harness.Execute(t, l.Program("curl", "-fsS", "--unix-socket", socket, "http://orders/orders"))
		equal(t, "body", got.Stdout, "hello")
		r.wantGone(t, syscall.SIGINT)
	}
}

// TestRunWithoutARuntimeDirectory has the admin socket in the cache directory.
func TestRunWithoutARuntimeDirectory(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	l.Env = append(l.Env, "XDG_RUNTIME_DIR=")
	r := l.start(t, l.withSecret(harness.Port(t))...)
	equal(t, "directory", filepath.Dir(r.socket()), filepath.Join(l.Home, ".cache", "http_helper"))
	equal(t, "exit status of list", l.Run(t, "list").Status, 0)
	r.wantGone(t, syscall.SIGINT)
}

// TestRunTwice has two sidecars at once: the other commands want to know which.
func TestRunTwice(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	first := l.start(t, l.withSecret(harness.Port(t), "--name", "one")...)
	second := l.start(t, l.withSecret(harness.Port(t), "--name", "two")...)
	got := l.Run(t, "list")
	equal(t, "exit status", got.Status, 2)
	for name, r := range map[string]running{"one": first, "two": second} {
		if !strings.Contains(got.Stderr, "--address "+r.admin+"\n") {
			t.Errorf("%s is not in %s", r.admin, got.Stderr)
		}
		for _, address := range []string{r.admin, r.socket()} {
			if got := l.Run(t, "list", "--address", address); got.Status != 0 || !strings.Contains(got.Stdout, "\n"+name+" ") {
				t.Errorf("%s at %s: %+v", name, address, got)
			}
		}
	}
	second.wantGone(t, syscall.SIGTERM)
	equal(t, "exit status with one", l.Run(t, "list").Status, 0)

	// A sidecar that had no time to tidy up is not in the way, and is tidied up after.
	first.Signal(syscall.SIGKILL)
	first.Wait(t)
	if _, err := os.Stat(first.socket()); err != nil {
		t.Fatal(err)
	}
	third := l.start(t, l.withSecret(harness.Port(t), "--name", "three")...)
	equal(t, "exit status after a crash", l.Run(t, "list").Status, 0)
	if _, err := os.Stat(first.socket()); err == nil {
		t.Error("the socket of the killed sidecar is left")
	}
	third.wantGone(t, syscall.SIGTERM)
}

func TestRunCannot(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	taken := strings.TrimPrefix(listener.Addr().String(), "127.0.0.1:")
	for name, c := range map[string]struct {
		flags  []string
		status int
		want   string
	}{
		"address taken":  {l.withSecret(taken), 1, "something listens on http://127.0.0.1:" + taken + " already; choose another address with --from"},
		"no secret file": {l.flags(harness.Port(t), "--client-secret-file", "./none"), 1, "connection 127.0.0.1: --client-secret-file: reading file ./none: no such file or directory"},
		"unset variable": {l.flags(harness.Port(t), "--client-secret-env", "NONE"), 1, "connection 127.0.0.1: --client-secret-env: {env.NONE} is not set or empty"},
		"no URL":         {l.withSecret(harness.Port(t), "--to", "api.example.com"), 2, "--to: a URL is needed, such as https://api.example.com/v2"},
		"a port only":    {l.withSecret("", "--from", "8080"), 2, "--from: a port is needed, such as 127.0.0.1:8080"},
		"nothing":        {[]string{"run"}, 2, "needed: --to, --token-url, --client-id; see caddy http-helper run --help"},
		"typing mistake": {l.withSecret(harness.Port(t), "--scopes", "a"), 2, "there is no flag --scopes; see caddy http-helper run --help"},
	} {
		got := l.Run(t, c.flags...)
		if got.Status != c.status || got.Stdout != "" || !strings.HasSuffix(got.Stderr, "Error: "+c.want+"\n") {
			t.Errorf("%s: exit status %d, %s", name, got.Status, got.Stderr)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(l.Runtime, "http_helper", "*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
