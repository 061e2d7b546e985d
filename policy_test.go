package httphelper

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
)

// ways are the Caddyfiles by which a request may reach an API whose base URL is given, with options that say who
// may call.
func ways(base string, e *fakeIdP, options string) map[string]string {
	connection := fmt.Sprintf("base_url %s\n\t\t\ttoken_url %s\n\t\t\tclient_id id\n\t\t\tclient_secret literal-secret", base, e.URL)
	named := func(site string) string {
		return "{\n\thttp_helper {\n\t\tconnection c {\n\t\t\t" + connection + "\n\t\t}\n\t}\n}\nSITE {\n\t" + site + "\n}\n"
	}
	upstream := strings.TrimSuffix(base, "/base")
	return map[string]string{
		"handler":       named("http_helper c {\n\t\t" + options + "\n\t}"),
		"reverse_proxy": named("http_helper c {\n\t\tuse_reverse_proxy\n\t\t" + options + "\n\t}"),
		"placeholder":   named("http_helper {http.request.header.X-Connection} {\n\t\tconnections c\n\t\t" + options + "\n\t}"),
		"by hand":       named("reverse_proxy " + upstream + " {\n\t\ttransport http_helper {\n\t\t\tconnection c\n\t\t\t" + options + "\n\t\t}\n\t}"),
		"by hand, with header operations": named("reverse_proxy " + upstream + " {\n\t\theader_up Host {upstream_hostport}\n\t\theader_up -Origin\n\t\theader_up -Sec-Fetch-Site\n\t\t" +
			"header_up Proxy-Authorization \"Bearer of-header-up\"\n\t\ttransport http_helper {\n\t\t\tconnection c\n\t\t\t" + options + "\n\t\t}\n\t}"),
		"error route": named("error 500\n\thandle_errors {\n\t\treverse_proxy " + upstream + " {\n\t\t\ttransport http_helper {\n\t\t\t\tconnection c\n\t\t\t\t" + options + "\n\t\t\t}\n\t\t}\n\t}"),
	}
}

// ask sends the lines of a request, and returns the response.
func ask(t *testing.T, site, request string) *http.Response {
	t.Helper()
	return rawCall(t, site, request+"X-Connection: c\r\nConnection: close\r\n\r\n")
}

// wantDenied checks that a request was refused by its caller, and what the response says about it.
func wantDenied(t *testing.T, what string, res *http.Response, details ...string) {
	t.Helper()
	status := res.Header.Get("Proxy-Status")
	if res.StatusCode != 403 || !strings.HasPrefix(status, "http_helper; error=http_request_denied; ") {
		t.Errorf("%s: got %d %q", what, res.StatusCode, status)
	}
	for _, detail := range details {
		if !strings.Contains(status, detail) {
			t.Errorf("%s: %q lacks %q", what, status, detail)
		}
	}
}

