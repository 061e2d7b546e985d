package httphelper

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestFlowModules(t *testing.T) {
	for id, want := range map[string]string{"http_helper.flows.request": "*flows.Request", "http_helper.flows.template": "*flows.Template"} {
		module, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%T", module.New()); got != want {
			t.Errorf("%s is %s", id, got)
		}
	}
}

// TestConfigOfContext fails when Caddy renames the private field that the warning about the admin
// endpoint depends on.
func TestConfigOfContext(t *testing.T) {
	loadCaddyfile(t, "{\n\thttp_helper\n}\n")
	t.Cleanup(func() { _ = caddy.Stop() })
	config := configOf(caddy.ActiveContext())
	if config == nil {
		t.Fatal("caddy.Context has no field cfg of type *caddy.Config any more: see configOf")
	}
	if config.Admin == nil || !config.Admin.Disabled {
		t.Errorf("the admin part is %+v, not that of the loaded config", config.Admin)
	}
	if config := configOf(caddy.Context{Context: t.Context()}); config != nil {
		t.Errorf("a context without a config has %+v", config)
	}
}

func TestTCPAdmin(t *testing.T) {
	t.Setenv("ADMIN_ADDRESS", "127.0.0.1:2020")
	for name, test := range map[string]struct {
		config *caddy.Config
		want   string
	}{
		"no config":   {nil, ""},
		"default":     {new(caddy.Config), caddy.DefaultAdminListen},
		"no address":  {&caddy.Config{Admin: new(caddy.AdminConfig)}, caddy.DefaultAdminListen},
		"off":         {&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true, Listen: "localhost:2019"}}, ""},
		"TCP":         {&caddy.Config{Admin: &caddy.AdminConfig{Listen: "localhost:1234"}}, "localhost:1234"},
		"placeholder": {&caddy.Config{Admin: &caddy.AdminConfig{Listen: "{env.ADMIN_ADDRESS}"}}, "127.0.0.1:2020"},
		"unix socket": {&caddy.Config{Admin: &caddy.AdminConfig{Listen: "unix//run/admin.sock|0200"}}, ""},
		"fd":          {&caddy.Config{Admin: &caddy.AdminConfig{Listen: "fd/3"}}, ""},
	} {
		if got := tcpAdmin(test.config); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestListNames: an error about a name that does not exist is of bounded length.
func TestListNames(t *testing.T) {
	var many []string
	for i := range 12 {
		many = append(many, fmt.Sprintf("c%d", i))
	}
	for names, want := range map[int]string{
		0: "there is none", 1: "there is c0", 2: "there are c0, c1",
		12: "there are c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more",
	} {
		if got := listNames(many[:names]); got != want {
			t.Errorf("%d: %s", names, got)
		}
	}
}

// TestMistakesAreReportedTogether: one attempt names every mistake (rule 23).
func TestMistakesAreReportedTogether(t *testing.T) {
	for _, test := range []struct{ name, parameters string }{
		{"api", `"a": {"value": "{env.UNSET_A}"}, "b": {"value": "{env.UNSET_B}"}`},
		{"bad name", `"a": {"value": "x"}, "c": {"value": "y"}`},
	} {
		config := fmt.Sprintf(`{"admin": {"disabled": true}, "apps": {"http_helper": {
			"connectors": {"k": {"base_url": "https://api.example", "token_url": "https://auth.example/token", "auth_method": "client_secret_basic", "parameters": [{"key": "a", "type": "text"}, {"key": "b", "type": "text"}]}},
			"connections": {%q: {"connector": "k", "client_id": "id", "client_secret": "secret", "parameters": {%s}}}
		}}}`, test.name, test.parameters)
		err := caddy.Load([]byte(config), true)
		_ = caddy.Stop()
		wants := []string{"parameter a", "parameter b"}
		if test.name != "api" {
			wants = []string{"a name consists of", "parameter b", "parameter c"}
		}
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("connection %q: %v names no %s", test.name, err, want)
			}
		}
	}
}

// unfinishedBodies are requests' fields that announce a body, and its beginning. The rest never comes.
var unfinishedBodies = map[string]string{
	"expect":  "Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
	"chunked": "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
	"length":  "Content-Length: 10\r\n\r\nbody",
	"large":   "Content-Length: 10000000\r\n\r\nbody",
}

