package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// world is a console with the admin endpoint that it asks.
type world struct {
	*Server
	addr   string
	client *http.Client // without a session

	mu    sync.Mutex
	asked []string          // methods and paths that the admin endpoint has seen
	says  map[string]string // its responses by path
}

// newWorld serves a console. Responses of the admin endpoint are JSON by path.
func newWorld(t *testing.T, says map[string]string, allowed ...Host) *world {
	t.Helper()
	w := &world{says: says, client: newClient(t)}
	admin := httptest.NewServer(http.HandlerFunc(func(response http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.asked = append(w.asked, r.Method+" "+r.URL.EscapedPath())
		body, ok := w.says[r.URL.Path]
		if !ok {
			response.WriteHeader(http.StatusNotFound)
			body = `{"error": "there is none"}`
		}
		_, _ = io.WriteString(response, body)
	}))
	t.Cleanup(admin.Close)
	listener, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = listener.Addr().String()
	w.Server = New(listener.Addr(), Options{AllowHosts: allowed, Admin: func() (*adminapi.Client, error) { return adminapi.New(admin.Listener.Addr().String()) }})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return w
}

// newClient returns a client with cookies of its own, which follows no redirects.
func newClient(t *testing.T) *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// response is a response with its whole body.
type response struct {
	*http.Response
	text string
}

func do(t *testing.T, client *http.Client, method, url, body string, fields ...string) response {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] == "Host" {
			req.Host = fields[i+1]
			continue
		}
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response{res, string(text)}
}

func (r response) want(t *testing.T, status int, texts ...string) {
	t.Helper()
	if r.StatusCode != status {
		t.Errorf("%s: status %d, want %d", r.Request.URL.Path, r.StatusCode, status)
	}
	for _, text := range texts {
		if !strings.Contains(r.text, text) {
			t.Errorf("%s: %q is not in\n%s", r.Request.URL.Path, text, r.text)
		}
	}
}

// enter opens the console with a new client, and returns the URL of its pages.
func (w *world) enter(t *testing.T) (*http.Client, string) {
	t.Helper()
	client, url := newClient(t), w.NewURL()
	do(t, client, http.MethodGet, url, "").want(t, http.StatusOK)
	base, _, _ := strings.Cut(url, ticketPath)
	return client, base
}

// requests returns what the admin endpoint has seen since it was asked last.
func (w *world) requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := w.asked
	w.asked = nil
	return asked
}

const oneConnection = `{"name": "billing", "connector": "acme", "state": "ready", "auth_method": "client_secret_basic", "token_url": "https://auth.example/token",
	"base_url": "https://api.example", "scopes": {"requested": ["a"], "granted": ["a"], "missing": [], "confirmed": true}, "token": null,
	"counts": {"token_requests": 3, "token_failures": 0, "rejected": 1, "adopted": 0}, "last_error": null, "next_attempt": null, "shared": {"state": "off", "last_error": null}}`

func connections(more ...string) map[string]string {
	return map[string]string{
		adminapi.ConnectionsPath:                       "[" + strings.Join(append([]string{oneConnection}, more...), ",") + "]",
		adminapi.ConnectionsPath + "/billing":          oneConnection,
		adminapi.ConnectionsPath + "/billing/refresh":  oneConnection,
		adminapi.ConnectionsPath + "/billing/ping":     `{"working": true, "service_response": {"status_code": 200, "message": "the API responded with 200 OK", "response_body": ""}}`,
		adminapi.ConnectionsPath + "/billing/events":   `[]`,
		adminapi.ConnectionsPath + "/billing/values":   `{"parameters": [{"key": "tenant", "type": "text", "label": "Your tenant", "value": "emea"}, {"key": "pass", "type": "password", "label": "Passphrase", "value": null}], "config_values": [{"key": "aud", "type": "text", "label": "Audience", "value": "urn:emea", "flow": "aud"}]}`,
		adminapi.ConnectorsPath:                        `[{"name": "acme", "label": "Acme", "fields": [], "scopes": [], "connections": ["billing"]}]`,
		"/metrics":                                     "# TYPE caddy_http_helper_requests_total counter\ncaddy_http_helper_requests_total{connection=\"billing\",outcome=\"sent\"} 41\n",
		adminapi.ConnectionsPath + "/billing/nonsense": `{}`,
		"/config/": `{}`,
		"/load":    `{}`,
		"/stop":    `{}`,
		"/http_helper/connections/billing/../../../load":  `{}`,
		"/http_helper/connections/billing/..%2f..%2fload": `{}`,
	}
}

