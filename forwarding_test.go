package httphelper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// bothWays runs a test with the handler alone and with reverse_proxy, which is the option.
func bothWays(t *testing.T, test func(t *testing.T, option string)) {
	t.Run("alone", func(t *testing.T) { test(t, "") })
	t.Run("with reverse_proxy", func(t *testing.T) { test(t, "use_reverse_proxy") })
}

// TestUpgradeOffer: what the app sends with its offer, and what each side gets.
func TestUpgradeOffer(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, switchProtocols)
		log := filepath.Join(t.TempDir(), "access.log")
		site := runSidecar(t, strings.Replace(inline(a, e, option), "SITE {", "SITE {\n\tlog {\n\t\toutput file "+log+"\n\t}\n\theader >X-Late yes", 1))
		conn, err := net.Dial("tcp", strings.TrimPrefix(site, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// A POST, whose response must have no length, and bytes that do not wait for the response.
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nContent-Length: 0\r\n\r\nearly")
		reader := textproto.NewReader(bufio.NewReader(conn))
		head := readHead(t, reader)
		for _, line := range []string{"HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", "X-Late: yes", "Sec-WebSocket-Accept: a"} {
			if !strings.Contains(head, line+"\n") {
				t.Errorf("without %q:\n%s", line, head)
			}
		}
		for _, field := range []string{untypedMark, "Content-Length", "Content-Type", "Keep-Alive"} {
			if strings.Contains(head, field) {
				t.Errorf("with %s:\n%s", field, head)
			}
		}
		for _, want := range []string{"early", "later"} {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(reader.R, got); err != nil || string(got) != want {
				t.Fatalf("got %q, %v; want %q", got, err, want)
			}
			if want == "early" {
				_, _ = io.WriteString(conn, "later")
			}
		}
		// The app ends first, and still gets what the API says then.
		_ = conn.(*net.TCPConn).CloseWrite()
		if rest, err := io.ReadAll(reader.R); err != nil || string(rest) != "bye" {
			t.Errorf("in the end the app got %q, %v", rest, err)
		}
		var entry struct{ Status int }
		text := awaitContent(t, log) // nothing waits for upgraded connections
		if err := json.Unmarshal(text, &entry); err != nil || entry.Status != http.StatusSwitchingProtocols {
			t.Errorf("the access log has %s", text)
		}
	})
}

// TestAReplayIsTheSameRequest: it differs from the first attempt in nothing but the token.
func TestAReplayIsTheSameRequest(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, rejects("t2"))
		site := runSidecar(t, inline(a, e, "api_header X-Key k\n\t\tapi_query tenant a\n\t\t"+option))
		res, _ := call(t, "COPY", site+"/file%2F1?q=%zz", nil, "Destination", "/copy", "X-Key", "app's", "X_Key", "app's", "X-Forwarded-For", "192.0.2.1", "Te", "trailers")
		attempts := a.seen()
		if res.StatusCode != http.StatusOK || len(attempts) != 2 {
			t.Fatalf("got %d after %d attempts", res.StatusCode, len(attempts))
		}
		for i, attempt := range attempts {
			if got, want := attempt.Header.Get("Authorization"), fmt.Sprintf("Bearer t%d", i+1); got != want {
				t.Errorf("attempt %d has the token %q, want %q", i+1, got, want)
			}
			attempt.Header.Del("Authorization")
			if want := "/base/file%2F1?q=%zz&tenant=a"; attempt.RequestURI != want {
				t.Errorf("attempt %d was sent to %s, want %s", i+1, attempt.RequestURI, want)
			}
			if destination := attempt.Header.Get("Destination"); destination != "/base/copy" {
				t.Errorf("attempt %d has the destination %s", i+1, destination)
			}
		}
		if first, second := fmt.Sprint(attempts[0].Header), fmt.Sprint(attempts[1].Header); first != second {
			t.Errorf("the replay has the header %s, the first attempt %s", second, first)
		}
	})
}

// awaitContent returns the content of a file, once it has any.
func awaitContent(t *testing.T, file string) []byte {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if text, _ := os.ReadFile(file); len(text) > 0 {
			return text
		}
	}
	t.Fatalf("nothing was written to %s", file)
	return nil
}

