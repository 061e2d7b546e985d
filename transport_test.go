package httphelper

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// Requests with a token, and what happens when the API rejects it.

func TestRequestArrivesWithToken(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Proxy-Status", `http_helper; error=forged, other; error=http_request_error`)
		echo(w, r)
	})
	site := runSidecar(t, inline(a, e, "api_header X-Key k\n\t\tapi_query tenant a&b"))

	res, body := call(t, "POST", site+"/a%2Fb/c?x=%20&tenant=evil&%74enant=evil;tenant=evil&y", strings.NewReader("hello"),
		"Authorization", "Bearer app", "Proxy-Authorization", "Basic app", "DPoP", "app", "X-Key", "app", "X_key", "app",
		"X-Forwarded-For", "app", "Forwarded", "app", "Via", "app", "Connection", "Authorization", "X-Forwarded-Foo", "app",
		"Client-Cert", "app", "X-Other", "kept")
	if res.StatusCode != 200 || body != "hello" {
		t.Fatalf("got %d %q", res.StatusCode, body)
	}
	if got := res.Header.Values("Proxy-Status"); len(got) != 1 || strings.Contains(got[0], "http_helper") {
		t.Errorf("Proxy-Status passed on: %q", got)
	}
	r := a.last(t)
	if want := "/base/a%2Fb/c?x=%20&y&tenant=a%26b"; r.RequestURI != want {
		t.Errorf("the API was asked %s, want %s", r.RequestURI, want)
	}
	if want := strings.TrimPrefix(a.URL, "http://"); r.Host != want {
		t.Errorf("Host %s, want %s", r.Host, want)
	}
	for field, want := range map[string]string{"Authorization": "Bearer t1", "X-Key": "k", "X-Other": "kept"} {
		if got := r.Header.Values(field); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	for _, field := range []string{"Proxy-Authorization", "Dpop", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Foo", "Forwarded", "Via", "Client-Cert", "X_key"} {
		if got := r.Header.Values(field); got != nil {
			t.Errorf("%s arrived: %q", field, got)
		}
	}
}

func TestHeaderUpSurvives(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "header_up X-Forwarded-For mine\n\t\theader_up -Auth*"))
	call(t, "GET", site+"/", nil)
	r := a.last(t)
	if r.Header.Get("X-Forwarded-For") != "mine" || r.Header.Get("Authorization") != "Bearer t1" || r.Host == "evil.example" {
		t.Errorf("host %s, header %v", r.Host, r.Header)
	}
	if r.RequestURI != "/base/" {
		t.Errorf("asked %s", r.RequestURI)
	}
}

func TestAppAuthorization(t *testing.T) {
	for _, test := range []struct {
		options, app string
		status       int
		want, token  string // Authorization and X-Token at the API
	}{
		{"", "Bearer app", 200, "Bearer t1", ""},
		{"app_authorization keep", "Bearer app", 200, "Bearer app", ""},
		{"app_authorization keep", "", 200, "Bearer t1", ""},
		{"app_authorization reject", "Bearer app", 400, "", ""},
		{"app_authorization reject", "", 200, "Bearer t1", ""},
		{"access_token_header X-Token", "Bearer app", 200, "", "t1"},
		{"access_token_header X-Token token", "Bearer app", 200, "", "token t1"},
		{"access_token_header X-Token\n\t\tapp_authorization keep", "Bearer app", 200, "Bearer app", ""},
	} {
		e, a := newIdP(t), newAPI(t, nil)
		site := runSidecar(t, inline(a, e, test.options))
		header := []string{"X-Token", "app"}
		if test.app != "" {
			header = append(header, "Authorization", test.app)
		}
		if !strings.Contains(test.options, "X-Token") {
			header = header[2:]
		}
		res, _ := call(t, "GET", site+"/", nil, header...)
		if res.StatusCode != test.status {
			t.Errorf("%s: status %d", test.options, res.StatusCode)
			continue
		}
		if res.StatusCode != 200 {
			continue
		}
		r := a.last(t)
		if got := r.Header.Get("Authorization"); got != test.want {
			t.Errorf("%s with %q: Authorization %q, want %q", test.options, test.app, got, test.want)
		}
		if got := r.Header.Get("X-Token"); got != test.token {
			t.Errorf("%s: X-Token %q, want %q", test.options, got, test.token)
		}
	}
}

func TestReplayWithNewerToken(t *testing.T) {
	e, a := newIdP(t), newAPI(t, rejects("t2"))
	site := runSidecar(t, inline(a, e, ""))
	for _, body := range []string{"", "small", strings.Repeat("x", 60<<10)} {
		res, got := call(t, "POST", site+"/", strings.NewReader(body))
		if res.StatusCode != 200 || got != body {
			t.Fatalf("got %d with %d bytes, want %d", res.StatusCode, len(got), len(body))
		}
	}
	if n := e.requests.Load(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

func TestTooLargeToReplay(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the body has been read when the 401 comes
		rejects("t2")(w, r)
	})
	site := runSidecar(t, inline(a, e, "replay_buffer 1KiB"))
	res, body := call(t, "POST", site+"/", strings.NewReader(strings.Repeat("x", 2000)))
	if res.StatusCode != 401 || body != "no" {
		t.Fatalf("got %d %q", res.StatusCode, body)
	}
	if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != 200 {
		t.Errorf("the rejected token goes on being used: %d", res.StatusCode)
	}
}

// An early 401 arrives while the app is still sending. What the first attempt has read, and what
// its last read still brings, must be sent again, and nothing twice.
func TestEarlyRejectionOfStreamingUpload(t *testing.T) {
	e := newIdP(t)
	rejected := make(chan struct{})
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer t2" {
			_, _ = io.ReadFull(r.Body, make([]byte, 5))
			w.WriteHeader(http.StatusUnauthorized)
			close(rejected)
			return
		}
		echo(w, r)
	})
	site := runSidecar(t, inline(a, e, ""))
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, "first")
		<-rejected
		for i := range 100 {
			_, _ = fmt.Fprintf(writer, " %d", i)
		}
		_ = writer.Close()
	}()
	want := "first"
	for i := range 100 {
		want += fmt.Sprintf(" %d", i)
	}
	res, got := call(t, "PUT", site+"/", reader)
	if res.StatusCode != 200 || got != want {
		t.Fatalf("got %d %q", res.StatusCode, got)
	}
}