// TestErrorsComeWhileTheBodyIsComing: an error of the proxy itself does not wait for the rest of the request (rule 21).
func TestErrorsComeWhileTheBodyIsComing(t *testing.T) {
	e, down, a := newIdP(t), newIdP(t), newAPI(t, nil)
	down.respond(func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusServiceUnavailable) })
	closed := newAPI(t, nil)
	closed.Close()
	byHand := fmt.Sprintf("{\n\thttp_helper {\n\t\tconnection c {\n\t\t\tbase_url %s\n\t\t\ttoken_url %s\n\t\t\tclient_id id\n\t\t\tclient_secret literal-secret\n\t\t}\n\t}\n}\n"+
		"SITE {\n\treverse_proxy %s {\n\t\ttransport http_helper {\n\t\t\tconnection c\n\t\t}\n\t}\n}\n", a.URL, down.URL, a.URL)
	withErrors := strings.Replace(inline(a, down, ""), "\n}\n", "\n\thandle_errors {\n\t\trespond \"sorry\"\n\t}\n}\n", 1)
	for name, test := range map[string]struct {
		caddyfile, request string
		status             int
	}{
		"no token":              {inline(a, down, ""), "POST / HTTP/1.1\r\n", 503},
		"no token, logged":      {strings.Replace(inline(a, down, ""), "\n}\n", "\n\tlog {\n\t\toutput discard\n\t}\n}\n", 1), "POST / HTTP/1.1\r\n", 503},
		"no token, by hand":     {byHand, "POST / HTTP/1.1\r\n", 503},
		"path":                  {inline(a, e, ""), "POST /%2e%2e HTTP/1.1\r\n", 400},
		"path, by hand":         {byHand, "POST /%2e%2e HTTP/1.1\r\n", 400},
		"method":                {inline(a, e, ""), "TRACE / HTTP/1.1\r\n", 405},
		"another site":          {inline(a, e, ""), "POST / HTTP/1.1\r\nSec-Fetch-Site: cross-site\r\n", 403},
		"handle_errors":         {withErrors, "POST / HTTP/1.1\r\n", 503},
		"gRPC":                  {inline(a, down, ""), "POST / HTTP/1.1\r\nContent-Type: application/grpc\r\n", 200},
		"gRPC, by hand":         {byHand, "POST / HTTP/1.1\r\nContent-Type: application/grpc\r\n", 200},
		"unreachable API":       {inline(closed, e, ""), "POST / HTTP/1.1\r\n", 502},
		"unreachable API, gRPC": {inline(closed, e, ""), "POST / HTTP/1.1\r\nContent-Type: application/grpc\r\n", 200},
		"unreachable, HTTP/1.0": {inline(closed, e, ""), "POST / HTTP/1.0\r\nConnection: keep-alive\r\n", 502},
	} {
		t.Run(name, func(t *testing.T) {
			site := runSidecar(t, test.caddyfile)
			for kind, body := range unfinishedBodies {
				if strings.Contains(test.request, "1.0") && kind != "length" {
					continue
				}
				res := rawCall(t, site, test.request+"Host: localhost\r\n"+body)
				if res.StatusCode != test.status || !res.Close || res.Header.Get("Proxy-Status") == "" {
					t.Errorf("%s: got %d, closing: %t, %v", kind, res.StatusCode, res.Close, res.Header)
				}
			}
		})
	}
}

// TestErrorsKeepTheConnectionOpen when there is no body that may still come.
func TestErrorsKeepTheConnectionOpen(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, ""))
	for _, fields := range []string{"", "Content-Length: 0\r\n"} {
		if res := rawCall(t, site, "POST /%2e%2e HTTP/1.1\r\nHost: localhost\r\n"+fields+"\r\n"); res.StatusCode != 400 || res.Close {
			t.Errorf("%q: got %d, closing: %t", fields, res.StatusCode, res.Close)
		}
	}
}