func TestURLOpensTheConsoleOnce(t *testing.T) {
	w := newWorld(t, connections())
	printed := w.NewURL()
	if !regexp.MustCompile(`^http://127\.0\.0\.1:\d+/[\w-]{22}/open/[\w-]{43}$`).MatchString(printed) {
		t.Fatalf("%s has no path of 128 random bits and token of 256", printed)
	}
	base, _, _ := strings.Cut(printed, ticketPath)

	do(t, w.client, http.MethodGet, base+"/", "").want(t, http.StatusForbidden, "Press Enter")
	// What a browser fetches by itself, and what no browser does, does not use it up.
	do(t, w.client, http.MethodGet, printed, "", "Sec-Purpose", "prefetch;prerender").want(t, http.StatusForbidden)
	do(t, w.client, http.MethodHead, printed, "").want(t, http.StatusMethodNotAllowed)
	do(t, w.client, http.MethodPost, printed, "").want(t, http.StatusMethodNotAllowed)
	do(t, w.client, http.MethodGet, base+ticketPath, "").want(t, http.StatusForbidden)

	first := do(t, w.client, http.MethodGet, printed, "")
	first.want(t, http.StatusOK, `content="0; url=`, `href="`+strings.TrimPrefix(base, "http://"+w.addr)+`/"`)
	cookies := first.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("cookies %v", cookies)
	}
	cookie := cookies[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || "http://"+w.addr+cookie.Path != base || cookie.Domain != "" || len(cookie.Value) != 43 {
		t.Errorf("cookie %v", cookie)
	}
	do(t, w.client, http.MethodGet, base+"/", "").want(t, http.StatusOK, "billing", "41")
	// In the browser that has the console open, the URL leads there.
	again := do(t, w.client, http.MethodGet, printed, "")
	again.want(t, http.StatusForbidden, "This browser has the console open", `href="`+strings.TrimPrefix(base, "http://"+w.addr)+`/"`)
	if len(again.Cookies()) > 0 {
		t.Errorf("the URL works twice: %v", again.Cookies())
	}

	other := newClient(t)
	do(t, other, http.MethodGet, printed, "").want(t, http.StatusForbidden, "does not work any more")
	do(t, other, http.MethodGet, base+"/", "").want(t, http.StatusForbidden)
	do(t, other, http.MethodGet, base+"/", "", "Cookie", cookieName+"="+randomText(256)).want(t, http.StatusForbidden)

	// Another URL replaces one that was not used, and ends no session.
	unused := w.NewURL()
	newest := w.NewURL()
	do(t, other, http.MethodGet, unused, "").want(t, http.StatusForbidden)
	do(t, other, http.MethodGet, newest, "").want(t, http.StatusOK)
	do(t, other, http.MethodGet, base+"/", "").want(t, http.StatusOK)
	do(t, w.client, http.MethodGet, base+"/", "").want(t, http.StatusOK)
}

// Of many who open a URL at once, one has the console.
func TestURLOpensTheConsoleForOne(t *testing.T) {
	w := newWorld(t, connections())
	url := w.NewURL()
	statuses := make(chan int)
	for range 8 {
		client := newClient(t)
		go func() {
			res, err := client.Get(url)
			if err != nil {
				statuses <- 0
				return
			}
			_ = res.Body.Close()
			statuses <- res.StatusCode
		}()
	}
	opened := 0
	for range 8 {
		if <-statuses == http.StatusOK {
			opened++
		}
	}
	if opened != 1 {
		t.Errorf("it was opened %d times", opened)
	}
}