func TestUnauthorizedPassedOn(t *testing.T) {
	for name, test := range map[string]struct {
		options, challenge string
	}{
		"pass":               {"on_unauthorized pass", `Bearer error="invalid_token"`},
		"insufficient scope": {"", `Basic realm="x", Bearer error="insufficient_scope", scope="more"`},
	} {
		t.Run(name, func(t *testing.T) {
			e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", test.challenge)
				w.WriteHeader(http.StatusUnauthorized)
			})
			site := runSidecar(t, inline(a, e, test.options))
			res, _ := call(t, "GET", site+"/", nil)
			if res.StatusCode != 401 || len(a.seen()) != 1 || e.requests.Load() != 1 || res.Header.Get("Proxy-Status") != "" {
				t.Errorf("status %d, %d API requests, %d token requests", res.StatusCode, len(a.seen()), e.requests.Load())
			}
		})
	}
}

func TestAPIThatRejectsEveryTokenCostsOneTokenRequest(t *testing.T) {
	e, a := newIdP(t), newAPI(t, rejects("none"))
	site := runSidecar(t, inline(a, e, ""))
	for range 20 {
		if res, body := call(t, "GET", site+"/", nil); res.StatusCode != 401 || body != "no" {
			t.Fatalf("got %d %q", res.StatusCode, body)
		}
	}
	if n := e.requests.Load(); n != 2 {
		t.Errorf("%d token requests, want 2: the first and one for the rejection", n)
	}
}

// Errors of the token endpoint and of the API, as the app sees them.

func TestErrorsTowardsTheApp(t *testing.T) {
	for name, test := range map[string]struct {
		respond func(http.ResponseWriter, int64)
		status  int
		grpc    string
		kind    string
		retry   bool
	}{
		"outage":      {func(w http.ResponseWriter, _ int64) { w.WriteHeader(500) }, 503, "14", "proxy_internal_error", true},
		"retry later": {func(w http.ResponseWriter, _ int64) { w.Header().Set("Retry-After", "7"); w.WriteHeader(503) }, 503, "14", "proxy_internal_error", true},
		"invalid client": {func(w http.ResponseWriter, _ int64) {
			w.WriteHeader(401)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
		}, 502, "9", "proxy_configuration_error", false},
		"redirect":          {func(w http.ResponseWriter, _ int64) { w.Header().Set("Location", "/x"); w.WriteHeader(307) }, 502, "9", "proxy_configuration_error", false},
		"unusable response": {func(w http.ResponseWriter, _ int64) { _, _ = io.WriteString(w, "{}") }, 502, "9", "proxy_configuration_error", false},
	} {
		t.Run(name, func(t *testing.T) {
			e, a := newIdP(t), newAPI(t, nil)
			e.respond(test.respond)
			site := runSidecar(t, inline(a, e, ""))
			res, _ := call(t, "GET", site+"/", nil)
			status := res.Header.Get("Proxy-Status")
			if res.StatusCode != test.status || !strings.HasPrefix(status, "http_helper; error="+test.kind+"; details=\"") || res.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("got %d %q", res.StatusCode, status)
			}
			if test.retry && res.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			res, _ = call(t, "POST", site+"/", strings.NewReader("x"), "Content-Type", "application/grpc")
			if res.StatusCode != 200 || res.Header.Get("Grpc-Status") != test.grpc {
				t.Errorf("gRPC: %d with grpc-status %q, want %s", res.StatusCode, res.Header.Get("Grpc-Status"), test.grpc)
			}
			if len(a.seen()) != 0 {
				t.Error("a request without a token was sent")
			}
		})
	}
}

func TestAPIUnreachable(t *testing.T) {
	e, down, plain := newIdP(t), newAPI(t, nil), newAPI(t, nil)
	down.Close()
	private, _ := tlsAPI(t, nil)
	noHTTP := newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH\r\n")
		_ = conn.Close()
	})
	for name, test := range map[string]struct {
		caddyfile string
		why       string
	}{
		"down":       {inline(down, e, "name c"), "the API cannot be reached: connection refused"},
		"private CA": {inline(private, e, "name c"), "the API cannot be reached: its TLS certificate is signed by an unknown authority"},
		"no TLS":     {strings.Replace(inline(plain, e, "name c"), "http_helper http://", "http_helper https://", 1), "the API cannot be reached: it does not speak TLS"},
		"not HTTP":   {inline(noHTTP, e, "name c"), "the API's response broke off or is not HTTP"},
	} {
		t.Run(name, func(t *testing.T) {
			site := runSidecar(t, strings.TrimSuffix(test.caddyfile, "}\n")+"\thandle_errors {\n\t\trespond \"{http.error.message}\"\n\t}\n}\n")
			wantUnreachable(t, site, 502, test.why)
			// What Caddy logs.
			if _, message := call(t, "GET", site+"/", nil); !strings.HasPrefix(message, "connection c: "+test.why) || strings.Count(message, test.why) > 1 {
				t.Errorf("the error is %q", message)
			}
		})
	}
}

func TestNoUpstreamLeft(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "name c\n\t\tfail_duration 1h"))
	a.Close()
	wantUnreachable(t, site, 502, "the API cannot be reached: connection refused")
	wantUnreachable(t, site, 503, "the API cannot be reached: none of its addresses is available")
}

// TestNoResponseAfterARetry: what counts is the last attempt, and not that the API responded before.
func TestNoResponseAfterARetry(t *testing.T) {
	e := newIdP(t)
	var a *api
	a = newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = a.Listener.Close()
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	site := runSidecar(t, inline(a, e, "name c\n\t\tlb_retries 1\n\t\tlb_retry_match {\n\t\t\texpression `{rp.status_code} == 503`\n\t\t}"))
	wantUnreachable(t, site, 502, "the API cannot be reached: connection refused")
}