// TestBrokenBodiesAreTheCallersFault: an app that breaks off its request or sends a malformed body gets a 400,
// and nobody else gets anything because of it (rule 21).
func TestBrokenBodiesAreTheCallersFault(t *testing.T) {
	e := newIdP(t)
	a := newAPI(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	secure, ca := tlsAPI(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	const passive = "fail_duration 1h\n\t\tmax_fails 1\n\t\tunhealthy_status 4xx 5xx"
	byHand := func(a *api) string {
		return fmt.Sprintf("{\n\thttp_helper {\n\t\tconnection c {\n\t\t\tbase_url %s\n\t\t\ttoken_url %s\n\t\t\tclient_id id\n\t\t\tclient_secret literal-secret\n\t\t}\n\t}\n}\n"+
			"SITE {\n\treverse_proxy %s {\n\t\tfail_duration 1h\n\t\ttransport http_helper {\n\t\t\tconnection c\n\t\t}\n\t}\n}\n", a.URL, e.URL, a.URL)
	}
	for name, caddyfile := range map[string]string{
		"directive":   inline(a, e, passive),
		"by hand":     byHand(a),
		"HTTP/2":      inline(secure, e, passive+"\n\t\ttransport http {\n\t\t\ttls_trust_pool file "+ca+"\n\t\t}"),
		"buffered":    inline(a, e, passive+"\n\t\trequest_buffers 1MiB"),
		"no replay":   inline(a, e, passive+"\n\t\treplay_buffer 0"),
		"retries":     inline(a, e, passive+"\n\t\tlb_retries 2"),
		"error route": strings.Replace(inline(a, e, passive), "\n}\n", "\n\thandle_errors {\n\t\trespond \"{err.message}\"\n\t}\n}\n", 1),
	} {
		t.Run(name, func(t *testing.T) {
			site := runSidecar(t, caddyfile)
			for kind, body := range map[string]string{
				"malformed chunk":     "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\nnot hex\r\n",
				"no chunk at all":     "Transfer-Encoding: chunked\r\n\r\nnot hex\r\n",
				"malformed trailer":   "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nno field\r\n\r\n",
				"broken off":          "Content-Length: 10\r\n\r\nbody",
				"broken off, chunked": "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n",
			} {
				res := brokenCall(t, site, "POST / HTTP/1.1\r\nHost: localhost\r\n"+body)
				if status := res.Header.Get("Proxy-Status"); res.StatusCode != 400 || !strings.HasPrefix(status, "http_helper; error=http_request_error") {
					t.Errorf("%s: got %d %q", kind, res.StatusCode, status)
				}
				if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != 200 {
					t.Errorf("%s: the next request got %d %s", kind, res.StatusCode, res.Header.Get("Proxy-Status"))
				}
			}
		})
	}
}

// brokenCall sends a request, ends its own side of the connection, and reads the response.
func brokenCall(t *testing.T, site, request string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(site, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, request)
	_ = conn.(*net.TCPConn).CloseWrite()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res
}

// TestTooLargeBody: what a handler before ours says about the body is what the app gets.
func TestTooLargeBody(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	site := runSidecar(t, strings.Replace(inline(a, e, "fail_duration 1h"), "SITE {", "SITE {\n\trequest_body {\n\t\tmax_size 10\n\t}", 1))
	res := rawCall(t, site, "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n14\r\n01234567890123456789\r\n0\r\n\r\n")
	if res.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(res.Header.Get("Proxy-Status"), "http_request_error") {
		t.Errorf("got %d %v", res.StatusCode, res.Header)
	}
	if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != 200 {
		t.Errorf("the next request got %d", res.StatusCode)
	}
}

// twoConnections is a Caddyfile with the connections admin and reader, each with an API under a path of its
// name, whose tokens come from different places; site is the site's block.
func twoConnections(a *api, admin, reader *fakeIdP, site string) string {
	connection := func(name string, e *fakeIdP) string {
		return fmt.Sprintf("\t\tconnection %s {\n\t\t\tbase_url %s/%s\n\t\t\ttoken_url %s\n\t\t\tclient_id id\n\t\t\tclient_secret literal-secret\n\t\t}\n", name, a.URL, name, e.URL)
	}
	return "{\n\thttp_helper {\n" + connection("admin", admin) + connection("reader", reader) + "\t}\n}\nSITE {\n" + strings.ReplaceAll(site, "API", a.URL) + "\n}\n"
}

// TestErrorRoutesLeaveNothingOfTheError: when another connection serves the request after all, its response
// has no field of the error before (rule 21).
func TestErrorRoutesLeaveNothingOfTheError(t *testing.T) {
	e, down, a := newIdP(t), newIdP(t), newAPI(t, nil)
	down.respond(func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusServiceUnavailable) })
	const byHand = "reverse_proxy API {\n\t\ttransport http_helper {\n\t\t\tconnection reader\n\t\t}\n\t}"
	for name, site := range map[string]string{
		"handler":             "http_helper admin\n\thandle_errors {\n\t\thttp_helper reader\n\t}",
		"transport by hand":   "http_helper admin\n\thandle_errors {\n\t\t" + byHand + "\n\t}",
		"in a route":          "http_helper admin\n\thandle_errors {\n\t\troute {\n\t\t\thttp_helper reader\n\t\t}\n\t}",
		"header before":       "header Cache-Control private\n\thttp_helper admin\n\thandle_errors {\n\t\thttp_helper reader\n\t}",
		"header in the route": "http_helper admin\n\thandle_errors {\n\t\theader Cache-Control private\n\t\thttp_helper reader\n\t}",
	} {
		t.Run(name, func(t *testing.T) {
			url := runSidecar(t, twoConnections(a, down, e, site))
			res := rawCall(t, url, "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody")
			if res.StatusCode != 200 || a.last(t).RequestURI != "/reader/x" || res.Close {
				t.Errorf("got %d, closing: %t; the API was asked %s", res.StatusCode, res.Close, a.last(t).RequestURI)
			}
			want := ""
			if strings.Contains(site, "private") {
				want = "private"
			}
			if got := res.Header; got.Get("Proxy-Status") != "" || got.Get("Retry-After") != "" || got.Get("Cache-Control") != want {
				t.Errorf("header %v", got)
			}
		})
	}
	t.Run("another error", func(t *testing.T) {
		site := "http_helper admin\n\thandle_errors {\n\t\thttp_helper reader {\n\t\t\tto 127.0.0.1:1\n\t\t}\n\t}"
		res, _ := call(t, "GET", runSidecar(t, twoConnections(a, down, e, site))+"/", nil)
		if got := res.Header.Get("Proxy-Status"); !strings.Contains(got, "the request is not sent") || res.Header.Get("Retry-After") != "" {
			t.Errorf("%q, %v", got, res.Header)
		}
	})
	t.Run("unreachable API", func(t *testing.T) {
		caddyfile := twoConnections(a, e, e, "http_helper admin\n\thandle_errors {\n\t\thttp_helper reader\n\t}")
		res, _ := call(t, "GET", runSidecar(t, strings.Replace(caddyfile, "base_url http:", "base_url https:", 1))+"/", nil)
		if res.StatusCode != 200 || res.Header.Get("Proxy-Status") != "" || res.Header.Get("Cache-Control") != "" {
			t.Errorf("got %d %v", res.StatusCode, res.Header)
		}
	})
}