func TestPathIsSecret(t *testing.T) {
	w := newWorld(t, connections())
	_, base := w.enter(t)
	secret := strings.TrimPrefix(base, "http://"+w.addr+"/")
	for _, path := range []string{"/", "/connections/billing", "/favicon.ico", "/" + secret[:21] + "/", "/" + secret + "x/", "/" + secret} {
		res := do(t, w.client, http.MethodGet, "http://"+w.addr+path, "")
		res.want(t, http.StatusNotFound)
		if strings.Contains(res.text, secret) || strings.Contains(res.Header.Get("Location"), secret) {
			t.Errorf("%s tells the path", path)
		}
	}
}

func TestHost(t *testing.T) {
	var allowed []Host
	for _, text := range []string{"devbox.example", "tunnel.example:8443"} {
		host, err := ParseHost(text)
		if err != nil {
			t.Fatal(err)
		}
		allowed = append(allowed, host)
	}
	w := newWorld(t, connections(), allowed...)
	client, base := w.enter(t)
	_, port, _ := net.SplitHostPort(w.addr)
	cookie := client.Jar.Cookies(must(url.Parse(base + "/")))[0].String()
	statuses := map[string]int{
		w.addr: 200, "localhost:" + port: 200, "LOCALHOST:" + port: 200, "localhost.:" + port: 200,
		"devbox.example": 200, "devbox.example:" + port: 200, "DevBox.Example.:9": 200, "tunnel.example:8443": 200,
		"tunnel.example": 403, "tunnel.example:" + port: 403, "localhost": 403, "localhost:1": 403, "127.0.0.1": 403, "127.0.0.1:1": 403, "127.0.0.2:" + port: 403,
		"[::1]:" + port: 403, "evil.example": 403, "evil.example:" + port: 403, "localhost.evil.example:" + port: 403, "x.devbox.example": 403,
	}
	for host, want := range statuses {
		if got := do(t, newClient(t), http.MethodGet, base+"/", "", "Host", host, "Cookie", cookie).StatusCode; got != want {
			t.Errorf("%q: status %d, want %d", host, got, want)
		}
	}
	// The token of a URL is not used up either.
	for host, want := range statuses {
		ticket := w.NewURL()
		if got := do(t, newClient(t), http.MethodGet, ticket, "", "Host", host).StatusCode; got != want {
			t.Errorf("%q: the URL has status %d, want %d", host, got, want)
		}
		if got := do(t, newClient(t), http.MethodGet, ticket, "").StatusCode; (got == 200) != (want == 403) {
			t.Errorf("%q: the URL has status %d afterwards", host, got)
		}
	}
	if allowed := hostsOf(&net.TCPAddr{IP: net.IPv6loopback, Port: 80}, nil); !allowed.allow("[::1]") || !allowed.allow("[::1]:80") || !allowed.allow("localhost") || allowed.allow("127.0.0.1") {
		t.Error("the default port")
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func TestParseHost(t *testing.T) {
	for _, bad := range []string{"", "*", "*.example", "http://a.example", "a.example/", "a..b", "-a", "a:", "a:0", "a:65536", "a:b", "[::1]", "a b", "a.example:80:80"} {
		if host, err := ParseHost(bad); err == nil {
			t.Errorf("%q is %v", bad, host)
		}
	}
}

func TestListen(t *testing.T) {
	for _, address := range []string{
		"", ":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "10.0.0.1:80", "example.com:0", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:-1", "127.0.0.1:65536",
		"[::ffff:192.0.2.1]:0", "[fe80::1%lo]:0", "unix//tmp/s", "0:0",
	} {
		if listener, err := Listen(address); err == nil {
			t.Errorf("%q listens on %v", address, listener.Addr())
			_ = listener.Close()
		} else if !strings.Contains(err.Error(), "--listen") {
			t.Errorf("%q: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:0", "127.1.2.3:0", "localhost:0", "[::ffff:127.0.0.1]:0"} {
		listener, err := Listen(address)
		if err != nil {
			t.Errorf("%q: %v", address, err)
			continue
		}
		if !listener.Addr().(*net.TCPAddr).IP.IsLoopback() {
			t.Errorf("%q listens on %v", address, listener.Addr())
		}
		_ = listener.Close()
	}
}

func TestCrossSitePost(t *testing.T) {
	w := newWorld(t, connections())
	client, base := w.enter(t)
	w.requests()
	for _, fields := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
		{"Origin", "http://localhost:1"},
		{"Sec-Fetch-Site", "cross-site", "Origin", "http://" + w.addr},
	} {
		do(t, client, http.MethodPost, base+"/connections/billing/refresh", "", fields...).want(t, http.StatusForbidden)
	}
	do(t, newClient(t), http.MethodPost, base+"/connections/billing/refresh", "", "Sec-Fetch-Site", "same-origin").want(t, http.StatusForbidden)
	if asked := w.requests(); len(asked) > 0 {
		t.Errorf("the admin endpoint saw %q", asked)
	}
	do(t, client, http.MethodPost, base+"/connections/billing/refresh", "", "Sec-Fetch-Site", "same-origin", "Origin", "http://"+w.addr).
		want(t, http.StatusOK, "There is a new token")
	if asked := w.requests(); !slices.Contains(asked, "POST /http_helper/connections/billing/refresh") {
		t.Errorf("the admin endpoint saw %q", asked)
	}
	// Nothing changes by GET.
	do(t, client, http.MethodGet, base+"/connections/billing/refresh", "").want(t, http.StatusSeeOther)
	if asked := w.requests(); len(asked) > 0 {
		t.Errorf("the admin endpoint saw %q", asked)
	}
}

func TestHeadersOfEveryResponse(t *testing.T) {
	w := newWorld(t, connections())
	printed := w.NewURL()
	base, _, _ := strings.Cut(printed, ticketPath)
	for name, res := range map[string]response{
		"elsewhere":    do(t, w.client, http.MethodGet, "http://"+w.addr+"/", ""),
		"wrong host":   do(t, w.client, http.MethodGet, "http://"+w.addr+"/", "", "Host", "evil.example"),
		"cross-site":   do(t, w.client, http.MethodPost, base+"/", "", "Sec-Fetch-Site", "cross-site"),
		"no session":   do(t, w.client, http.MethodGet, base+"/", ""),
		"the URL":      do(t, w.client, http.MethodGet, printed, ""),
		"a page":       do(t, w.client, http.MethodGet, base+"/", ""),
		"an asset":     do(t, w.client, http.MethodGet, base+"/assets/console.css", ""),
		"wrong method": do(t, w.client, http.MethodDelete, base+"/connectors", ""),
		"no page":      do(t, w.client, http.MethodGet, base+"/nothing", ""),
	} {
		for field, want := range map[string]string{
			"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		} {
			if got := res.Header.Get(field); got != want {
				t.Errorf("%s: %s %q", name, field, got)
			}
		}
		policy := res.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("%s: policy %q", name, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
			t.Errorf("%s: policy %q", name, policy)
		}
	}
}

// Only what the pages need is asked of the admin endpoint.
func TestNothingElseIsForwarded(t *testing.T) {
	w := newWorld(t, connections())
	client, base := w.enter(t)
	known := regexp.MustCompile(`^GET /(metrics|http_helper/connect(ors|ions)(/[A-Za-z0-9_.-]+(/(events|values))?)?)$|^POST /http_helper/connections/[A-Za-z0-9_.-]+/(refresh|ping)$`)
	for _, path := range []string{
		"/", "/connections/billing", "/connections/none", "/connectors", "/connections/..%2f..%2fload", "/connections/..", "/connections/.", "/connections/%2e%2e", "/connections/%2e%2e%2f%2e%2e%2fstop",
		"/connections/a%2fb", "/connections/a%3fb", "/connections/a%23b", "/connections/a%20b", "/connections/%00", "/load", "/stop", "/config/", "/connections/billing/config", "/connections/billing/stop",
	} {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
			for _, action := range []string{"", "/refresh", "/ping"} {
				do(t, client, method, base+path+action, "")
			}
		}
	}
	for _, asked := range w.requests() {
		if !known.MatchString(asked) {
			t.Errorf("the admin endpoint saw %s", asked)
		}
	}
}

// A connection's page shows all that the admin API tells.
func TestConnectionPage(t *testing.T) {
	says := connections()
	obtained := time.Now().Add(-30 * time.Minute).UTC().Truncate(time.Second)
	token := fmt.Sprintf(`"token": {"obtained": %q, "refresh": %q, "expires": %q, "source": "shared"}`,
		obtained.Format(time.RFC3339), obtained.Add(48*time.Minute).Format(time.RFC3339), obtained.Add(time.Hour).Format(time.RFC3339))
	says[adminapi.ConnectionsPath+"/billing"] = strings.NewReplacer(
		`"token": null`, token+`, "allow": [{"method": ["GET", "HEAD"], "path": ["/contacts/*"]}], "connector_allow": [{}]`, `"ready"`, `"failing"`, `"requested": ["a"]`, `"requested": ["a", "b"]`, `"missing": []`, `"missing": ["b"]`,
		`"last_error": null, "next_attempt": null`, `"last_error": {"at": "2026-01-02T03:04:05Z", "class": "outage", "code": null, "message": "the server is away"}, "next_attempt": "`+time.Now().Add(2*time.Minute).Format(time.RFC3339)+`"`,
		`{"state": "off", "last_error": null}`, `{"state": "degraded", "last_error": "loading failed: timeout"}`,
	).Replace(oneConnection)
	says[adminapi.ConnectionsPath+"/billing/events"] = `[{"at": "2026-01-02T03:04:05.678Z", "kind": "rejected", "status": 401, "code": null, "duration": 0.25, "count": 3}]`
	w := newWorld(t, says)
	client, base := w.enter(t)
	do(t, client, http.MethodGet, base+"/connections/billing", "").want(t, http.StatusOK,
		"https://api.example", "https://auth.example/token", "client_secret_basic", `href="`+strings.TrimPrefix(base, "http://"+w.addr)+`/connectors/acme"`,
		"It has a token, but cannot get a new one.", "the server is away", "It ends by itself", "tried again in 1 minute", "Waiting after a failure",
		"50 % of the token&#39;s life have passed; it is replaced from 80 % on.", obtained.Format(time.RFC3339), "30 minutes ago", "the shared storage",
		"not granted", "Not granted: b.", "loading failed: timeout", "not now, because the storage fails",
		"Allowed", "GET HEAD /contacts/*", "Allowed by connector", "any method any path", "Your tenant", "emea", "Passphrase", "a secret", "Audience", "urn:emea",
		"<dd>41</dd>", "<dt>Token requests</dt><dd>3</dd>", "Token rejected", "API 401, 3 times", "250ms",
	)
	w.mu.Lock()
	says[adminapi.ConnectionsPath+"/billing"] = strings.NewReplacer(`"confirmed": true`, `"confirmed": false`, `"token": null`, token).Replace(oneConnection)
	delete(says, adminapi.ConnectionsPath+"/billing/events")
	delete(says, adminapi.ConnectionsPath+"/billing/values")
	delete(says, "/metrics")
	w.mu.Unlock()
	// Of a sidecar of an earlier version there is less.
	older := do(t, client, http.MethodGet, base+"/connections/billing", "")
	older.want(t, http.StatusOK, "not confirmed", "nothing confirms them", "The sidecar does not tell them.")
	if strings.Contains(older.text, ">granted<") {
		t.Error("a scope is called granted that the server has not confirmed")
	}
}

func TestPingShowsItsResult(t *testing.T) {
	says := connections()
	w := newWorld(t, says)
	client, base := w.enter(t)
	do(t, client, http.MethodPost, base+"/connections/billing/ping", "").want(t, http.StatusOK, "It works", "The API responded with 200 OK.")
	w.mu.Lock()
	says[adminapi.ConnectionsPath+"/billing/ping"] = `{"working": false, "service_response": {"status_code": 403, "message": "the API responded with 403 Forbidden", "response_body": "<script>alert(1)</script>"}}`
	w.mu.Unlock()
	do(t, client, http.MethodPost, base+"/connections/billing/ping", "").
		want(t, http.StatusOK, "It does not work", "The API responded with 403 Forbidden.", "&lt;script&gt;alert(1)&lt;/script&gt;", "Nothing has happened yet.")
}

// hostile is a text that would run as a script, in each place where a page may put it.
const hostile = `"'></title></script><script>alert(1)</script><img src=x onerror=alert(1)>{{.}}javascript:alert(1)`

// Texts of connectors and of other servers are text in every page.
func TestHostileTexts(t *testing.T) {
	text := string(must(json.Marshal(hostile)))
	hostileConnection := strings.NewReplacer(
		`"connector": "acme"`, `"connector": `+text, `"https://auth.example/token"`, text, `"https://api.example"`, text, `["a"]`, "["+text+"]", `"missing": []`, `"missing": [`+text+`]`,
		`"last_error": null, "next`, `"last_error": {"at": "2026-01-02T03:04:05Z", "class": `+text+`, "code": `+text+`, "message": `+text+`}, "next`,
		`"auth_method": "client_secret_basic"`, `"auth_method": `+text, `{"state": "off", "last_error": null}`, `{"state": "degraded", "last_error": `+text+`}`,
		`"state": "ready"`, `"state": "down"`,
	).Replace(oneConnection)
	w := newWorld(t, map[string]string{
		adminapi.ConnectionsPath:                     "[" + hostileConnection + "]",
		adminapi.ConnectionsPath + "/billing":        hostileConnection,
		adminapi.ConnectionsPath + "/billing/events": `[{"at": "2026-01-02T03:04:05Z", "kind": ` + text + `, "status": 1, "code": ` + text + `, "duration": 1, "count": 2}]`,
		adminapi.ConnectionsPath + "/billing/values": `{"parameters": [{"key": "a", "type": "text", "label": ` + text + `, "value": ` + text + `}], "config_values": [{"key": "b", "type": "text", "label": ` + text + `, "value": ` + text + `}]}`,
		adminapi.ConnectionsPath + "/billing/ping":   `{"working": false, "service_response": {"status_code": 1, "message": ` + text + `, "response_body": ` + text + `}}`,
		adminapi.ConnectorsPath: `[{"name": "acme", "label": ` + text + `, "base_url": ` + text + `, "fields": [{"key": "a", "label": ` + text + `}],
			"scopes": [{"name": ` + text + `}], "connections": [` + text + `]}]`,
	})
	client, base := w.enter(t)
	for _, res := range []response{
		do(t, client, http.MethodGet, base+"/", ""),
		do(t, client, http.MethodGet, base+"/?q="+url.QueryEscape(hostile)+"&state="+url.QueryEscape(hostile), ""),
		do(t, client, http.MethodGet, base+"/connections/billing", ""),
		do(t, client, http.MethodPost, base+"/connections/billing/ping", ""),
		do(t, client, http.MethodPost, base+"/connections/billing/refresh", ""),
		do(t, client, http.MethodGet, base+"/connectors", ""),
		do(t, client, http.MethodGet, base+"/connectors?q="+url.QueryEscape(hostile), ""),
		do(t, client, http.MethodGet, base+"/connections/"+url.PathEscape(hostile), ""),
	} {
		if strings.Contains(res.text, "<script>alert") || strings.Contains(res.text, "<img src=x") || strings.Contains(res.text, `"'>`) || strings.Contains(res.text, `="javascript:`) {
			t.Errorf("%s:\n%s", res.Request.URL, res.text)
		}
		if !strings.Contains(res.text, "</html>") {
			t.Errorf("%s is not complete:\n%s", res.Request.URL, res.text)
		}
	}
}

// A page has 100 connections, those first that do not work; the rest is behind links that keep the filter.
func TestPaging(t *testing.T) {
	var many []string
	for i := range 250 {
		state := map[bool]string{true: "down", false: "ready"}[i == 249]
		many = append(many, strings.NewReplacer(`"billing"`, fmt.Sprintf(`"orders-%03d"`, i), `"ready"`, `"`+state+`"`).Replace(oneConnection))
	}
	w := newWorld(t, connections(many...))
	client, base := w.enter(t)
	row := regexp.MustCompile(`<th scope="row"><a href="[^"]*">([^<]*)</a>`)
	next := regexp.MustCompile(`<a class="button" href="([^"]*)" rel="next">`)
	page := func(path string) (names []string, following string) {
		t.Helper()
		res := do(t, client, http.MethodGet, "http://"+w.addr+path, "")
		res.want(t, http.StatusOK)
		for _, match := range row.FindAllStringSubmatch(res.text, -1) {
			names = append(names, match[1])
		}
		if match := next.FindStringSubmatch(res.text); match != nil {
			following = html.UnescapeString(match[1])
		}
		return names, following
	}
	var all []string
	pages := 0
	for path := strings.TrimPrefix(base, "http://"+w.addr) + "/?q=orders"; path != ""; pages++ {
		var names []string
		names, path = page(path)
		all = append(all, names...)
	}
	slices.Sort(all[1:])
	if pages != 3 || len(all) != 250 || all[0] != "orders-249" || all[1] != "orders-000" || len(slices.Compact(all)) != 250 {
		t.Errorf("%d pages with %d connections, %q first", pages, len(all), all[:min(2, len(all))])
	}
	for query, want := range map[string]int{"": 100, "?page=3": 51, "?page=99": 51, "?page=-1": 100, "?page=x": 100, "?q=ORDERS+24&state=ready": 12, "?state=down": 1, "?q=nothing": 0, "?state=nothing": 0} {
		if names, _ := page(strings.TrimPrefix(base, "http://"+w.addr) + "/" + query); len(names) != want {
			t.Errorf("%q: %d connections, want %d", query, len(names), want)
		}
	}
}

// The list begins with what somebody has to look at.
func TestOrderOfConnections(t *testing.T) {
	var all []string
	for _, c := range [][]string{
		{"a-idle", `"ready"`, `"idle"`}, {"b-missing", `"missing": []`, `"missing": ["a"]`}, {"c-ready"}, {"d-degraded", `"state": "off"`, `"state": "degraded"`}, {"e-failing", `"ready"`, `"failing"`}, {"f-down", `"ready"`, `"down"`},
	} {
		all = append(all, strings.NewReplacer(append([]string{`"billing"`, `"` + c[0] + `"`}, c[1:]...)...).Replace(oneConnection))
	}
	w := newWorld(t, map[string]string{adminapi.ConnectionsPath: "[" + strings.Join(all, ",") + "]"})
	client, base := w.enter(t)
	var names []string
	for _, match := range regexp.MustCompile(`<th scope="row"><a href="[^"]*">([^<]*)</a>`).FindAllStringSubmatch(do(t, client, http.MethodGet, base+"/", "").text, -1) {
		names = append(names, match[1])
	}
	if got := strings.Join(names, " "); got != "f-down e-failing b-missing d-degraded a-idle c-ready" {
		t.Errorf("the order is %s", got)
	}
}

// A connector without scopes that permits more says so.
func TestScopeRule(t *testing.T) {
	form := adminapi.Connector{Permissions: adminapi.Permissions{CustomizeScopes: true, AdditionalScopes: true}}
	if got := scopeRule(form); got != "the connector lists none; connections may add some" {
		t.Error(got)
	}
}

// The pages say what to do when there is no sidecar.
func TestNoSidecar(t *testing.T) {
	s := New(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, Options{Admin: func() (*adminapi.Client, error) {
		return adminapi.New(filepath.Join(t.TempDir(), "none.sock"))
	}})
	for path, status := range map[string]int{"/": 200, "/connectors": 200, "/connections/billing": 502} {
		got := entered(t, s, path)
		if got.Code != status || !strings.Contains(got.Body.String(), "o Caddy responds at unix/") {
			t.Errorf("%s: status %d\n%s", path, got.Code, got.Body)
		}
		if page := got.Body.String(); !strings.Contains(page, "Start it, or ") || strings.Contains(page, "looks again by itself") != (path == "/") {
			t.Errorf("%s does not say what to do, or what it does not do itself:\n%s", path, page)
		}
	}
}

// entered makes a request with a session, without a network.
func entered(t *testing.T, s *Server, path string) *httptest.ResponseRecorder {
	t.Helper()
	printed := must(url.Parse(s.NewURL()))
	recorder := httptest.NewRecorder()
	s.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, printed.String(), nil))
	base, _, _ := strings.Cut(printed.String(), ticketPath)
	req := httptest.NewRequest(http.MethodGet, base+path, nil)
	for _, cookie := range recorder.Result().Cookies() {
		req.AddCookie(cookie)
	}
	recorder = httptest.NewRecorder()
	s.ServeHTTP(recorder, req)
	return recorder
}