// TestHosts: what requests over loopback may be addressed to (rule 35), the same on every way.
func TestHosts(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	for way, caddyfile := range ways(a.URL+"/base", e, "") {
		t.Run(way, func(t *testing.T) {
			site := runSidecar(t, caddyfile)
			requests, asked := e.requests.Load(), len(a.seen())
			for _, request := range []string{
				"GET / HTTP/1.1\r\nHost: evil.example\r\n", "GET / HTTP/1.1\r\nHost: evil.example:8080\r\n", "GET / HTTP/1.0\r\nHost: evil.example\r\n",
				"GET / HTTP/1.1\r\nHost: localhost.evil.example\r\n", "GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n", "GET / HTTP/1.1\r\nHost: 2130706433\r\n",
				"GET / HTTP/1.1\r\nHost: 0x7f.1\r\n", "GET / HTTP/1.1\r\nHost: ::1\r\n", "GET / HTTP/1.1\r\nHost: localhost:80:80\r\n", "GET / HTTP/1.1\r\nHost: localhost..\r\n",
				"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n", "GET http://evil.example/ HTTP/1.0\r\n", "GET http://localhost@evil.example/ HTTP/1.1\r\nHost: localhost\r\n",
				"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n", "GET / HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://localhost\r\n",
			} {
				wantDenied(t, request, ask(t, site, request))
			}
			wantDenied(t, "advice", ask(t, site, "GET / HTTP/1.1\r\nHost: Evil.Example.:80\r\n"), "addressed to evil.example,", "add the line: allow_hosts evil.example")
			if e.requests.Load() != requests || len(a.seen()) != asked {
				t.Error("a refused request led to another")
			}
			for _, request := range []string{
				"GET / HTTP/1.1\r\nHost: localhost\r\n", "GET / HTTP/1.1\r\nHost: LOCALHOST.:8080\r\n", "GET / HTTP/1.1\r\nHost: app.localhost:1\r\n", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
				"GET / HTTP/1.1\r\nHost: 10.1.2.3:80\r\n", "GET / HTTP/1.1\r\nHost: [::1]\r\n", "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n", "GET / HTTP/1.0\r\n", "GET / HTTP/1.0\r\nHost:\r\n",
				"GET http://localhost/ HTTP/1.1\r\nHost: evil.example\r\n", "GET http://127.0.0.1:1/ HTTP/1.0\r\n",
			} {
				if res := ask(t, site, request); res.StatusCode != 200 {
					t.Errorf("%s: got %d %q", request, res.StatusCode, res.Header.Get("Proxy-Status"))
				}
			}
		})
	}
}