// untypedMark is how Http-Helper-Untyped begins, which never leaves this process.
const untypedMark = "Http-Helper"

// switchProtocols switches to the protocol that is offered, echoes, and says bye.
func switchProtocols(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(buffered, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade, keep-alive\r\nKeep-Alive: x\r\nUpgrade: %s\r\nsec-websocket-accept: a\r\n\r\n", r.Header.Get("Upgrade"))
	_ = buffered.Flush()
	_, _ = io.Copy(conn, buffered)
	_, _ = io.WriteString(conn, "bye")
}

func readHead(t *testing.T, reader *textproto.Reader) string {
	t.Helper()
	var head strings.Builder
	for {
		line, err := reader.ReadLine()
		if err != nil {
			t.Errorf("%s%v", head.String(), err)
			return ""
		}
		if line == "" {
			return head.String()
		}
		head.WriteString(line + "\n")
	}
}

// TestWebsocketFieldsAreSpelledAsInTheRFC: some servers distinguish case.
func TestWebsocketFieldsAreSpelledAsInTheRFC(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		head := make(chan string, 1)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			head <- readHead(t, textproto.NewReader(bufio.NewReader(conn)))
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		}()
		a := newAPI(t, nil)
		site := runSidecar(t, strings.ReplaceAll(inline(a, newIdP(t), option), a.URL, "http://"+listener.Addr().String()))
		rawCall(t, site, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\nsec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n")
		got := <-head
		for _, field := range []string{"Sec-WebSocket-Key: k\n", "Sec-WebSocket-Version: 13\n"} {
			if !strings.Contains(got, field) {
				t.Errorf("without %q:\n%s", field, got)
			}
		}
	})
}

// TestUnprintableUpgrade is the app's mistake.
func TestUnprintableUpgrade(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, nil)
		site := runSidecar(t, inline(a, e, option))
		if res := rawCall(t, site, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: w\xc3\xa9b\r\n\r\n"); res.StatusCode != http.StatusBadRequest {
			t.Errorf("got %d %v", res.StatusCode, res.Header)
		}
	})
}

// TestUpgradeByHTTP10 is none (RFC 9110 §7.8). Caddy's reverse_proxy passes it on.
func TestUpgradeByHTTP10(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, ""))
	res := rawCall(t, site, "GET / HTTP/1.0\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if got := a.last(t).Header; res.StatusCode != http.StatusOK || got.Get("Upgrade") != "" {
		t.Errorf("got %d, the API got %v", res.StatusCode, got)
	}
}

// TestAlternativeServicesConcernOneConnection (RFC 7838 §3): the app must not bypass the sidecar.
func TestAlternativeServicesConcernOneConnection(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Alt-Svc", `h3=":443"`) })
		site := runSidecar(t, inline(a, e, option))
		res, _ := call(t, "GET", site+"/", nil, "Alt-Svc", "clear")
		if got := res.Header.Get("Alt-Svc") + a.last(t).Header.Get("Alt-Svc"); got != "" {
			t.Errorf("Alt-Svc %q passed", got)
		}
	})
}

// TestEarlyHints: an informational response has the API's end-to-end fields beside those of other handlers,
// which stay for the response, also if that is an error of the sidecar.
func TestEarlyHints(t *testing.T) {
	for name, final := range map[string]http.HandlerFunc{
		"a response":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) },
		"no response": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		bothWays(t, func(t *testing.T, option string) {
			e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Link"] = []string{"</style.css>; rel=preload"}
				w.Header()["Connection"], w.Header()["X-Hop"], w.Header()["Alt-Svc"] = []string{"X-Hop"}, []string{"1"}, []string{"clear"}
				w.WriteHeader(http.StatusEarlyHints)
				clear(w.Header())
				final(w, r)
			})
			site := runSidecar(t, strings.Replace(inline(a, e, option), "SITE {", "SITE {\n\theader X-Own yes\n\theader Link mine", 1))
			var hints textproto.MIMEHeader
			req, _ := http.NewRequest(http.MethodGet, site+"/", nil)
			req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(_ int, header textproto.MIMEHeader) error { hints = header; return nil },
			}))
			res, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if got := hints["Link"]; len(got) != 2 || got[0] != "mine" || hints.Get("X-Own") != "yes" || hints.Get("X-Hop")+hints.Get("Alt-Svc") != "" {
				t.Errorf("%s: hints %v", name, hints)
			}
			if got := res.Header["Link"]; len(got) != 1 || got[0] != "mine" || res.Header.Get("X-Own") != "yes" {
				t.Errorf("%s: header %v", name, res.Header)
			}
		})
	}
}