// TestRetryMatchSeesWhatReverseProxyHasAdded, though the API gets none of it.
func TestRetryMatchSeesWhatReverseProxyHasAdded(t *testing.T) {
	e := newIdP(t)
	var tries atomic.Int32
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-Proto") != "" || tries.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	site := runSidecar(t, inline(a, e, "lb_retries 1\n\t\tlb_retry_match {\n\t\t\texpression `{rp.status_code} == 503`\n\t\t\theader X-Forwarded-Proto http\n\t\t}"))
	if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != http.StatusOK {
		t.Errorf("status %d after %d tries", res.StatusCode, tries.Load())
	}
}

// TestRateLimitThatTheAppDoesNotSee: what reverse_proxy tries again, or replaces, was not passed to the app.
func TestRateLimitThatTheAppDoesNotSee(t *testing.T) {
	e := newIdP(t)
	var tries atomic.Int32
	a := newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/always") || tries.Add(1) == 1 {
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	site := runSidecar(t, inline(a, e, "name c\n\t\tlb_retries 1\n\t\tlb_retry_match {\n\t\t\texpression `{rp.status_code} == 429`\n\t\t}"))
	for path, status := range map[string]int{"/once": http.StatusOK, "/always": http.StatusTooManyRequests} {
		if res, _ := call(t, "GET", site+path, nil); res.StatusCode != status {
			t.Errorf("%s: status %d", path, res.StatusCode)
		}
	}
	wantSeries(t, map[string]float64{
		"rate_limited_total connection=c outcome=passed": 0,
		"responses_total code=2xx connection=c":          1,
		"responses_total code=error connection=c":        1,
	})
}

// wantUnreachable sends a request through the connection c.
func wantUnreachable(t *testing.T, site string, status int, why string) {
	t.Helper()
	res, _ := call(t, "GET", site+"/", nil)
	want := `http_helper; error=destination_unavailable; details="connection c: ` + why + `"`
	if got := res.Header.Get("Proxy-Status"); res.StatusCode != status || got != want {
		t.Errorf("got %d %q, want %d %q", res.StatusCode, got, status, want)
	}
}

func TestErrorAfterTheResponseIsNotOurs(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "handle_response {\n\t\t\terror 503\n\t\t}"))
	res, _ := call(t, "GET", site+"/", nil)
	if res.StatusCode != 503 || res.Header.Get("Proxy-Status") != "" {
		t.Errorf("got %d %q", res.StatusCode, res.Header.Get("Proxy-Status"))
	}
}

// Requests that are refused, and where the token may go.

func TestRefusedRequests(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, ""))
	for line, status := range map[string]int{
		"TRACE /":                 405,
		"CONNECT example.com:443": 405,
		"GET /../x":               400,
		"GET /%2e%2e/x":           400,
		"GET /%252e%252e/x":       400,
		"GET /a/..;/x":            400,
		"GET /a%5c..%5cx":         400,
		"GET /a%00":               400,
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(site, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", line)
		response, _ := io.ReadAll(conn)
		_ = conn.Close()
		if !bytes.HasPrefix(response, fmt.Appendf(nil, "HTTP/1.1 %d", status)) || !bytes.Contains(response, []byte("error=http_request_error")) {
			t.Errorf("%s: %.200s", line, response)
		}
	}
	if len(a.seen()) != 0 {
		t.Error("a refused request was sent")
	}
}

func TestUpstreamsAreOnlyAddressesToDial(t *testing.T) {
	e := newIdP(t)
	a, ca := tlsAPI(t, nil)
	address := strings.TrimPrefix(a.URL, "https://")
	site := func(base, options string) string {
		return runSidecar(t, fmt.Sprintf("SITE {\n\thttp_helper %s {\n\t\ttoken_url %s\n\t\tclient_id id\n\t\tclient_secret s\n\t\t%s\n\t}\n}\n", base, e.URL, options))
	}
	trust := "\n\t\ttransport http {\n\t\t\ttls_trust_pool file " + ca + "\n\t\t}"

	res, _ := call(t, "GET", site("https://example.com/v1", "to "+address+trust)+"/x", nil)
	if res.StatusCode != 200 {
		t.Fatalf("over verified TLS: %d %s", res.StatusCode, res.Header.Get("Proxy-Status"))
	}
	if r := a.last(t); r.Host != "example.com" || r.TLS.ServerName != "example.com" || r.URL.Path != "/v1/x" {
		t.Errorf("host %s, SNI %s, path %s", r.Host, r.TLS.ServerName, r.URL.Path)
	}
	seen := len(a.seen())
	res, _ = call(t, "GET", site("https://other.example/v1", "to "+address+trust)+"/x", nil)
	if res.StatusCode != 502 || len(a.seen()) != seen {
		t.Errorf("with another host's certificate: %d", res.StatusCode)
	}

	plain := newAPI(t, nil)
	res, _ = call(t, "GET", site("http://127.0.0.1:1", "to "+strings.TrimPrefix(plain.URL, "http://"))+"/x", nil)
	if res.StatusCode != 502 || len(plain.seen()) != 0 || !strings.HasPrefix(res.Header.Get("Proxy-Status"), "http_helper; error=proxy_configuration_error;") {
		t.Errorf("in the clear to another address: %d %s", res.StatusCode, res.Header.Get("Proxy-Status"))
	}
}