// TestNestedConnections: a handler or transport sends the token of its own connection, wherever it stands.
func TestNestedConnections(t *testing.T) {
	admin, reader := newIdP(t), newIdP(t)
	reader.respond(func(w http.ResponseWriter, n int64) { grantToken(w, fmt.Sprintf("reader%d", n), 3600) })
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/admin/") {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	const byHand = "reverse_proxy API {\n\t\t\t\ttransport http_helper {\n\t\t\t\t\tconnection reader\n\t\t\t\t}\n\t\t\t}"
	for name, site := range map[string]string{
		"transport by hand": "http_helper admin {\n\t\thandle_response {\n\t\t\t" + byHand + "\n\t\t}\n\t}",
		"in a subroute":     "http_helper admin {\n\t\thandle_response {\n\t\t\thandle {\n\t\t\t" + byHand + "\n\t\t\t}\n\t\t}\n\t}",
		"handler":           "http_helper admin {\n\t\thandle_response {\n\t\t\thttp_helper reader\n\t\t}\n\t}",
		"placeholder":       "http_helper admin {\n\t\thandle_response {\n\t\t\thttp_helper {http.request.header.X-Connection} {\n\t\t\t\tconnections admin reader\n\t\t\t}\n\t\t}\n\t}",
		"intercept":         "intercept {\n\t\thandle_response {\n\t\t\t" + byHand + "\n\t\t}\n\t}\n\thttp_helper admin",
		"by hand, twice":    strings.Replace(byHand, "reader", "admin", 1)[:len(byHand)-len("reader")+len("admin")-1] + "handle_response {\n\t\t\t" + byHand + "\n\t\t}\n\t}",
	} {
		t.Run(name, func(t *testing.T) {
			res, _ := call(t, "GET", runSidecar(t, twoConnections(a, admin, reader, site))+"/x", nil, "X-Connection", "reader")
			got := a.last(t)
			if res.StatusCode != 200 || got.RequestURI != "/reader/x" || !strings.HasPrefix(got.Header.Get("Authorization"), "Bearer reader") {
				t.Errorf("got %d; the API was asked %s with %s", res.StatusCode, got.RequestURI, got.Header.Get("Authorization"))
			}
		})
	}
}