// TestIncrementalResponsesAreFlushed (RFC 10036), though they have a length.
func TestIncrementalResponsesAreFlushed(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		arrived := make(chan struct{})
		e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Incremental", "?1")
			w.Header().Set("Content-Length", "2")
			_, _ = io.WriteString(w, "a")
			_ = http.NewResponseController(w).Flush()
			<-arrived
			_, _ = io.WriteString(w, "b")
		})
		site := runSidecar(t, inline(a, e, option))
		res, err := http.Get(site + "/")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		first := make([]byte, 1)
		_, err = io.ReadFull(res.Body, first)
		close(arrived)
		rest, errRest := io.ReadAll(res.Body)
		if err != nil || errRest != nil || string(first)+string(rest) != "ab" || res.ContentLength != 2 {
			t.Errorf("%q, %v, %q, %v, length %d", first, err, rest, errRest, res.ContentLength)
		}
	})
}

// TestStatusOfTimeouts: an API that cannot be dialed in time is one that is not reached.
func TestStatusOfTimeouts(t *testing.T) {
	done := make(chan struct{})
	a := newAPI(t, func(http.ResponseWriter, *http.Request) { <-done })
	defer close(done)
	for name, c := range map[string]struct {
		base, options string
		status        int
	}{
		"of dialing":         {"http://" + fullListener(t), "dial_timeout 100ms", http.StatusBadGateway},
		"of response header": {a.URL, "response_header_timeout 100ms", http.StatusGatewayTimeout},
	} {
		bothWays(t, func(t *testing.T, option string) {
			caddyfile := inline(a, newIdP(t), option+"\n\t\ttransport http {\n\t\t\t"+c.options+"\n\t\t}")
			site := runSidecar(t, strings.ReplaceAll(caddyfile, a.URL, c.base))
			res, _ := call(t, "GET", site+"/", nil)
			if res.StatusCode != c.status || !strings.Contains(res.Header.Get("Proxy-Status"), "connection_timeout") {
				t.Errorf("%s: got %d %s", name, res.StatusCode, res.Header.Get("Proxy-Status"))
			}
		})
	}
}

// fullListener returns the address of a listener that accepts no connection, and whose queue is full, so that
// dialing it takes forever.
func fullListener(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			return address
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
}