func TestTransportByHand(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	address := strings.TrimPrefix(a.URL, "http://")
	config := fmt.Sprintf(`{
	http_helper {
		connection c {
			base_url http://%s/base
			token_url %s
			client_id id
			client_secret s
		}
	}
}
SITE {
	reverse_proxy %s {
		transport http_helper {
			connection c
		}
	}
}
`, address, e.URL, address)
	site := runSidecar(t, config)
	if res, _ := call(t, "GET", site+"/x", nil); res.StatusCode != 200 {
		t.Fatalf("got %d", res.StatusCode)
	}
	if r := a.last(t); r.URL.Path != "/base/x" || r.Header.Get("Authorization") != "Bearer t1" || r.Header.Get("Via") != "" {
		t.Errorf("%s %v", r.URL.Path, r.Header)
	}
	res, _ := call(t, "GET", site+"/%2e%2e/x", nil)
	if res.StatusCode != 400 || !strings.Contains(res.Header.Get("Proxy-Status"), "http_request_error") {
		t.Errorf("a path outside: %d %s", res.StatusCode, res.Header.Get("Proxy-Status"))
	}
	site = runSidecar(t, strings.Replace(config, "\t\t\tconnection c\n\t\t}", "\t\t}", 1))
	res, _ = call(t, "GET", site+"/x", nil)
	if res.StatusCode != 502 || len(a.seen()) != 1 || !strings.Contains(res.Header.Get("Proxy-Status"), "proxy_configuration_error") {
		t.Errorf("without a connection: %d %s", res.StatusCode, res.Header.Get("Proxy-Status"))
	}
}

func TestRedirectsLeadThroughTheSidecar(t *testing.T) {
	e := newIdP(t)
	var location string
	a := newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusFound)
	})
	site := runSidecar(t, fmt.Sprintf("SITE {\n\thandle_path /crm/* {\n\t\thttp_helper %s/base {\n\t\t\ttoken_url %s\n\t\t\tclient_id id\n\t\t\tclient_secret s\n\t\t}\n\t}\n}\n", a.URL, e.URL))
	for from, want := range map[string]string{
		"/base/next?x=1":             "/crm/next?x=1",
		"next":                       "/crm/a/next",
		"../up":                      "/crm/up",
		"../../out":                  a.URL + "/out",
		a.URL + "/base/next":         "/crm/next",
		a.URL + "/basement":          a.URL + "/basement",
		"https://elsewhere.example/": "https://elsewhere.example/",
		"//elsewhere.example/x":      "http://elsewhere.example/x",
	} {
		location = from
		res, _ := call(t, "GET", site+"/crm/a/b", nil)
		if got := res.Header.Get("Location"); got != want {
			t.Errorf("%s became %s, want %s", from, got, want)
		}
	}
}

func TestTokenNeverGoesThroughAForwardProxyInTheClear(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	proxy := newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "transport http {\n\t\t\tnetwork_proxy url "+proxy.URL+"\n\t\t}"))
	res, _ := call(t, "GET", site+"/x", nil)
	if res.StatusCode != 502 || !strings.Contains(res.Header.Get("Proxy-Status"), "proxy_configuration_error") {
		t.Errorf("got %d %s", res.StatusCode, res.Header.Get("Proxy-Status"))
	}
	if len(proxy.seen())+len(a.seen()) != 0 {
		t.Error("something was sent")
	}
}

// Tokens across reloads and time-outs.

func TestReloadKeepsTokens(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	config := inline(a, e, "")
	site := runSidecar(t, config)
	callAcrossReload(t, site+"/")
	for i := range 5 {
		changed := strings.Replace(config, "client_id id", fmt.Sprintf("refresh_before %dm\n\t\tclient_id id", i+1), 1)
		loadCaddyfile(t, onPort(changed, site))
		callAcrossReload(t, site+"/")
		if err := tryCaddyfile(onPort(strings.Replace(changed, "client_secret literal-secret", "client_secret {env.HTTP_HELPER_UNSET}", 1), site)); err == nil {
			t.Fatal("a broken config was loaded")
		}
		callAcrossReload(t, site+"/")
	}
	if n := e.requests.Load(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	loadCaddyfile(t, onPort(strings.Replace(config, "client_id id", "client_id other", 1), site))
	callAcrossReload(t, site+"/")
	if n := e.requests.Load(); n != 2 {
		t.Errorf("%d token requests after a change of the client, want 2", n)
	}
}

func TestAppLeavesWhileWaiting(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	release := make(chan struct{})
	arrived := make(chan struct{}, 1)
	e.respond(func(w http.ResponseWriter, _ int64) {
		arrived <- struct{}{}
		<-release
		grantToken(w, "late", 3600)
	})
	site := runSidecar(t, inline(a, e, ""))
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, site+"/", nil)
		_, err := http.DefaultClient.Do(req)
		left <- err
	}()
	<-arrived
	cancel()
	if err := <-left; err == nil {
		t.Error("the one who left got a response")
	}
	close(release)
	if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != 200 || e.requests.Load() != 1 {
		t.Errorf("%d with %d token requests", res.StatusCode, e.requests.Load())
	}
}

// Characters that net/url does not accept in a path must not make it escape the rest again.
func TestEncodingsSurviveRawCharacters(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, ""))
	for path, want := range map[string]string{
		"/a%2Fb|c": "/base/a%2Fb%7Cc", "/a%3Bb<": "/base/a%3Bb%3C", "/%E9\xc3\xa9%2F": "/base/%E9%C3%A9%2F", "/'()!*[]|^": "/base/'()!*[]%7C%5E",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(site, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path)
		_, _ = io.ReadAll(conn)
		_ = conn.Close()
		if got := a.last(t).RequestURI; got != want {
			t.Errorf("%s became %s, want %s", path, got, want)
		}
	}
}

func TestInformationalResponsesDoNotSpeakInOurName(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Proxy-Status", "http_helper; error=forged")
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Proxy-Status")
	})
	site := runSidecar(t, inline(a, e, ""))
	hints := 0
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
		hints++
		if header.Get("Proxy-Status") != "" || header.Get("Link") == "" {
			t.Errorf("early hints %v", header)
		}
		return nil
	}})
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, site+"/", nil)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if hints != 1 {
		t.Errorf("%d early hints", hints)
	}
}