// TestNestedErrors: an error of a handler within another one's route is that of the inner one.
func TestNestedErrors(t *testing.T) {
	e, down, a := newIdP(t), newIdP(t), newAPI(t, nil)
	down.respond(func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusServiceUnavailable) })
	const byHand = "reverse_proxy API {\n\t\t\t\ttransport http_helper {\n\t\t\t\t\tconnection reader\n\t\t\t\t}\n\t\t\t}"
	for name, inner := range map[string]string{"handler": "http_helper reader", "transport by hand": byHand} {
		t.Run(name, func(t *testing.T) {
			site := "http_helper admin {\n\t\thandle_response {\n\t\t\t" + inner + "\n\t\t}\n\t}"
			res, _ := call(t, "GET", runSidecar(t, twoConnections(a, e, down, site))+"/", nil)
			if got := res.Header.Values("Proxy-Status"); res.StatusCode != 503 || len(got) != 1 || !strings.Contains(got[0], "connection reader") {
				t.Errorf("got %d %q", res.StatusCode, got)
			}
		})
	}
}

// TestLoops: a request that comes back to its connection is refused (rule 21).
func TestLoops(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.RequestURI) })
	const byHand = "reverse_proxy TO {\n\t\ttransport http_helper {\n\t\t\tconnection NAME\n\t\t}\n\t}"
	for name, test := range map[string]struct{ first, second string }{
		"handlers":           {"http_helper first", "http_helper second"},
		"transports by hand": {strings.NewReplacer("TO", "127.0.0.1:SECOND", "NAME", "first").Replace(byHand), strings.NewReplacer("TO", "127.0.0.1:FIRST", "NAME", "second").Replace(byHand)},
		"placeholder":        {"http_helper {http.request.header.X-Connection} {\n\t\tconnections first\n\t}", "http_helper second"},
	} {
		t.Run(name, func(t *testing.T) {
			first, second := freeAddress(t), freeAddress(t)
			_, firstPort, _ := net.SplitHostPort(first)
			_, secondPort, _ := net.SplitHostPort(second)
			connection := func(name, base string) string {
				return fmt.Sprintf("\t\tconnection %s {\n\t\t\tbase_url %s\n\t\t\ttoken_url %s\n\t\t\tclient_id id\n\t\t\tclient_secret literal-secret\n\t\t}\n", name, base, e.URL)
			}
			caddyfile := func(secondBase string) string {
				return strings.NewReplacer("FIRST", firstPort, "SECOND", secondPort).Replace("{\n\thttp_helper {\n" +
					connection("first", "http://127.0.0.1:SECOND/a") + connection("second", secondBase) +
					"\t}\n}\nhttp://:FIRST {\n\t" + test.first + "\n}\nhttp://:SECOND {\n\t" + test.second + "\n}\n")
			}
			loadCaddyfile(t, caddyfile("http://127.0.0.1:FIRST/b"))
			t.Cleanup(func() { _ = caddy.Stop() })
			for range 3 {
				res := rawCall(t, "http://"+first, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Connection: first\r\n\r\n")
				if got := res.Header.Get("Proxy-Status"); res.StatusCode != 508 || !strings.HasPrefix(got, "http_helper; error=proxy_loop_detected") {
					t.Errorf("got %d %q", res.StatusCode, got)
				}
			}
			if strings.Contains(test.second, "reverse_proxy") {
				return
			}
			_ = caddy.Stop()
			// A way through two connections is none.
			loadCaddyfile(t, caddyfile(a.URL+"/b"))
			for range 3 {
				res := rawCall(t, "http://"+first, "GET /x HTTP/1.1\r\nHost: localhost\r\nX-Connection: first\r\n\r\n")
				if got := a.last(t).RequestURI; res.StatusCode != 200 || got != "/b/a/x" {
					t.Errorf("got %d; the API was asked %s", res.StatusCode, got)
				}
			}
		})
	}
}