// TestOptionsThatNeedReverseProxy are refused in JSON where the handler forwards itself.
func TestOptionsThatNeedReverseProxy(t *testing.T) {
	a, e := newAPI(t, nil), newIdP(t)
	config, err := adaptQuietly(strings.ReplaceAll(inline(a, e, ""), "SITE", "http://127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	const handler = `"handler":"http_helper"`
	transport := `"transport":{}`
	if !strings.Contains(string(config), handler) || !strings.Contains(string(config), transport) {
		t.Fatalf("%s", config)
	}
	for change, want := range map[string]string{
		`"transport":{"proxy_protocol":"v1"}`: "transport proxy_protocol needs",
		`"flush_interval":-1`:                 "flush_interval needs a transport",
	} {
		err := caddy.Validate(mustUnmarshal(t, strings.Replace(string(config), transport, change, 1)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
}

// TestRateLimitWaitInJSON: the limits of on_rate_limit are those of the Caddyfile.
func TestRateLimitWaitInJSON(t *testing.T) {
	a, e := newAPI(t, nil), newIdP(t)
	config, err := adaptQuietly(strings.ReplaceAll(inline(a, e, "on_rate_limit retry 5m"), "SITE", "http://127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	const retry, wait = `"on_rate_limit":"retry"`, `"rate_limit_wait":300000000000`
	if !strings.Contains(string(config), retry) || !strings.Contains(string(config), wait) {
		t.Fatalf("%s", config)
	}
	for name, test := range map[string]struct{ old, new, want string }{
		"a longer wait":   {wait, `"rate_limit_wait":"301s"`, "rate_limit_wait: must be at most 5m"},
		"a negative wait": {wait, `"rate_limit_wait":-1`, "rate_limit_wait must not be negative"},
		"pass":            {retry, `"on_rate_limit":"pass"`, "rate_limit_wait needs on_rate_limit retry"},
		"neither":         {retry, `"on_rate_limit":"wait"`, "on_rate_limit: must be one of pass, retry"},
		"no wait":         {wait, `"rate_limit_wait":0`, ""},
	} {
		err := caddy.Validate(mustUnmarshal(t, strings.Replace(string(config), test.old, test.new, 1)))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func mustUnmarshal(t *testing.T, text string) *caddy.Config {
	t.Helper()
	config := new(caddy.Config)
	if err := json.Unmarshal([]byte(text), config); err != nil {
		t.Fatal(err)
	}
	return config
}

// TestBothWaysForwardAlike: the handler alone, and with reverse_proxy. The API sends an early hint first, after
// which net/http's own reverse proxy forgets what other handlers have set.
func TestBothWaysForwardAlike(t *testing.T) {
	for name, option := range map[string]string{"alone": "", "with reverse_proxy": "use_reverse_proxy"} {
		t.Run(name, func(t *testing.T) {
			e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Link", "</style.css>; rel=preload")
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Del("Link")
				w.Header().Set("Server", "the API's")
				w.WriteHeader(http.StatusTeapot)
			})
			site := runSidecar(t, strings.Replace(inline(a, e, option), "{\n", "{\n\theader X-Own yes\n", 1))
			res, _ := call(t, "POST", site+"/a%2Fb?x=1;y&z=%zz", strings.NewReader("body"), "Te", "trailers", "Connection", "TE", "X-Forwarded-For", "1.2.3.4")
			if res.StatusCode != http.StatusTeapot || res.Header.Get("X-Own") != "yes" || res.Header.Get("Link") != "" {
				t.Errorf("status %d, header %v", res.StatusCode, res.Header)
			}
			if got := res.Header.Values("Server"); len(got) != 1 || got[0] != "the API's" {
				t.Errorf("Server: %q", got)
			}
			seen := a.seen()[0]
			if got := seen.RequestURI; got != "/base/a%2Fb?x=1;y&z=%zz" {
				t.Errorf("the API got a request for %s", got)
			}
			if te, forwarded := seen.Header.Get("Te"), seen.Header.Get("X-Forwarded-For"); te != "trailers" || forwarded != "" {
				t.Errorf("the API got TE %q, X-Forwarded-For %q", te, forwarded)
			}
		})
	}
}

// TestProxyProtocolNeedsReverseProxy, which knows the app's address.
func TestProxyProtocolNeedsReverseProxy(t *testing.T) {
	for options, alone := range map[string]bool{
		"":                                       true,
		"flush_interval -1":                      true,
		"transport http {\nversions 1.1\n}":      true,
		"use_reverse_proxy":                      false,
		"lb_retries 1":                           false,
		"transport http {\nproxy_protocol v1\n}": false,
	} {
		adapted, err := adapt(":8080 {\nhttp_helper https://api.example.com {\ntoken_url https://auth.example.com/token\nclient_id a\nclient_secret {env.S}\n" + options + "\n}\n}")
		if err != nil {
			t.Fatal(err)
		}
		if got := !strings.Contains(adapted, `"reverse_proxy"`); got != alone {
			t.Errorf("%q: alone is %t", options, got)
		}
	}
}

// TestLogOfResponsesThatBreakOff: operators learn of an API that breaks off, and not of an app that leaves.
func TestLogOfResponsesThatBreakOff(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		arrived, left := make(chan struct{}), make(chan struct{})
		e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/base/wait" {
				close(arrived)
				<-r.Context().Done()
				close(left)
				return
			}
			w.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(w, "part")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		log := filepath.Join(t.TempDir(), "log")
		site := runSidecar(t, "{\n\tlog {\n\t\toutput file "+log+"\n\t}\n}\n"+inline(a, e, option))
		ctx, leave := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, site+"/wait", nil)
		done := make(chan error)
		go func() {
			res, err := http.DefaultTransport.RoundTrip(req)
			if err == nil {
				_ = res.Body.Close()
			}
			done <- err
		}()
		<-arrived
		leave()
		<-done
		<-left
		res, err := http.Get(site + "/")
		if err != nil {
			t.Fatal(err)
		}
		part, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(part) != "part" || err == nil {
			t.Errorf("the app got %q, %v", part, err)
		}
		_ = caddy.Stop()
		text, _ := os.ReadFile(log)
		if strings.Contains(string(text), "/wait") {
			t.Errorf("an app that has left is logged: %s", text)
		}
		if option == "" && !strings.Contains(string(text), `"msg":"the API's response broke off","connection":"127.0.0.1","error":"unexpected EOF"`) {
			t.Errorf("logged: %s", text)
		}
	})
}

// TestInAResponseRoute: a reverse_proxy around the handler has an upstream of its own, which the handler must
// not dial.
func TestInAResponseRoute(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a, other := newIdP(t), newAPI(t, nil), newAPI(t, nil)
		directive := strings.TrimSuffix(strings.TrimPrefix(inline(a, e, option), "SITE {\n"), "}\n")
		site := runSidecar(t, "SITE {\n\treverse_proxy "+other.URL+" {\n\t\thandle_response {\n"+directive+"\t\t}\n\t}\n}\n")
		if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != http.StatusOK || len(a.seen()) != 1 || len(other.seen()) != 1 {
			t.Errorf("status %d, %d requests to the API, %d to the other", res.StatusCode, len(a.seen()), len(other.seen()))
		}
	})
}

// TestConnectionsEndWithTheConfig: Caddy lets requests under way go on after a reload. One that is sent only then
// opens a connection to the API, and no other request comes after it.
func TestConnectionsEndWithTheConfig(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), new(api)
		var open atomic.Int64
		a.Server = httptest.NewUnstartedServer(a.record(nil))
		a.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed, http.StateHijacked:
				open.Add(-1)
			default:
			}
		}
		a.Start()
		t.Cleanup(a.Close)
		usedAddresses.Store(a.Listener.Addr().String(), true)
		release := make(chan struct{})
		e.respond(func(w http.ResponseWriter, _ int64) { <-release; grantToken(w, "t", 3600) })
		site := runSidecar(t, inline(a, e, option))
		responded := make(chan int)
		go func() {
			res, err := http.Get(site + "/")
			if err != nil {
				responded <- 0
				return
			}
			_ = res.Body.Close()
			responded <- res.StatusCode
		}()
		eventually(t, "a token request", func() bool { return e.requests.Load() == 1 })
		loadCaddyfile(t, onPort("SITE {\n\trespond gone 410\n}\n", site))
		close(release)
		if status := <-responded; status != http.StatusOK || len(a.seen()) != 1 {
			t.Fatalf("status %d, %d requests to the API", status, len(a.seen()))
		}
		eventually(t, "no connection to the API is open", func() bool { return open.Load() == 0 })
	})
}