// What is the same request on the wire keeps its token, however it is written.
func TestReloadKeepsTheTokenOfTheSameRequest(t *testing.T) {
	t.Setenv("HTTP_HELPER_TEST_SECRET", "literal-secret")
	e, a := newIdP(t), newAPI(t, nil)
	config := inline(a, e, "")
	site := runSidecar(t, config)
	callAcrossReload(t, site+"/")
	for _, changed := range []string{
		inline(a, e, "grant_type client_credentials\n\t\tbasic_encoding form\n\t\ttoken_pointer /access_token"),
		inline(a, e, "token_request_format form\n\t\tauth_method client_secret_basic"),
		strings.Replace(config, "literal-secret", "{env.HTTP_HELPER_TEST_SECRET}", 1),
	} {
		loadCaddyfile(t, onPort(changed, site))
		callAcrossReload(t, site+"/")
		if n := e.requests.Load(); n != 1 {
			t.Fatalf("%d token requests with\n%s", n, changed)
		}
	}
}

// A connection that shares its token with a more patient one waits no longer for that.
func TestEachConnectionHasItsOwnTimeout(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	release := make(chan struct{})
	e.respond(func(w http.ResponseWriter, _ int64) {
		<-release
		grantToken(w, "late", 3600)
	})
	connection := func(name, timeout string) string {
		return fmt.Sprintf("connection %s {\nbase_url %s\ntoken_url %s\nclient_id id\nclient_secret s\ntoken_timeout %s\n}\n", name, a.URL, e.URL, timeout)
	}
	site := runSidecar(t, "{\nhttp_helper {\n"+connection("hasty", "300ms")+connection("patient", "20s")+"}\n}\nSITE {\nhttp_helper hasty\n}\n")
	res, _ := call(t, "GET", site+"/", nil)
	close(release)
	if res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("status %d", res.StatusCode)
	}
}

// What clients, upstreams and APIs try.

// rawCall sends a request as it is written and returns the response without its body.
func rawCall(t *testing.T, site, request string) *http.Response {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(site, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, ""))
	for value, want := range map[string]int{
		"": 200, "none": 200, "same-origin": 200, "same-site": 200,
		"cross-site": 403, "Cross-Site": 403,
	} {
		var header []string
		if value != "" {
			header = []string{"Sec-Fetch-Site", value}
		}
		res, _ := call(t, "POST", site+"/", strings.NewReader("x"), header...)
		if res.StatusCode != want {
			t.Errorf("%q: status %d, want %d", value, res.StatusCode, want)
		}
		if status := res.Header.Get("Proxy-Status"); want == 403 && !strings.HasPrefix(status, "http_helper; error=http_request_denied; ") {
			t.Errorf("%q: Proxy-Status %q", value, status)
		}
	}
	res, _ := call(t, "GET", site+"/", nil, "Sec-Fetch-Site", "none", "Sec-Fetch-Site", "cross-site")
	if res.StatusCode != 403 {
		t.Errorf("two values: status %d", res.StatusCode)
	}
}

func TestMethodsThatReflectAreRefusedInAnyCase(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, ""))
	for _, method := range []string{"TRACE", "trace", "Trace", "CONNECT", "connect"} {
		res := rawCall(t, site, method+" / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if res.StatusCode != 405 {
			t.Errorf("%s: status %d", method, res.StatusCode)
		}
	}
}

func TestTrailersSayNoMoreThanHeaders(t *testing.T) {
	for _, options := range []string{
		"access_token_header X-Token\n\t\tapi_header X-Key literal-key",
		"access_token_header X-Token\n\t\tapi_header X-Key literal-key\n\t\tapp_authorization keep",
		"access_token_header X-Token\n\t\tapi_header X-Key literal-key\n\t\theader_up X-Up 1",
		"access_token_header X-Token\n\t\tapi_header X-Key literal-key\n\t\trequest_buffers 1MiB",
	} {
		trailers := make(chan http.Header, 1)
		e, a := newIdP(t), newAPI(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			trailers <- r.Trailer
		})
		site := runSidecar(t, inline(a, e, options))
		fields := []string{"Authorization", "X-Token", "x-token", "X_Token", "X-Key", "X_key", "Proxy-Authorization", "DPoP", "Client-Cert", "Via", "X-Forwarded-For", "X-Kept"}
		request := "POST / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer app\r\nTransfer-Encoding: chunked\r\nTrailer: " + strings.Join(fields, ", ") +
			"\r\nConnection: close\r\n\r\n4\r\nbody\r\n0\r\n"
		for _, field := range fields {
			request += field + ": app\r\n"
		}
		if res := rawCall(t, site, request+"X-Unannounced: app\r\n\r\n"); res.StatusCode != 200 {
			t.Fatalf("%s: status %d", options, res.StatusCode)
		}
		got := <-trailers
		for field, values := range got {
			if len(values) > 0 && field != "X-Kept" && field != "X-Unannounced" {
				t.Errorf("%s: trailer %s: %q", options, field, values)
			}
		}
		if got.Get("X-Kept") != "app" {
			t.Errorf("%s: trailers %v", options, got)
		}
	}
}

// TestNamesThatServersTakeForOurs is about servers that tell hyphens and underscores not apart.
func TestNamesThatServersTakeForOurs(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "access_token_header X_Own-Token\n\t\tapi_header X_Api_Key literal-key"))
	call(t, "GET", site+"/", nil, "X-Own-Token", "app", "X-Api-Key", "app", "X-Other", "app")
	header := a.last(t).Header
	if header.Get("X_Own-Token") != "t1" || header.Get("X_Api_Key") != "literal-key" || header.Get("X-Other") != "app" {
		t.Errorf("header %v", header)
	}
	if header.Get("X-Own-Token") != "" || header.Get("X-Api-Key") != "" {
		t.Errorf("the app's arrived too: %v", header)
	}
}

