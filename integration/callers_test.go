package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// precious is what the API says to those who may call.
const precious = "what only the app may read"

// attack is a page that tries to read through a server that it takes for its own. Each way says what it got.
const attack = `<!doctype html><title>a page</title><script>
const text = async response => response.status + " " + await response.text();
const ways = {
	get: () => fetch("/get").then(text),
	post: () => fetch("/post", {method: "POST", body: "body"}).then(text),
	token: () => fetch("/token", {headers: {"Proxy-Authorization": "Bearer one"}}).then(text),
	socket: () => new Promise(done => {
		const socket = new WebSocket("ws://" + location.host + "/socket");
		socket.onmessage = event => done(event.data);
		socket.onerror = () => done("refused");
	}),
	form: () => new Promise(done => {
		const frame = document.createElement("iframe"), form = document.createElement("form");
		frame.name = form.target = "frame"; form.method = "POST"; form.action = "/form";
		document.body.append(frame, form);
		frame.onload = () => { // of an error without a body the browser shows a page of its own
			if (!frame.contentDocument) done("refused");
			else if (frame.contentWindow.location.href != "about:blank") done(frame.contentDocument.body.textContent);
		};
		form.submit();
	}),
};
const attack = async () => {
	const results = [];
	for (const way in ways) results.push(way + ": " + await ways[way]().catch(error => "refused: " + error));
	return results.join("\n");
};
</script>`

// openPage has a browser load the page from evil.example, at the port of a sidecar that does not run yet. Then the name
// is rebound: the sidecar is what responds there.
func openPage(t *testing.T, w *world) *harness.Browser {
	t.Helper()
	shared := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) (err error) {
		failed := conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
		if err == nil {
			err = failed
		}
		return err
	}}
	listener, err := shared.Listen(context.Background(), "tcp", w.Addr)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		rw.Header().Set("Connection", "close")
		_, _ = fmt.Fprint(rw, attack)
	}))
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	defer server.Close()
	b := harness.OpenBrowser(t, harness.BrowserOptions{HostRules: "MAP *.example 127.0.0.1"})
	_, port, _ := net.SplitHostPort(w.Addr)
	b.Open(t, "http://evil.example:"+port+"/")
	return b
}

func preciousAPI(w *world) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !websocket.IsWebSocketUpgrade(r) {
			_, _ = fmt.Fprint(rw, precious)
			return
		}
		conn, err := upgrader.Upgrade(rw, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.WriteMessage(websocket.TextMessage, []byte(precious))
	}))
}

// TestRebindingPage: a real browser on a page whose name comes to lead to the sidecar. For the browser all of that is
// one site.
func TestRebindingPage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		directive string
		reads     bool
	}{
		"by default":                      {"", false},
		"with reverse_proxy":              {"use_reverse_proxy", false},
		"another name is permitted":       {"allow_hosts other.example", false},
		"permitted":                       {"allow_hosts evil.example", true},
		"permitted, with reverse_proxy":   {"allow_hosts evil.example\nuse_reverse_proxy", true},
		"any name, but a caller token":    {"allow_hosts *\ncaller_token_file $DIR/token", false},
		"any name, without further check": {"allow_hosts *", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			preciousAPI(w)
			b := openPage(t, w)
			w.File(t, "token", "one\n")
			w.Run(t, w.inline(options{directive: c.directive}))
			got := b.Script(t, "attack()")
			if c.reads {
				equal(t, "what the page reads", got, strings.NewReplacer("OK", "200 "+precious, "TEXT", precious).Replace("get: OK\npost: OK\ntoken: OK\nsocket: TEXT\nform: TEXT"))
				return
			}
			if strings.Contains(got, precious) || strings.Count(got, "403 ") != 3 || !strings.Contains(got, "socket: refused") {
				t.Errorf("the page reads:\n%s", got)
			}
			equal(t, "API requests", w.api.Count(), 0)
			equal(t, "token requests", w.tokens.Count(), 0)
			w.wantOKWithToken(t)
			if !strings.Contains(c.directive, "*") {
				if got := warnings(w.Logs(), `"host":"evil.example"`); len(got) != 1 || !strings.Contains(got[0], "allow_hosts") {
					t.Errorf("warnings %q", got)
				}
			}
		})
	}
}

// wantOKWithToken checks that the app still gets through.
func (w *world) wantOKWithToken(t *testing.T) {
	t.Helper()
	wantStatus(t, w.Get(t, "/", "Proxy-Authorization", "Bearer one"), http.StatusOK)
}

// TestHostsOfOtherMachines are checked only where allow_hosts is given: a name may be a Service's.
func TestHostsOfOtherMachines(t *testing.T) {
	t.Parallel()
	const proxyProtocol = "servers {\nlistener_wrappers {\nproxy_protocol {\nallow 127.0.0.0/8\n}\n}\n}"
	for directive, want := range map[string]map[string]int{
		"allow_clients private_ranges":                                   {"http-helper.team.svc": 200, "evil.example": 200},
		"allow_clients private_ranges\nallow_hosts http-helper.team.svc": {"http-helper.team.svc": 200, "evil.example": 403, "10.1.2.3": 200},
	} {
		w := startInline(t, options{global: proxyProtocol, directive: directive})
		for host, status := range want {
			response := w.raw(t, "PROXY TCP4 10.1.2.3 10.1.2.3 40000 80\r\nGET / HTTP/1.1\r\nHost: "+host+":8080\r\nConnection: close\r\n\r\n")
			equal(t, directive+": "+host, response.StatusCode, status)
		}
	}
}