// TestOrigins: a browser lets any page open a websocket to loopback, and says which page it is in Origin.
func TestOrigins(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	const websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	for way, caddyfile := range ways(a.URL+"/base", e, "") {
		t.Run(way, func(t *testing.T) {
			site := runSidecar(t, caddyfile)
			for _, kind := range []string{websocket, ""} {
				for fields, want := range map[string]int{
					"": 200, "Origin: http://localhost:3000\r\n": 200, "Origin: http://127.0.0.1\r\n": 200, "Origin: http://app.localhost\r\n": 200,
					"Origin: https://evil.example\r\n": 403, "Origin: null\r\n": 403, "Origin: NULL\r\n": 403, "Origin: http://localhost\r\nOrigin: https://evil.example\r\n": 403,
					"Origin: http://localhost\r\nSec-Fetch-Site: cross-site\r\n": 403, "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: CROSS-site\r\n": 403,
				} {
					res := rawCall(t, site, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Connection: c\r\n"+kind+fields+"\r\n")
					if want == 403 {
						wantDenied(t, fields, res)
					} else if res.StatusCode != want {
						t.Errorf("%q: got %d %q", fields, res.StatusCode, res.Header.Get("Proxy-Status"))
					}
				}
			}
			res := ask(t, site, "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://Evil.example:8443\r\n")
			wantDenied(t, "advice", res, "a page of evil.example,", "add the line: allow_hosts evil.example")
		})
	}
}

// TestHostOfTheBaseURL is one that requests may be addressed to, also if a file says what it is, from the first
// request on.
func TestHostOfTheBaseURL(t *testing.T) {
	e := newIdP(t)
	secure, _ := tlsAPI(t, nil)
	file := filepath.Join(t.TempDir(), "host")
	keystest.WriteFile(t, file, "Api.localdomain")
	base := strings.Replace(secure.URL, "127.0.0.1", "Api.localdomain", 1)
	for where, base := range map[string]string{"text": base, "file": strings.Replace(base, "Api.localdomain", "{file."+file+"}", 1)} {
		all := ways(base, e, "")
		maps.DeleteFunc(all, func(way, _ string) bool { return strings.Contains(way, "by hand") || way == "error route" })
		for way, caddyfile := range all {
			site := runSidecar(t, caddyfile)
			for _, fields := range []string{"Host: api.localdomain:1\r\n", "Host: localhost\r\nOrigin: https://api.localdomain\r\n"} {
				if res := ask(t, site, "GET / HTTP/1.1\r\n"+fields); res.StatusCode == 403 {
					t.Errorf("%s, %s, %q: got %q", where, way, fields, res.Header.Get("Proxy-Status"))
				}
			}
			for _, fields := range []string{"Host: sub.api.localdomain\r\n", "Host: api.localdomain\r\nOrigin: https://evil.example\r\n"} {
				wantDenied(t, where+way+fields, ask(t, site, "GET / HTTP/1.1\r\n"+fields))
			}
		}
	}
	// While it cannot be known, that is what is wrong.
	keystest.WriteFile(t, file, "")
	_ = caddy.Stop()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	keystest.WriteFile(t, file, "Api.localdomain")
	site := runSidecar(t, ways(strings.Replace(base, "Api.localdomain", "{file."+file+"}", 1), e, "")["handler"])
	keystest.WriteFile(t, file, "a b")
	res := ask(t, site, "GET / HTTP/1.1\r\nHost: api.localdomain\r\n")
	if status := res.Header.Get("Proxy-Status"); res.StatusCode != 502 || !strings.HasPrefix(status, "http_helper; error=proxy_configuration_error") {
		t.Errorf("got %d %q", res.StatusCode, status)
	}
}

func TestAllowHosts(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	for way, caddyfile := range ways(a.URL+"/base", e, "allow_hosts My_Sidecar tools.example.") {
		t.Run(way, func(t *testing.T) {
			site := runSidecar(t, caddyfile)
			for _, fields := range []string{"Host: my_sidecar:8080\r\n", "Host: TOOLS.example\r\nOrigin: https://tools.example.:1\r\n", "Host: localhost\r\n"} {
				if res := ask(t, site, "GET / HTTP/1.1\r\n"+fields); res.StatusCode != 200 {
					t.Errorf("%q: got %d %q", fields, res.StatusCode, res.Header.Get("Proxy-Status"))
				}
			}
			for _, fields := range []string{"Host: evil.example\r\n", "Host: tools.example\r\nOrigin: https://evil.example\r\n", "Host: tools.example\r\nOrigin: null\r\n"} {
				wantDenied(t, fields, ask(t, site, "GET / HTTP/1.1\r\n"+fields))
			}
		})
	}
	for way, caddyfile := range ways(a.URL+"/base", e, "allow_hosts *") {
		t.Run(way+", any", func(t *testing.T) {
			site := runSidecar(t, caddyfile)
			for _, fields := range []string{"Host: evil.example\r\n", "Host: evil.example\r\nOrigin: https://other.example\r\n"} {
				if res := ask(t, site, "GET / HTTP/1.1\r\n"+fields); res.StatusCode != 200 {
					t.Errorf("%q: got %d %q", fields, res.StatusCode, res.Header.Get("Proxy-Status"))
				}
			}
			for _, fields := range []string{"Host: evil.example\r\nOrigin: null\r\n", "Host: evil.example\r\nSec-Fetch-Site: cross-site\r\n"} {
				wantDenied(t, fields, ask(t, site, "GET / HTTP/1.1\r\n"+fields))
			}
		})
	}
}

// TestAllowHostsInJSON: what is no name is an error there, too, and is not quoted.
func TestAllowHostsInJSON(t *testing.T) {
	for _, names := range [][]string{{""}, {"."}, {"http://s3cret"}, {"s3cret:80"}, {"*.s3cret"}, {"s3cret."}, {"a", "127.0.0.1"}, {"[::1]"}, {"::1"}, {"*", "s3cret"}, {"s3cret/"}, {"s3cret?"}, {"s3cret@a"}} {
		p := &CallerPolicy{AllowHosts: names}
		err := p.provision()
		if valid := names[0] == "s3cret."; valid != (err == nil) || err != nil && (!strings.HasPrefix(err.Error(), "allow_hosts: ") || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%q: %v", names, err)
		}
	}
}

// TestWhoseHostIsChecked: without allow_hosts it is about browsers on this machine.
func TestWhoseHostIsChecked(t *testing.T) {
	for _, allowed := range [][]string{nil, {"sidecar"}} {
		p := &RequestPolicy{CallerPolicy: CallerPolicy{AllowClients: []string{"10.0.0.0/8"}, AllowHosts: allowed, foreign: &foreignHosts{logger: zap.NewNop()}}}
		if err := p.provision(); err != nil {
			t.Fatal(err)
		}
		for address, refused := range map[string]bool{
			"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "10.1.2.3:1": allowed != nil, "@": false, "": false, "/run/app.sock": false,
		} {
			for name, set := range map[string]func(*http.Request){
				"Origin": func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
				"Host":   func(r *http.Request) { r.Host = "evil.example" },
			} {
				r := httptest.NewRequest(http.MethodGet, "/", nil)
				r.Host, r.RemoteAddr = "localhost", address
				set(r)
				if got := p.check(r, callerOf(r)); (got != nil) != refused {
					t.Errorf("%q, %s, allow_hosts %q: %v", address, name, allowed, got)
				}
			}
		}
	}
}

func TestPeerAddress(t *testing.T) {
	i := &RequestPolicy{CallerPolicy: CallerPolicy{AllowClients: []string{"10.0.0.0/8", "2001:db8::1", "::ffff:10.200.0.0/120", "::ffff:192.0.2.0/120", "::ffff:198.51.100.7"}}}
	if err := i.provision(); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "127.9.9.9:1": true, "[::1]:1": true, "[::ffff:127.0.0.1]:1": true, "@": true, "": true, "/run/app.sock": true,
		"10.1.2.3:1": true, "[::ffff:10.1.2.3]:1": true, "[2001:db8::1]:1": true,
		"192.0.2.255:1": true, "192.0.3.0:1": false, "198.51.100.7:1": true, "198.51.100.8:1": false,
		"192.168.0.1:1": false, "[2001:db8::2]:1": false, "[fe80::1%eth0]:1": false, "nonsense:1:2": false,
	} {
		if got := i.allowsClient(address); got != want {
			t.Errorf("%q: got %v, want %v", address, got, want)
		}
	}
}