// wantResponses compares what was counted of the API's responses to the connection c, by class.
func wantResponses(t *testing.T, want map[string]float64) {
	t.Helper()
	expected, responses := make(map[string]float64), 0.0
	for _, class := range []string{"1xx", "2xx", "3xx", "4xx", "5xx", "error"} {
		expected["responses_total code="+class+" connection=c"] = want[class]
		if class != "error" {
			responses += want[class]
		}
	}
	expected["response_duration_seconds connection=c"] = responses
	wantSeries(t, expected)
}

// respondAsAsked responds with the status in the query, at once, or hangs up without one.
func respondAsAsked(w http.ResponseWriter, r *http.Request) {
	status, err := strconv.Atoi(r.URL.Query().Get("status"))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
}

func TestResponsesCounted(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, respondAsAsked)
		site := runSidecar(t, inline(a, e, "name c\n\t\t"+option))
		for _, query := range []string{"?status=200", "?status=204", "?status=302", "?status=404", "?status=503", ""} {
			call(t, "POST", site+"/"+query, nil)
		}
		call(t, "GET", site+"/%2e%2e/", nil)
		wantResponses(t, map[string]float64{"2xx": 2, "3xx": 1, "4xx": 1, "5xx": 1, "error": 1})
	})
}

func TestReplayedRequestsGetOneResponse(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, rejects("t2"))
		site := runSidecar(t, inline(a, e, "name c\n\t\tping GET /\n\t\t"+option))
		call(t, "GET", site+"/", nil)
		adminJSON(t, "POST", "/http_helper/connections/c/ping", new(any))
		wantResponses(t, map[string]float64{"2xx": 1})
	})
}