// The console ends 30 minutes after somebody did something last. What a page fetches by itself, and
// requests of others, count for nothing.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions()
		ended := make(chan error, 1)
		go func() { ended <- s.awaitIdle(t.Context()) }()
		has := func(want bool) {
			t.Helper()
			synctest.Wait()
			if got := len(ended) > 0; got != want {
				t.Fatalf("ended: %v, want %v", got, want)
			}
		}
		time.Sleep(29 * time.Minute)
		cookie, ok := s.exchange(strings.TrimPrefix(s.newTicketPath(), s.base+ticketPath))
		if !ok {
			t.Fatal("there is no session")
		}
		request := func(path, cookie string) {
			req := httptest.NewRequest(http.MethodGet, path, nil)
			req.AddCookie(&http.Cookie{Name: cookieName, Value: cookie})
			s.find(req)
		}
		time.Sleep(29 * time.Minute)
		has(false)
		request("/", cookie)
		time.Sleep(20 * time.Minute)
		request("/?auto=1", cookie)
		request("/", "other")
		time.Sleep(9 * time.Minute)
		has(false)
		time.Sleep(2 * time.Minute)
		has(true)
		if err := <-ended; !errors.Is(err, ErrIdle) {
			t.Error(err)
		}
	})
}

func TestServeEndsIdle(t *testing.T) {
	listener := must(Listen("127.0.0.1:0"))
	s := New(listener.Addr(), Options{})
	s.sessions.used = time.Now().Add(-time.Hour)
	ctx, cancel := context.WithCancelCause(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	cancel(ErrIdle) // as awaitIdle does
	if err := <-served; !errors.Is(err, ErrIdle) {
		t.Errorf("Serve: %v", err)
	}
	if _, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

// A browser is started with a file that only the user can read, and not with the URL.
func TestOpen(t *testing.T) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		t.Skip("the program that opens files cannot be replaced here")
	}
	dir := t.TempDir()
	opened := filepath.Join(dir, "opened")
	script := "#!/bin/sh\necho \"$@\" > " + opened + ".new\ncat \"$1\" >> " + opened + ".new\nstat -c %a \"$1\" >> " + opened + ".new\nmv " + opened + ".new " + opened + "\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", dir)
	const url = "http://127.0.0.1:1/secret-path/open/secret-token"
	remove, err := Open(url)
	if err != nil {
		t.Fatal(err)
	}
	var text string
	for deadline := time.Now().Add(20 * time.Second); text == "" && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		content, _ := os.ReadFile(opened)
		text = string(content)
	}
	first, rest, _ := strings.Cut(text, "\n")
	if strings.Contains(first, "secret") || !strings.Contains(rest, `href="`+url+`"`) || !strings.HasSuffix(rest, "600\n") {
		t.Errorf("opened with %s", text)
	}
	remove()
	if left := must(filepath.Glob(filepath.Join(dir, "http-helper-console-*"))); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestKeyFilesThatAreNotUsable are told of while tokens are shared all the same: the next restart fails.
func TestKeyFilesThatAreNotUsable(t *testing.T) {
	lastError := "key_file: /k: the key is empty; the last good keys stay in use"
	all := problemsOf(adminapi.Connection{Shared: adminapi.Shared{State: adminapi.SharedOn, LastError: &lastError}}, time.Now())
	if len(all) != 1 || !strings.Contains(all[0].Title, lastError) || !slices.Equal(all[0].Lines, []string{adminapi.AdviceKeyFiles}) {
		t.Errorf("notices %+v", all)
	}
}