// TestForeignHostsAreLoggedOnce, and not without end: a page can have any number of names.
func TestForeignHostsAreLoggedOnce(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	p := &CallerPolicy{foreign: &foreignHosts{logger: zap.New(core)}}
	for i := range 10_000 {
		for range 2 {
			if p.permit(context.Background(), fmt.Sprintf("h%d.example", i), "") == nil {
				t.Fatal("permitted")
			}
		}
	}
	if got := logs.FilterField(zap.String("host", "h7.example")).Len(); got != 1 {
		t.Errorf("one host: %d lines", got)
	}
	if got := logs.Len(); got != maxForeignHosts+1 || len(p.foreign.known) > maxForeignHosts+1 {
		t.Errorf("%d lines, %d hosts kept", got, len(p.foreign.known))
	}
	if last := logs.All()[maxForeignHosts].Message; !strings.Contains(last, "no further host is logged") {
		t.Error(last)
	}
}

// callerTokens writes a file with tokens of callers.
func callerTokens(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "caller_tokens")
	keystest.WriteFile(t, file, content)
	return file
}

const withToken = "GET / HTTP/1.1\r\nHost: localhost\r\nProxy-Authorization: Bearer one\r\n"

// TestCallerToken: the same on every way. The API sees nothing of it, in whatever field an app may try.
func TestCallerToken(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	for _, more := range []string{"", "app_authorization keep", "access_token_header X-Token"} {
		file := callerTokens(t, "one\ntwo\n")
		for way, caddyfile := range ways(a.URL+"/base", e, "caller_token_file "+file+"\n\t\t\t"+more) {
			t.Run(way+" "+more, func(t *testing.T) {
				site := runSidecar(t, caddyfile)
				requests, asked := e.requests.Load(), len(a.seen())
				for fields, detail := range map[string]string{
					"":                                      "no caller token",
					"Authorization: Bearer one\r\n":         "no caller token",
					"Proxy_Authorization: Bearer one\r\n":   "no caller token",
					"Proxy-Authorization: Bearer three\r\n": "is not Bearer and a token",
					"Proxy-Authorization: Basic b25lOm9uZQ==\r\n":                            "is not Bearer and a token",
					"Proxy-Authorization: Bearer one, Bearer two\r\n":                        "is not Bearer and a token",
					"Proxy-Authorization: Bearer one\r\nProxy-Authorization: Bearer two\r\n": "is not Bearer and a token",
					"Proxy-Authorization: Bearer one\r\nProxy-Authorization: Bearer one\r\n": "is not Bearer and a token",
				} {
					wantDenied(t, fields, ask(t, site, "GET / HTTP/1.1\r\nHost: localhost\r\n"+fields), detail)
				}
				res := ask(t, site, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n")
				if res.StatusCode != 200 || res.Header.Get("Grpc-Status") != "7" {
					t.Errorf("gRPC: got %d %v", res.StatusCode, res.Header)
				}
				if e.requests.Load() != requests || len(a.seen()) != asked {
					t.Error("a refused request led to another")
				}
				for _, fields := range []string{
					"Proxy-Authorization: Bearer one\r\n", "proxy-authorization: bearer two\r\n", "Proxy-Authorization: Bearer one\r\nProxy_Authorization: Bearer one\r\n",
					"Proxy-Authorization: Bearer one\r\nConnection: Proxy-Authorization\r\n",
				} {
					if res := ask(t, site, "GET / HTTP/1.1\r\nHost: localhost\r\n"+fields); res.StatusCode != 200 {
						t.Errorf("%q: got %d %q", fields, res.StatusCode, res.Header.Get("Proxy-Status"))
						continue
					}
					for field, values := range a.last(t).Header {
						if got := strings.ToLower(fmt.Sprint(field, values)); strings.Contains(got, "proxy") || strings.Contains(got, "bearer one") || strings.Contains(got, "bearer two") {
							t.Errorf("the API gets %s: %q", field, values)
						}
					}
				}
				// A caller that has the token may come from any page's name only as others may.
				wantDenied(t, "foreign host", ask(t, site, strings.Replace(withToken, "localhost", "evil.example", 1)), "allow_hosts evil.example")
			})
		}
	}
}

// TestCallerTokenOverAUnixSocket is needed there, too.
func TestCallerTokenOverAUnixSocket(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	dir, err := os.MkdirTemp("", "socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for way, caddyfile := range ways(a.URL+"/base", e, "caller_token_file "+callerTokens(t, "one")) {
		socket := filepath.Join(dir, fmt.Sprint(len(way)))
		loadCaddyfile(t, strings.Replace(caddyfile, "SITE {\n", "http:// {\n\tbind unix/"+socket+"\n", 1))
		t.Cleanup(func() { _ = caddy.Stop() })
		for fields, want := range map[string]int{"": 403, "Proxy-Authorization: Bearer one\r\n": 200} {
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			// Any name is right: no browser gets here.
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: evil.example\r\nX-Connection: c\r\n"+fields+"Connection: close\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || res.StatusCode != want {
				t.Errorf("%s, %q: got %v, %v", way, fields, res, err)
			}
			_ = conn.Close()
		}
	}
}

// TestCallerTokenFileThatIsNotUsable: nobody gets through meanwhile, and an error says why.
func TestCallerTokenFileThatIsNotUsable(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	file := callerTokens(t, "")
	for way, caddyfile := range ways(a.URL+"/base", e, "caller_token_file "+file) {
		if err := tryCaddyfile(onPort(caddyfile, "http://"+freeAddress(t))); err == nil || !strings.Contains(err.Error(), "caller_token_file: reading file "+file+": it is empty") {
			t.Errorf("%s, at load: %v", way, err)
		}
		keystest.WriteFile(t, file, "one")
		site := runSidecar(t, caddyfile)
		if res := ask(t, site, withToken); res.StatusCode != 200 {
			t.Errorf("%s: got %d", way, res.StatusCode)
		}
		keystest.WriteFile(t, file, "")
		asked := len(a.seen())
		res := ask(t, site, withToken)
		for begin := time.Now(); res.StatusCode == 200 && time.Since(begin) < 10*time.Second; {
			time.Sleep(50 * time.Millisecond) // it is read once a second
			asked = len(a.seen())
			res = ask(t, site, withToken)
		}
		if status := res.Header.Get("Proxy-Status"); res.StatusCode != 502 || !strings.HasPrefix(status, "http_helper; error=proxy_configuration_error; ") || !strings.Contains(status, "caller_token_file: reading file") {
			t.Errorf("%s: got %d %q", way, res.StatusCode, status)
		}
		if res := ask(t, site, "GET / HTTP/1.1\r\nHost: localhost\r\n"); res.StatusCode != 502 || len(a.seen()) != asked {
			t.Errorf("%s, without a token: got %d; the API was asked %d times", way, res.StatusCode, len(a.seen())-asked)
		}
	}
}

// TestHealthChecksAndPingsNeedNoCallerToken: nobody calls there.
func TestHealthChecksAndPingsNeedNoCallerToken(t *testing.T) {
	checked := make(chan string, 100)
	e, a := newIdP(t), newAPI(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/base/up" {
			checked <- r.Header.Get("Authorization")
		}
	})
	const checks = "health_uri /up\n\t\thealth_interval 10ms\n\t\t"
	all := ways(a.URL+"/base", e, "caller_token_file "+callerTokens(t, "one"))
	for way, caddyfile := range map[string]string{
		"reverse_proxy": strings.Replace(all["reverse_proxy"], "use_reverse_proxy", checks, 1),
		"by hand":       strings.Replace(all["by hand"], "transport http_helper", checks+"transport http_helper", 1),
	} {
		runSidecar(t, strings.Replace(caddyfile, "base_url", "ping /me\n\t\t\tbase_url", 1))
		for len(checked) > 0 {
			<-checked
		}
		select {
		case got := <-checked:
			if !strings.HasPrefix(got, "Bearer t") {
				t.Errorf("%s: %q", way, got)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the API is not asked", way)
		}
		wantPing(t, true, 200)
		_ = caddy.Stop()
	}
}