// TestSwitchedProtocolsCounted as soon as the app knows of them, and not when the connection ends.
func TestSwitchedProtocolsCounted(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, switchProtocols)
		site := runSidecar(t, inline(a, e, "name c\n\t\t"+option))
		conn, err := net.Dial("tcp", strings.TrimPrefix(site, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		if head := readHead(t, textproto.NewReader(bufio.NewReader(conn))); !strings.HasPrefix(head, "HTTP/1.1 101") {
			t.Fatal(head)
		}
		wantResponses(t, map[string]float64{"1xx": 1})
	})
}

// TestAppThatLeavesIsNoErrorOfTheAPI.
func TestAppThatLeavesIsNoErrorOfTheAPI(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		ctx, leave := context.WithCancel(t.Context())
		e, a := newIdP(t), newAPI(t, func(_ http.ResponseWriter, r *http.Request) {
			leave()
			<-r.Context().Done()
		})
		log := filepath.Join(t.TempDir(), "access.log")
		site := runSidecar(t, logged(inline(a, e, "name c\n\t\t"+option), log))
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, site, nil)
		if res, err := http.DefaultClient.Do(req); err == nil {
			res.Body.Close()
			t.Fatal("there is a response")
		}
		awaitContent(t, log) // then the request has ended
		wantSeries(t, map[string]float64{"requests_total connection=c outcome=sent": 1})
		wantResponses(t, nil)
	})
}

// TestRetriedRequestsGetOneResponse, the last one, which the app gets.
func TestRetriedRequestsGetOneResponse(t *testing.T) {
	e := newIdP(t)
	var calls atomic.Int32
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			panic(http.ErrAbortHandler)
		}
		echo(w, r)
	})
	site := runSidecar(t, inline(a, e, "name c\n\t\tlb_retries 2"))
	if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != http.StatusOK || calls.Load() != 2 {
		t.Fatalf("got %d after %d attempts", res.StatusCode, calls.Load())
	}
	wantResponses(t, map[string]float64{"2xx": 1})
}

func TestResponsesToTransportByHandCounted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, respondAsAsked)
	site := runSidecar(t, fmt.Sprintf("{\n\thttp_helper {\n\t\tconnection c {\n\t\t\tbase_url %[1]s\n\t\t\ttoken_url %[2]s\n\t\t\tclient_id id\n\t\t\tclient_secret s\n\t\t}\n\t}\n}\n"+
		"SITE {\n\treverse_proxy %[1]s {\n\t\ttransport http_helper {\n\t\t\tconnection c\n\t\t}\n\t}\n}\n", a.URL, e.URL))
	for _, query := range []string{"?status=200", "?status=418", ""} {
		call(t, "POST", site+"/"+query, nil)
	}
	wantResponses(t, map[string]float64{"2xx": 1, "4xx": 1, "error": 1})
}

// logged is a Caddyfile with an access log in its site.
func logged(caddyfile, file string) string {
	return strings.Replace(caddyfile, "SITE {\n", "SITE {\n\tlog {\n\t\toutput file "+file+"\n\t}\n", 1)
}