// TestHealthIsNotChecked: a kubelet or a load balancer asks by whatever name.
func TestHealthIsNotChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	config := w.inline(options{directive: "allow_hosts sidecar\ncaller_token_file $DIR/token"})
	config.Site = "http_helper_health /health\n" + config.Site
	w.File(t, "token", "one\n")
	w.Run(t, config)
	equal(t, "status", w.raw(t, "GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").StatusCode, http.StatusOK)
}

// TestStrangersProcess is another process on this machine, which knows the address and not the token.
func TestStrangersProcess(t *testing.T) {
	t.Parallel()
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal("curl is not installed")
	}
	w := newWorld(t, nil)
	preciousAPI(w)
	w.File(t, "token", "first-token\nsecond-token\n")
	config := w.inline(options{directive: "caller_token_file $DIR/token"})
	config.More = "http:// {\nbind unix/" + filepath.Join(w.Dir, "site.sock") + "\n" + strings.Replace(config.Site, "{\n", "{\nname socket\n", 1) + "\n}\n"
	w.Run(t, config)
	run := func(args ...string) string {
		out, err := exec.Command(curl, append([]string{"--silent", "--show-error", "--include", "--noproxy", "*"}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("curl %q: %v", args, err)
		}
		return string(out)
	}
	for _, way := range [][]string{{w.URL + "/"}, {"--unix-socket", filepath.Join(w.Dir, "site.sock"), "http://localhost/"}} {
		for _, header := range []string{"X-None: x", "Proxy-Authorization: Bearer other", "Proxy-Authorization: Basic Zmlyc3QtdG9rZW46", "Authorization: Bearer first-token"} {
			if got := run(append(way, "--header", header)...); strings.Contains(got, precious) || !strings.Contains(got, "403 Forbidden") || strings.Contains(got, "-token\n") {
				t.Errorf("%q, %q: %s", way, header, got)
			}
		}
	}
	equal(t, "API requests", w.api.Count(), 0)
	equal(t, "token requests", w.tokens.Count(), 0)
	for i, way := range [][]string{{w.URL + "/"}, {"--unix-socket", filepath.Join(w.Dir, "site.sock"), "http://localhost/"}} {
		if got := run(append(way, "--header", "Proxy-Authorization: Bearer "+[]string{"first-token", "second-token"}[i])...); !strings.Contains(got, precious) {
			t.Errorf("%q: %s", way, got)
		}
		for field := range w.api.Last(t).Header {
			if strings.HasPrefix(field, "Proxy") {
				t.Errorf("the API got %s", field)
			}
		}
	}

	// Rotation without a reload: the new token counts soon, and then the old one no more.
	w.File(t, "token", "third-token\n")
	eventually(t, "the new token counts", func() bool {
		return w.Get(t, "/", "Proxy-Authorization", "Bearer third-token").StatusCode == http.StatusOK
	})
	wantSidecarError(t, w.Get(t, "/", "Proxy-Authorization", "Bearer first-token"), http.StatusForbidden, "http_request_denied")
	if err := os.Remove(filepath.Join(w.Dir, "token")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nobody gets through without the file", func() bool {
		return w.Get(t, "/", "Proxy-Authorization", "Bearer third-token").StatusCode == http.StatusBadGateway
	})
	wantSidecarError(t, w.Get(t, "/"), http.StatusBadGateway, "proxy_configuration_error")
}