// What the app may use a credential for. The requests themselves are in integration/allow_test.go.

// TestAllowOnTheFinalRequest: what comes after the handler makes another request of one that is permitted.
func TestAllowOnTheFinalRequest(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	for change, want := range map[string]string{
		`{"handler": "vars"}`:                                                   "",
		`{"handler": "rewrite", "uri": "/a?x"}`:                                 "",
		`{"handler": "rewrite", "uri": "/b"}`:                                   "connection c: GET /b is not in its allow",
		`{"handler": "rewrite", "uri": "/a/"}`:                                  "connection c: GET /a/ is not in its allow",
		`{"handler": "rewrite", "method": "DELETE"}`:                            "connection c: DELETE /a is not in its allow",
		`{"handler": "headers", "request": {"set": {"X-Rewrite-Url": ["/b"]}}}`: "connection c: GET /a has X-Rewrite-Url, which can make some servers treat it as a different request",
	} {
		t.Run(change, func(t *testing.T) {
			before, address := len(a.seen()), freeAddress(t)
			config, err := adaptQuietly(onPort(inline(a, e, "name c\n\t\tallow GET /a\n\t\tuse_reverse_proxy"), "http://"+address))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = caddy.Stop() })
			if err := caddy.Load(insertHandler(t, config, change), true); err != nil {
				t.Fatal(err)
			}
			res, _ := call(t, "GET", "http://"+address+"/a", nil)
			if want == "" {
				if res.StatusCode != http.StatusOK || len(a.seen()) != before+1 {
					t.Errorf("got %d %v", res.StatusCode, res.Header)
				}
				return
			}
			status := res.Header.Get("Proxy-Status")
			if res.StatusCode != http.StatusForbidden || !strings.HasPrefix(status, `http_helper; error=http_request_denied; details="`+want) || len(a.seen()) != before {
				t.Errorf("got %d %s", res.StatusCode, status)
			}
		})
	}
}