// TestPlaceholdersAndAccessLog of a request that was replayed, wherever they are evaluated after the response.
func TestPlaceholdersAndAccessLog(t *testing.T) {
	for name, options := range map[string]string{
		"alone":              "",
		"with reverse_proxy": "header_down X-Down \"{http.http_helper.connection} {http.http_helper.outcome} {http.http_helper.replayed}\"",
	} {
		t.Run(name, func(t *testing.T) {
			e, a := newIdP(t), newAPI(t, rejects("t2"))
			log := filepath.Join(t.TempDir(), "access.log")
			const told = "{http.http_helper.connection} {http.http_helper.outcome} {http.http_helper.replayed}"
			site := runSidecar(t, strings.Replace(logged(inline(a, e, "name c\n\t\t"+options), log), "SITE {\n",
				"SITE {\n\tlog_append told {http.http_helper.replayed}\n\theader >X-Late \""+told+"\"\n", 1))
			res, _ := call(t, "GET", site+"/", nil)
			const want = "c sent unauthorized"
			if got := res.Header.Get("X-Late"); got != want {
				t.Errorf("header has %q", got)
			}
			if got := res.Header.Get("X-Down"); options != "" && got != want {
				t.Errorf("header_down has %q", got)
			}
			entry := accessLog(t, log)
			for field, want := range map[string]any{
				"told": "unauthorized", "http_helper.connection": "c", "http_helper.outcome": "sent", "http_helper.replayed": "unauthorized",
			} {
				if entry[field] != want {
					t.Errorf("in the access log %s is %v, want %v", field, entry[field], want)
				}
			}
			if wait, _ := entry["http_helper.token_wait"].(float64); wait <= 0 || wait > 10 {
				t.Errorf("in the access log the wait for tokens is %v", entry["http_helper.token_wait"])
			}
		})
	}
}

// accessLog returns the only line of an access log, once it is there.
func accessLog(t *testing.T, file string) (entry map[string]any) {
	t.Helper()
	if text := awaitContent(t, file); json.Unmarshal(text, &entry) != nil {
		t.Fatalf("the access log has %s", text)
	}
	return entry
}

// TestNoWaitIsNotLogged: there is a token.
func TestNoWaitIsNotLogged(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, nil)
		log := filepath.Join(t.TempDir(), "access.log")
		site := runSidecar(t, logged(inline(a, e, "name c\n\t\t"+option), log))
		adminJSON(t, "POST", "/http_helper/connections/c/refresh", new(any))
		call(t, "GET", site+"/", nil)
		entry := accessLog(t, log)
		if wait, there := entry["http_helper.token_wait"]; there || entry["http_helper.replayed"] != "" || entry["http_helper.outcome"] != "sent" {
			t.Errorf("the wait is %v: %v", wait, entry)
		}
	})
}

// TestRefusedRequestsTellOfThemselves to an error route and in the access log.
func TestRefusedRequestsTellOfThemselves(t *testing.T) {
	const route = "\thandle_errors {\n\t\trespond \"<{http.http_helper.connection} {http.http_helper.outcome} {http.http_helper.replayed}>\"\n\t}\n}\n"
	bothWays(t, func(t *testing.T, option string) {
		for name, test := range map[string]struct{ path, options, want string }{
			"by the policy": {"/%2e%2e/", "", "<c refused >"},
			"by allow":      {"/a", "allow GET /b", "<c refused >"},
			"without token": {"/", "", "<c no_token >"},
		} {
			t.Run(name, func(t *testing.T) {
				e, a := newIdP(t), newAPI(t, nil)
				log := filepath.Join(t.TempDir(), "access.log")
				e.respond(func(w http.ResponseWriter, n int64) {
					if test.path == "/" {
						w.WriteHeader(http.StatusBadRequest)
						return
					}
					grantToken(w, "t", 3600)
				})
				file := logged(inline(a, e, "name c\n\t\t"+test.options+"\n\t\t"+option), log)
				site := runSidecar(t, strings.TrimSuffix(file, "}\n")+route)
				if _, body := call(t, "GET", site+test.path, nil); body != test.want {
					t.Errorf("the error route has %s, want %s", body, test.want)
				}
				entry := accessLog(t, log)
				if got := fmt.Sprintf("<%v %v %v>", entry["http_helper.connection"], entry["http_helper.outcome"], entry["http_helper.replayed"]); got != test.want {
					t.Errorf("the access log has %s, want %s", got, test.want)
				}
			})
		}
	})
}