// TestOwnListenerIsNoBaseURL: a loop that can be seen in the config is an error at load.
func TestOwnListenerIsNoBaseURL(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	t.Setenv("OWN_URL", "http://"+address)
	for name, test := range map[string]struct{ site, base, want string }{
		"directive":             {"SITE {\n\thttp_helper BASE {\n\t\ttoken_url IDP\n\t\tclient_id id\n\t\tclient_secret literal-secret\n\t}\n}", "http://localhost:" + port, "leads back"},
		"connection":            {"SITE {\n\thttp_helper c\n}", "http://127.0.0.1:" + port + "/api", "connection c: base_url leads back to the connection's own site, which listens on 127.0.0.1:" + port},
		"variable":              {"SITE {\n\thttp_helper c\n}", "{env.OWN_URL}", "leads back"},
		"transport by hand":     {"SITE {\n\treverse_proxy " + address + " {\n\t\ttransport http_helper {\n\t\t\tconnection c\n\t\t}\n\t}\n}", "http://" + address, "leads back"},
		"placeholder":           {"SITE {\n\thttp_helper {http.request.header.X} {\n\t\tconnections c\n\t}\n}", "http://" + address, "leads back"},
		"error route":           {"SITE {\n\terror 500\n\thandle_errors {\n\t\thttp_helper c\n\t}\n}", "http://" + address, "leads back"},
		"named route":           {"&(r) {\n\thttp_helper c\n}\nSITE {\n\tinvoke r\n}", "http://" + address, "leads back"},
		"another port":          {"SITE {\n\thttp_helper c\n}", a.URL, ""},
		"another site":          {"SITE {\n\trespond ok\n}\nhttp://:0 {\n\thttp_helper c\n}", "http://" + address, ""},
		"another address":       {"SITE {\n\thttp_helper c\n}", "http://127.0.0.2:" + port, ""},
		"connection not in use": {"SITE {\n\trespond ok\n}", "http://" + address, ""},
	} {
		t.Run(name, func(t *testing.T) {
			caddyfile := test.site
			if name != "directive" {
				caddyfile = "{\n\thttp_helper {\n\t\tconnection c {\n\t\t\tbase_url BASE\n\t\t\ttoken_url IDP\n\t\t\tclient_id id\n\t\t\tclient_secret literal-secret\n\t\t}\n\t}\n}\n" + caddyfile
			}
			caddyfile = strings.NewReplacer("SITE", "http://:"+port, "BASE", test.base, "IDP", e.URL).Replace(caddyfile)
			err := tryCaddyfile(caddyfile)
			_ = caddy.Stop()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestGRPCErrors: callers of gRPC and of gRPC-Web get errors in their own ways (rule 21).
func TestGRPCErrors(t *testing.T) {
	e, down, a := newIdP(t), newIdP(t), newAPI(t, nil)
	down.respond(func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusServiceUnavailable) })
	closed := newAPI(t, nil)
	closed.Close()
	for name, test := range map[string]struct{ caddyfile, want string }{
		"no token":        {inline(a, down, ""), "14"},
		"unreachable API": {inline(closed, e, ""), "14"},
		"not allowed":     {inline(a, e, "to 127.0.0.1:1"), "9"},
	} {
		site := runSidecar(t, test.caddyfile)
		for _, kind := range []string{"application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text", "application/grpc-web-text+proto; x=y"} {
			want, _, _ := strings.Cut(kind, ";")
			res, body := call(t, "POST", site+"/", strings.NewReader("x"), "Content-Type", kind)
			if res.StatusCode != 200 || res.Header.Get("Grpc-Status") != test.want || body != "" || !strings.HasPrefix(want, res.Header.Get("Content-Type")) {
				t.Errorf("%s, %s: got %d %v", name, kind, res.StatusCode, res.Header)
			}
		}
		if res, _ := call(t, "POST", site+"/", strings.NewReader("x"), "Content-Type", "application/grpc-other"); res.StatusCode == 200 || res.Header.Get("Grpc-Status") != "" {
			t.Errorf("%s, no gRPC: got %d %v", name, res.StatusCode, res.Header)
		}
	}
}

// TestFullDuplex: with what the documentation says, an API over HTTP/1.1 may respond while the body is still
// coming.
func TestFullDuplex(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		controller := http.NewResponseController(w)
		_ = controller.EnableFullDuplex()
		part := make([]byte, 4)
		for {
			if _, err := io.ReadFull(r.Body, part); err != nil {
				return
			}
			_, _ = w.Write(part)
			_ = controller.Flush()
		}
	})
	site := runSidecar(t, "{\n\tservers {\n\t\tenable_full_duplex\n\t}\n}\n"+inline(a, e, ""))
	conn, err := net.Dial("tcp", strings.TrimPrefix(site, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for _, next := range []string{"pong", "last", ""} {
		part := make([]byte, 4)
		if _, err := io.ReadFull(res.Body, part); err != nil {
			t.Fatal(err)
		}
		if next != "" {
			_, _ = io.WriteString(conn, "4\r\n"+next+"\r\n")
		}
	}
	_, _ = io.WriteString(conn, "0\r\n\r\n")
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}