// insertHandler puts a handler between the handler http_helper and the reverse_proxy of a config.
func insertHandler(t *testing.T, config []byte, handler string) []byte {
	t.Helper()
	var decoded any
	if err := json.Unmarshal(config, &decoded); err != nil {
		t.Fatal(err)
	}
	inserted := 0
	var walk func(value any)
	walk = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			if handlers, ok := value["handle"].([]any); ok && len(handlers) == 2 {
				value["handle"] = []any{handlers[0], json.RawMessage(handler), handlers[1]}
				inserted++
				return
			}
			for _, inner := range value {
				walk(inner)
			}
		case []any:
			for _, inner := range value {
				walk(inner)
			}
		}
	}
	walk(decoded)
	if inserted != 1 {
		t.Fatalf("%d places for a handler in %s", inserted, config)
	}
	changed, err := json.Marshal(decoded)
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

// TestHeaderUpMustNotOverrideARequest with allow. Without it, it may.
func TestHeaderUpMustNotOverrideARequest(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	for options, want := range map[string]int{
		"header_up X-HTTP-Method-Override PUT":                 http.StatusOK,
		"header_up X-HTTP-Method-Override PUT\n\t\tallow GET":  http.StatusForbidden,
		"header_up -X-HTTP-Method-Override\n\t\tallow GET":     http.StatusOK,
		"header_up X-Method PUT\n\t\tallow GET\n\t\tallow PUT": http.StatusOK,
	} {
		site := runSidecar(t, inline(a, e, options))
		if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != want {
			t.Errorf("%s: %d %v", options, res.StatusCode, res.Header)
		}
	}
	site := runSidecar(t, inline(a, e, ""))
	if res, _ := call(t, "GET", site+"/", nil, "X-Original-URL", "/x"); res.StatusCode != http.StatusOK || a.last(t).Header.Get("X-Original-Url") != "/x" {
		t.Errorf("without allow: %d, the API got %v", res.StatusCode, a.last(t).Header)
	}
}