// withProxyOptions loads a Caddyfile whose reverse_proxy gets options that the Caddyfile refuses.
func withProxyOptions(t *testing.T, caddyfile, options string) string {
	t.Helper()
	address := freeAddress(t)
	config, err := adaptQuietly(onPort(caddyfile, "http://"+address))
	if err != nil {
		t.Fatal(err)
	}
	const proxy = `"handler":"reverse_proxy",`
	changed := strings.Replace(string(config), proxy, proxy+options+",", 1)
	if err := caddy.Load([]byte(changed), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return "http://" + address
}

func TestTheFinalRequestIsJudged(t *testing.T) {
	for name, test := range map[string]struct{ options, header string }{
		"path":   {`"rewrite":{"uri":"{http.request.header.X-Evil}"}`, "/a/%2e%2e/%2e%2e/admin"},
		"method": {`"rewrite":{"method":"{http.request.header.X-Evil}"}`, "TRACE"},
	} {
		t.Run(name, func(t *testing.T) {
			e, a := newIdP(t), newAPI(t, nil)
			site := withProxyOptions(t, inline(a, e, "use_reverse_proxy"), test.options)
			res, _ := call(t, "GET", site+"/", nil, "X-Evil", test.header)
			if n := len(a.seen()); res.StatusCode != 502 || n != 0 {
				t.Errorf("status %d, %d requests at the API", res.StatusCode, n)
			}
			if got := res.Header.Get("Proxy-Status"); !strings.HasPrefix(got, "http_helper; error=proxy_configuration_error; ") {
				t.Errorf("Proxy-Status %q", got)
			}
		})
	}
}

// TestAppsChooseNoSocket: a token in the clear goes to sockets that the operator names, never to
// one that a request names.
func TestAppsChooseNoSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 10)
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Authorization")
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()

	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, "to unix/"+socket))
	if res, _ := call(t, "GET", site+"/", nil); res.StatusCode != 200 || len(seen) != 1 {
		t.Fatalf("status %d with a socket that is configured", res.StatusCode)
	}
	<-seen
	for _, upstream := range []string{"unix/{http.request.header.X-Socket}", "{http.request.header.X-Network}/{http.request.header.X-Socket}"} {
		address := freeAddress(t)
		config, err := adaptQuietly(onPort(inline(a, e, "to unix//dialed"), "http://"+address))
		if err != nil {
			t.Fatal(err)
		}
		if err := caddy.Load([]byte(strings.ReplaceAll(string(config), "unix//dialed", upstream)), true); err != nil {
			t.Fatal(err)
		}
		res, _ := call(t, "GET", "http://"+address+"/", nil, "X-Network", "unix", "X-Socket", socket)
		if res.StatusCode != 502 || len(seen) != 0 {
			t.Errorf("%s: status %d, %d requests at the socket", upstream, res.StatusCode, len(seen))
		}
	}
}

// TestCertificateOfAnotherNameIsNotEnough: the certificate's name is that of the base URL even when
// that is known only later.
func TestCertificateOfAnotherNameIsNotEnough(t *testing.T) {
	a, ca := tlsAPI(t, nil)
	e := newIdP(t)
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(a.URL, "https://"))
	host := filepath.Join(t.TempDir(), "host")
	if err := os.WriteFile(host, []byte("api.example.net"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`SITE {
		http_helper https://{file.%s}:%s/ {
			token_url %s/token
			client_id id
			client_secret literal-secret
			to 127.0.0.1:%s
			transport http {
				tls_trust_pool file %s
				tls_server_name example.com
			}
		}
	}`, host, port, e.URL, port, ca)
	site := runSidecar(t, config)
	res, _ := call(t, "GET", site+"/", nil)
	if res.StatusCode != 502 || len(a.seen()) != 0 {
		t.Errorf("status %d, %d requests at a host that is not base_url's", res.StatusCode, len(a.seen()))
	}
}

// TestNoOtherHTTPInATunnel: in HTTP/2 on a connection of its own, an app could ask for anything.
func TestNoOtherHTTPInATunnel(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, inline(a, e, ""))
	for _, upgrade := range []string{"h2c", "H2C", "websocket, h2c"} {
		res, _ := call(t, "GET", site+"/", nil, "Connection", "Upgrade, HTTP2-Settings", "Upgrade", upgrade, "HTTP2-Settings", "AAMAAABkAAQAAP__")
		r := a.last(t)
		if res.StatusCode != 200 || r.Header.Get("Upgrade") != "" || r.Header.Get("Connection") != "" || r.Header.Get("Http2-Settings") != "" {
			t.Errorf("%s: status %d, the API got %v", upgrade, res.StatusCode, r.Header)
		}
	}
}

// TestResponsesThatAreNoHTTP: errors of net/http quote what a server says, and so may end in logs.
func TestResponsesThatAreNoHTTP(t *testing.T) {
	for _, response := range []string{
		"HTTP/1.1 {token}\r\n\r\n",
		"{token}\r\n\r\n",
		"HTTP/1.1 200 OK\r\n{token}\r\n\r\n",
		"HTTP/1.1 200 OK\r\n {token}: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: {token}\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: {token}\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: {token}\r\n\r\n",
	} {
		api := newWire(t, response)
		e := newIdP(t)
		e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
		site := runSidecar(t, fmt.Sprintf("SITE {\n\thttp_helper http://%s {\n\t\ttoken_url %s/token\n\t\tclient_id id\n\t\tclient_secret literal-secret\n\t}\n\thandle_errors {\n\t\trespond \"{http.error.message}\" {\n\t\t}\n\t}\n}\n", api, e.URL))
		res, body := call(t, "GET", site+"/", nil)
		if strings.Contains(body+fmt.Sprint(res.Header), secretMarker) {
			t.Errorf("%q: the app got %d %q %v", response, res.StatusCode, body, res.Header)
		}
		if body == "" {
			t.Errorf("%q: status %d without an error", response, res.StatusCode)
		}
	}
}

// Tokens that an API echoes are not logged.

const secretMarker = "marked-token-8765432123456789"

// newWire is a server that responds to every request with the same bytes, {token} being the request's.
func newWire(t *testing.T, response string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				_, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
				_, _ = io.WriteString(conn, strings.ReplaceAll(response, "{token}", token))
			}()
		}
	}()
	return listener.Addr().String()
}