// TestPlaceholdersOfTransportByHand: those of the last attempt.
func TestPlaceholdersOfTransportByHand(t *testing.T) {
	e, a := newIdP(t), newAPI(t, rejects("t2"))
	log := filepath.Join(t.TempDir(), "access.log")
	site := runSidecar(t, logged(fmt.Sprintf("{\n\thttp_helper {\n\t\tconnection c {\n\t\t\tbase_url %[1]s\n\t\t\ttoken_url %[2]s\n\t\t\tclient_id id\n\t\t\tclient_secret s\n\t\t}\n\t}\n}\n"+
		"SITE {\n\treverse_proxy %[1]s {\n\t\theader_down X-Told \"{http.http_helper.connection} {http.http_helper.outcome} {http.http_helper.replayed}\"\n"+
		"\t\ttransport http_helper {\n\t\t\tconnection c\n\t\t}\n\t}\n}\n", a.URL, e.URL), log))
	if res, _ := call(t, "GET", site+"/", nil); res.Header.Get("X-Told") != "c sent unauthorized" {
		t.Errorf("header_down has %q", res.Header.Get("X-Told"))
	}
	if entry := accessLog(t, log); entry["http_helper.connection"] != "c" || entry["http_helper.outcome"] != "sent" || entry["http_helper.replayed"] != "unauthorized" {
		t.Errorf("the access log has %v", entry)
	}
}

// TestAnErrorRouteToAnotherConnection tells of that connection.
func TestAnErrorRouteToAnotherConnection(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	const header = "header >X-Told \"{http.http_helper.connection} {http.http_helper.outcome} {http.vars.http_helper}\"\n"
	fallback := strings.NewReplacer("SITE {\n", "\thandle_errors {\n"+header, "\n}\n", "\n\t}\n}\n").Replace(inline(a, e, "name d"))
	site := runSidecar(t, strings.TrimSuffix(inline(a, e, "name c\n\t\tallow GET /other"), "}\n")+fallback)
	if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != http.StatusOK || res.Header.Get("X-Told") != "d sent d" {
		t.Errorf("got %d, %q", res.StatusCode, res.Header.Get("X-Told"))
	}
}

// around is a handler before http_helper, as those of other plugins are. It calls the next one as the test says.
type around struct{}

// callNext is what around does.
var callNext func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error

func init() {
	caddy.RegisterModule(around{})
	httpcaddyfile.RegisterHandlerDirective("around", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return around{}, nil })
	httpcaddyfile.RegisterDirectiveOrder("around", httpcaddyfile.Before, "header")
}

func (around) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.around", New: func() caddy.Module { return new(around) }}
}

func (around) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return callNext(w, r, next)
}

// runAround runs a sidecar with around before http_helper, and without an access log.
func runAround(t *testing.T, e *fakeIdP, a *api, option string, do func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error) string {
	t.Helper()
	callNext = do
	return runSidecar(t, strings.Replace(inline(a, e, option), "SITE {", "SITE {\n\taround", 1))
}

// TestNoHandlerSeesAnEcho: placeholders and other handlers, such as Caddy's tracing with its span_attributes, read the
// header when the response has been sent, whether or not there is an access log.
func TestNoHandlerSeesAnEcho(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Echo", r.Header.Get("Authorization")) })
		seen := make(chan string, 1)
		site := runAround(t, e, a, option, func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			err := next.ServeHTTP(w, r)
			seen <- w.Header().Get("X-Echo") + r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{http.response.header.X-Echo}", "")
			return err
		})
		if res, _ := call(t, "GET", site, nil); res.Header.Get("X-Echo") != "Bearer t1" {
			t.Errorf("the app got %v", res.Header)
		}
		if got := <-seen; got != "" {
			t.Errorf("a handler saw %q", got)
		}
	})
}

// TestNextInAGoroutine: plugins for caches and timeouts call the next handler in a goroutine and use the request
// meanwhile. The race detector watches.
func TestNextInAGoroutine(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		site := runAround(t, e, a, option, func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			done := make(chan error, 1)
			go func() { done <- next.ServeHTTP(w, r) }()
			<-r.Context().Done()
			left := r.Context().Err()
			<-done
			return left
		})
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, site, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res, err := http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
			}
			cancel()
		}
	})
}