// TestConnectionDoesNotHideAnOverride: reverse_proxy removes the fields that Connection names before its transport
// sees them, so one that is used by hand would judge another request than the handler does.
func TestConnectionDoesNotHideAnOverride(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	for options, want := range map[string]int{"": http.StatusOK, "allow GET": http.StatusForbidden} {
		for way, caddyfile := range ways(a.URL+"/base", e, "") {
			t.Run(way+" "+options, func(t *testing.T) {
				site := runSidecar(t, strings.Replace(caddyfile, "token_url", options+"\n\t\t\ttoken_url", 1))
				for _, fields := range []string{"Connection: X-HTTP-Method-Override, close\r\nX-HTTP-Method-Override: DELETE\r\n", "Connection: close, x-rewrite-url\r\nX-Rewrite-URL: /b\r\n"} {
					res := rawCall(t, site, "GET / HTTP/1.1\r\nHost: localhost\r\nX-Connection: c\r\n"+fields+"\r\n")
					if res.StatusCode != want {
						t.Errorf("%q: got %d %q", fields, res.StatusCode, res.Header.Get("Proxy-Status"))
					}
					if want != http.StatusOK {
						continue
					}
					if header := a.last(t).Header; header["X-Http-Method-Override"] != nil || header["X-Rewrite-Url"] != nil {
						t.Errorf("the API got %v", header)
					}
				}
			})
		}
	}
}

// TestAllowInJSON has errors that a Caddyfile cannot have.
func TestAllowInJSON(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	config, err := adaptQuietly(onPort(inline(a, e, "name c\n\t\tallow GET /mark"), "http://"+freeAddress(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	const allowed = `[{"method":["GET"],"path":["/mark"]}]`
	if strings.Count(string(config), allowed) != 1 {
		t.Fatalf("the config has another form: %s", config)
	}
	for changed, want := range map[string]string{
		`null`:                              "",
		`[{}]`:                              "",
		`[]`:                                "connection c: allow: the list is empty",
		`[{"method": []}]`:                  "connection c: allow: a list of methods or paths is empty",
		`[{"path": []}]`:                    "connection c: allow: a list of methods or paths is empty",
		`[{"path": ["/a"]},{"path": [""]}]`: "connection c: allow: rule 2: a path must begin with a slash",
		`[{"method": ["get"]}]`:             "connection c: allow: a method is written in capital letters",
		`[{"methods": ["GET"]}]`:            `unknown field "methods"`,
	} {
		err := caddy.Load([]byte(strings.Replace(string(config), allowed, changed, 1)), true)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", changed, err)
		}
	}
}