// TestRedirectsShowNoKey: servers repeat the query in redirects.
func TestRedirectsShowNoKey(t *testing.T) {
	var location string
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusFound)
	})
	site := runSidecar(t, inline(a, e, "api_query key literal-key"))
	for _, test := range []struct{ location, want string }{
		{a.URL + "/base/next?a=1&key=literal-key&b=%20", "/next?a=1&b=%20"},
		{"next?key=literal-key", "/next"},
		{"next?key=literal-key#f", "/next#f"},
		{"next?other", "/next?other"},
		{"next?", "/next?"},
	} {
		location = test.location
		res, _ := call(t, "GET", site+"/", nil)
		if got := res.Header.Get("Location"); got != test.want {
			t.Errorf("%s: got %s, want %s", test.location, got, test.want)
		}
	}
}

// TestValuesFromOutsideAreSecrets: what somebody keeps out of the config, for example in
// token_request_param, is not told on.
func TestValuesFromOutsideAreSecrets(t *testing.T) {
	t.Setenv("ISEC_ASSERTION", "marked-assertion")
	e, a := newIdP(t), newAPI(t, nil)
	e.respond(func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error": "bad marked-assertion"}`)
	})
	for _, option := range []string{"token_request_param ticket {env.ISEC_ASSERTION}", "token_request_header X-Ticket {env.ISEC_ASSERTION}"} {
		site := runSidecar(t, inline(a, e, option))
		res, _ := call(t, "GET", site+"/", nil)
		if got := res.Header.Get("Proxy-Status"); got == "" || strings.Contains(got, "marked") {
			t.Errorf("%s: Proxy-Status %q", option, got)
		}
	}
}

// TestEchoesReachTheAppOnly: reverse_proxy logs a response's header when the transport
// returns, and keeps it in placeholders.
func TestEchoesReachTheAppOnly(t *testing.T) {
	t.Setenv("ISEC_KEY", "marked-api-key")
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Trailed")
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.Header().Set("X-Key-Echo", r.Header.Get("X-Key"))
		w.Header().Set("X-Other", "other")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Trailed", r.Header.Get("Authorization"))
	})
	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
	site := runSidecar(t, inline(a, e, "api_header X-Key {env.ISEC_KEY}\n\t\theader_down X-Placeholder \"{http.reverse_proxy.header.X-Echo}{http.reverse_proxy.header.X-Key-Echo}|{http.reverse_proxy.header.X-Other}\""))
	res, body := call(t, "GET", site+"/", nil)
	if got := res.Header; got.Get("X-Echo") != "Bearer "+secretMarker || got.Get("X-Key-Echo") != "marked-api-key" || body != "body" {
		t.Errorf("the app got %v %q", got, body)
	}
	if got := res.Header.Get("X-Placeholder"); strings.Contains(got, "marked") || !strings.HasSuffix(got, "|other") {
		t.Errorf("placeholders: %q", got)
	}
	if got := res.Trailer.Get("X-Trailed"); got != "" {
		t.Errorf("trailer %q", got)
	}
}

// TestSecretsOfTheTokenRequestAreMasked: an API that shares data with its authorization server may quote
// what only the token request carried.
func TestSecretsOfTheTokenRequestAreMasked(t *testing.T) {
	t.Setenv("ISEC_TICKET", "marked-ticket")
	t.Setenv("ISEC_TENANT", "marked-tenant")
	for _, quoted := range []string{"literal-secret", "marked-ticket", "marked-tenant"} {
		e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Quoted", quoted) })
		site := runSidecar(t, inline(a, e, `token_request_param tenant {env.ISEC_TENANT}
			token_request_header X-Ticket {env.ISEC_TICKET}
			app_authorization keep
			header_down X-Placeholder "{http.reverse_proxy.header.X-Quoted}"`))
		for _, header := range [][]string{nil, {"Authorization", "Bearer app"}} { // with a token, and with the app's own
			res, _ := call(t, "GET", site+"/", nil, header...)
			if got := res.Header.Get("X-Quoted"); got != quoted {
				t.Errorf("the app got %q, want %q", got, quoted)
			}
			if got := res.Header.Get("X-Placeholder"); strings.Contains(got, quoted) {
				t.Errorf("placeholder: %q", got)
			}
		}
	}
}

// TestReplacedSecretsAreMasked: the secrets of the newest token request count, and not those at start.
func TestReplacedSecretsAreMasked(t *testing.T) {
	ticket := writeFile(t, "ticket", "first-ticket")
	var calls atomic.Int64
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Quoted", "second-ticket")
		if calls.Add(1) == 1 {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	e.respond(func(w http.ResponseWriter, n int64) {
		keystest.WriteFile(t, ticket, "second-ticket")
		grantToken(w, fmt.Sprintf("token-%d", n), 3600)
	})
	site := runSidecar(t, inline(a, e, "token_request_param ticket {file."+ticket+"}\n"+
		`header_down X-Placeholder "{http.reverse_proxy.header.X-Quoted}"`))
	res, _ := call(t, "GET", site+"/", nil)
	if got := res.Header.Get("X-Quoted"); got != "second-ticket" || calls.Load() != 2 {
		t.Errorf("the app got %q after %d calls", got, calls.Load())
	}
	if got := res.Header.Get("X-Placeholder"); strings.Contains(got, "ticket") {
		t.Errorf("placeholder: %q", got)
	}
}

// TestEchoesOfBrokenResponsesAreNotLogged: reverse_proxy panics when a response breaks off, and Caddy writes
// the access log all the same.
func TestEchoesOfBrokenResponsesAreNotLogged(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "part")
	})
	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
	site, logged := runLoggingSidecar(t, inline(a, e, ""))
	res := rawCall(t, site, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	if got := res.Header.Get("X-Echo"); got != "Bearer "+secretMarker {
		t.Errorf("the app got %q", got)
	}
	if got := logged(); strings.Contains(got, secretMarker) {
		t.Errorf("logged: %s", got)
	}
}