// TestCallerTokensDoNotLeak looks for them in all that the process says, and proves first that it would find them.
func TestCallerTokensDoNotLeak(t *testing.T) {
	t.Parallel()
	for _, logged := range []bool{false, true} {
		t.Run(fmt.Sprintf("log_credentials %t", logged), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			l := newLeaks()
			first, second := l.token("caller token"), l.token("caller token")
			guessed := l.token("guessed token")
			w.File(t, "token", first+"\n"+second+"\n")
			w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/cut" {
					_ = http.NewResponseController(rw).SetReadDeadline(time.Now())
					panic(http.ErrAbortHandler)
				}
				quote := fmt.Sprint(r.Header, r.Trailer, r.URL)
				harness.Reply(http.StatusOK, quote, "X-Quote", quote).ServeHTTP(rw, r)
			}))
			w.Run(t, w.leakyCallers(logged))
			var said strings.Builder
			for _, path := range []string{"/handler", "/proxied", "/hand", "/handler/cut", "/proxied/cut", "/hand/cut", "/handler/%2e%2e/x"} {
				for _, credentials := range []string{"Bearer " + first, "Bearer " + second, "Bearer " + guessed, "Basic " + guessed} {
					req, _ := http.NewRequest(http.MethodPost, w.URL+path, strings.NewReader("body"))
					req.Header.Set("Proxy-Authorization", credentials)
					req.Header.Set("Connection", "Proxy-Authorization")
					if response, err := w.Do(req); err == nil {
						fmt.Fprint(&said, path, response.Header, response.Text, response.Trailer)
					}
				}
			}
			w.File(t, "token", first+" "+second+"\n") // no longer one token a line
			eventually(t, "the file is read again", func() bool {
				response := w.Get(t, "/handler", "Proxy-Authorization", "Bearer "+first)
				fmt.Fprint(&said, response.Header, response.Text)
				return response.StatusCode == http.StatusBadGateway
			})
			changed := w.leakyCallers(logged)
			changed.Options += "\ngrace_period 1m"
			err := w.Reload(changed)
			if err == nil || !strings.Contains(err.Error(), "caller_token_file") {
				t.Errorf("loading it: %v", err)
			}
			fmt.Fprint(&said, err)
			for _, path := range []string{"/config/", "/http_helper/connections", "/metrics", "/reverse_proxy/upstreams", "/debug/pprof/goroutine?debug=2", "/debug/vars"} {
				_, text, err := w.Admin(http.MethodGet, path, "", "")
				fmt.Fprint(&said, text, err)
			}
			for _, saved := range []string{"caddy/autosave.json", ".config/caddy/autosave.json"} {
				text, _ := os.ReadFile(filepath.Join(w.Dir, saved))
				said.Write(text)
			}
			if got := l.in(said.String()); got != nil {
				t.Errorf("responses show %q:\n%s", got, said.String())
			}
			w.Signal(syscall.SIGTERM)
			w.Wait(t)
			for line := range strings.Lines(w.Logs()) {
				found := l.in(line)
				if found != nil && !logged {
					t.Errorf("the log shows %q: %s", found, line)
				}
			}
			if found := l.in(w.Logs()); logged && len(found) != 2 {
				t.Errorf("with log_credentials the search finds only %q", found)
			}
		})
	}
}

// leakyCallers is a configuration that logs all that Caddy can log, on every way to the API.
func (w *world) leakyCallers(logCredentials bool) harness.Config {
	servers := "servers {\ntrace\n}"
	if logCredentials {
		servers = "servers {\nlog_credentials\ntrace\n}"
	}
	const policy = "caller_token_file $DIR/token\napp_authorization keep\n"
	return w.expand(options{}, harness.Config{
		Options: "debug\nmetrics\n" + servers + "\nhttp_helper {\nconnection c {\nbase_url $API\ntoken_url $TOKENS\nclient_id app\nclient_secret {env.SECRET}\n}\n}",
		Site: "log\nhandle_path /handler* {\nhttp_helper c {\n" + policy + "}\n}\nhandle_path /proxied* {\nhttp_helper c {\n" + policy + "use_reverse_proxy\n}\n}\n" +
			"handle_path /hand* {\nreverse_proxy $API {\nheader_up X-Up 1\ntransport http_helper {\nconnection c\n" + policy + "}\n}\n}\n" +
			"handle_errors {\nrespond \"{http.error} {http.error.message} {http.error.trace}\"\n}",
	})
}

// TestRunWithACallerToken: the printed command calls, and others do not get through.
func TestRunWithACallerToken(t *testing.T) {
	t.Parallel()
	l := newLaptop(t)
	port := harness.Port(t)
	r := l.start(t, l.withSecret(port, "--caller-token-file", "./caller token", "--allow-hosts", "sidecar.test")...)
	file := filepath.Join(l.Home, "caller token")
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "mode", info.Mode(), os.FileMode(0o600))
	token, _ := os.ReadFile(file)
	_, command, _ := strings.Cut(r.Logs(), "callers need a token: ")
	command, _, _ = strings.Cut(command, "\n")
	cmd := exec.Command("sh", "-c", command+" --silent --noproxy '*' --write-out '%{http_code}'")
	cmd.Dir = l.Home
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "hello200" {
		t.Errorf("%s: %s, %v", command, out, err)
	}
	equal(t, "status without the token", l.get(t, "127.0.0.1:"+port), http.StatusForbidden)
	if strings.Contains(r.Logs(), strings.TrimSpace(string(token))) {
		t.Error("the token is printed")
	}
	r.wantGone(t, syscall.SIGTERM)

	// The next one uses the same file.
	l.start(t, l.withSecret(port, "--caller-token-file", "./caller token")...)
	if again, _ := os.ReadFile(file); string(again) != string(token) {
		t.Error("there is another token")
	}
	// One that cannot be used is an error in the words of flags.
	l.File(t, "two words", "a b\n")
	got := l.Run(t, l.withSecret(harness.Port(t), "--caller-token-file", "./two words")...)
	if got.Status != 1 || !strings.Contains(got.Stderr, "--caller-token-file: reading file ./two words: line 1 is not a token") {
		t.Errorf("%+v", got)
	}
}