// TestEchoesOfReplacedTokensAreNotLogged: an API may say which token it has rejected when it has
// accepted the next, or when reverse_proxy tries again.
func TestEchoesOfReplacedTokensAreNotLogged(t *testing.T) {
	var calls atomic.Int64
	var first atomic.Value
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			first.Store(r.Header.Get("Authorization"))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("X-Was", first.Load().(string))
		w.Header().Set("X-Is", r.Header.Get("Authorization"))
	})
	e.respond(func(w http.ResponseWriter, n int64) { grantToken(w, fmt.Sprintf("%s-%d", secretMarker, n), 3600) })
	site, logged := runLoggingSidecar(t, inline(a, e, "header_down X-Placeholder \"{http.reverse_proxy.header.X-Was}\""))
	res, _ := call(t, "GET", site+"/", nil)
	if got := res.Header; got.Get("X-Was") != "Bearer "+secretMarker+"-1" || got.Get("X-Is") != "Bearer "+secretMarker+"-2" {
		t.Errorf("the app got %v", got)
	}
	if got := res.Header.Get("X-Placeholder"); strings.Contains(got, secretMarker) {
		t.Errorf("placeholder: %q", got)
	}
	if got := logged(); strings.Contains(got, secretMarker) {
		t.Errorf("logged: %s", got)
	}
}

// TestEscapedEchoesAreNotLogged: in a Location or a cookie, servers escape what tokens may hold.
func TestEscapedEchoesAreNotLogged(t *testing.T) {
	const token = secretMarker + "+a/b=="
	once := url.QueryEscape(token)
	twice := url.QueryEscape("https://api.example/?token=" + once)
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "https://login.example/?return="+twice)
		w.Header().Set("X-Token", once)
		w.Header().Set("X-Path", url.PathEscape(token))
		w.Header().Set("X-Other", "100%")
	})
	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, token, 3600) })
	site, logged := runLoggingSidecar(t, inline(a, e, ""))
	res, _ := call(t, "GET", site+"/", nil)
	if got := res.Header; got.Get("X-Token") != once || got.Get("X-Path") == "" || !strings.HasSuffix(got.Get("Location"), twice) {
		t.Errorf("the app got %v", got)
	}
	if got := logged(); strings.Contains(got, secretMarker) || !strings.Contains(got, "100%") {
		t.Errorf("logged: %s", got)
	}
}

// TestEchoesAreFieldsLikeOthers: reverse_proxy changes, removes and leaves out what it likes.
func TestEchoesAreFieldsLikeOthers(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.Header().Add("X-Cookie", "other")
		w.Header().Add("X-Cookie", "mine="+r.Header.Get("Authorization"))
		w.Header().Set("Connection", "X-Hop")
		w.Header().Set("X-Hop", r.Header.Get("Authorization"))
	})
	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
	for options, want := range map[string]string{
		"": "[Bearer TOKEN] [other mine=Bearer TOKEN]",
		"header_down -X-Echo\n\t\theader_down X-Cookie $ \"; Secure\"": "[] [other; Secure mine=Bearer TOKEN; Secure]",
		"handle_response {\n\t\t\trespond mine\n\t\t}":                 "[] []",
	} {
		site, logged := runLoggingSidecar(t, inline(a, e, options))
		res, _ := call(t, "GET", site+"/", nil)
		got := strings.ReplaceAll(fmt.Sprint(res.Header.Values("X-Echo"), " ", res.Header.Values("X-Cookie"), res.Header.Values("X-Hop")), secretMarker, "TOKEN")
		if got != want+" []" {
			t.Errorf("%q: the app got %s, want %s", options, got, want)
		}
		if got := logged(); strings.Contains(got, secretMarker) {
			t.Errorf("%q: logged: %s", options, got)
		}
	}
}

// TestEchoesOfATransportUsedByHandAreNotLogged: nobody can hand them to the app past reverse_proxy.
func TestEchoesOfATransportUsedByHandAreNotLogged(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.Header().Set("X-Other", "other")
	})
	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
	site, logged := runLoggingSidecar(t, fmt.Sprintf("{\n\thttp_helper {\n\t\tconnection c {\n\t\t\tbase_url %[1]s\n\t\t\ttoken_url %[2]s\n\t\t\tclient_id id\n\t\t\tclient_secret literal-secret\n\t\t}\n\t}\n}\n"+
		"SITE {\n\treverse_proxy %[1]s {\n\t\ttransport http_helper {\n\t\t\tconnection c\n\t\t}\n\t}\n}\n", a.URL, e.URL))
	res, _ := call(t, "GET", site+"/", nil)
	if got := res.Header; res.StatusCode != 200 || got.Get("X-Echo") != redact.Mark || got.Get("X-Other") != "other" {
		t.Errorf("the app got %d %v", res.StatusCode, got)
	}
	if got := logged(); strings.Contains(got, secretMarker) {
		t.Errorf("logged: %s", got)
	}
}

// TestEchoesInAReasonAreNotShown: it is a placeholder.
func TestEchoesInAReasonAreNotShown(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		conn, buffer, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(buffer, "HTTP/1.1 200 Fine, %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", r.Header.Get("Authorization"))
		_ = buffer.Flush()
	})
	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
	site := runSidecar(t, inline(a, e, "header_down X-Reason {rp.status_text}"))
	res, _ := call(t, "GET", site+"/", nil)
	if got := res.Header.Get("X-Reason"); got != "200 OK" {
		t.Errorf("reason %q", got)
	}
}

// runLoggingSidecar is runSidecar with an access log, and returns what is in it once there is something.
func runLoggingSidecar(t *testing.T, caddyfile string) (site string, logged func() string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "access.log")
	site = runSidecar(t, strings.Replace(caddyfile, "SITE {", "SITE {\n\tlog {\n\t\toutput file "+file+"\n\t}", 1))
	return site, func() string {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if content, err := os.ReadFile(file); err == nil && strings.Contains(string(content), "handled request") {
				return string(content)
			}
		}
		t.Fatal("nothing was logged")
		return ""
	}
}
