package httphelper

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// rawCall sends a request as it is written and returns the status of the answer and its header.
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
		res := rawCall(t, site, method+" / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
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
		request := "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app\r\nTransfer-Encoding: chunked\r\nTrailer: " + strings.Join(fields, ", ") +
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
			site := withProxyOptions(t, inline(a, e, ""), test.options)
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

// TestAnswersThatAreNoHTTP: errors of net/http quote what a server says, and so may end in logs.
func TestAnswersThatAreNoHTTP(t *testing.T) {
	for _, answer := range []string{
		"HTTP/1.1 {token}\r\n\r\n",
		"{token}\r\n\r\n",
		"HTTP/1.1 200 OK\r\n{token}\r\n\r\n",
		"HTTP/1.1 200 OK\r\n {token}: x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: {token}\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: {token}\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: {token}\r\n\r\n",
	} {
		api := newWire(t, answer)
		e := newIdP(t)
		e.answers(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
		site := runSidecar(t, fmt.Sprintf("SITE {\n\thttp_helper http://%s {\n\t\ttoken_url %s/token\n\t\tclient_id id\n\t\tclient_secret literal-secret\n\t}\n\thandle_errors {\n\t\trespond \"{http.error.message}\" {\n\t\t}\n\t}\n}\n", api, e.URL))
		res, body := call(t, "GET", site+"/", nil)
		if strings.Contains(body+fmt.Sprint(res.Header), secretMarker) {
			t.Errorf("%q: the app got %d %q %v", answer, res.StatusCode, body, res.Header)
		}
		if body == "" {
			t.Errorf("%q: status %d without an error", answer, res.StatusCode)
		}
	}
}

const secretMarker = "marked-token-8765432123456789"

// newWire is a server that answers every request with the same bytes, {token} being the request's.
func newWire(t *testing.T, answer string) (address string) {
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
				_, _ = io.WriteString(conn, strings.ReplaceAll(answer, "{token}", token))
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
	e.answers(func(w http.ResponseWriter, _ int64) {
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

// TestEchoesReachTheAppOnly: reverse_proxy logs what stands in an answer's header when the transport
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
	e.answers(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
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

// TestEchoesOfBrokenAnswersAreNotLogged: reverse_proxy panics when an answer breaks off, and Caddy writes
// the access log all the same.
func TestEchoesOfBrokenAnswersAreNotLogged(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization"))
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "part")
	})
	e.answers(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
	site, logged := runLoggingSidecar(t, inline(a, e, ""))
	res := rawCall(t, site, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
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
	e.answers(func(w http.ResponseWriter, n int64) { grantToken(w, fmt.Sprintf("%s-%d", secretMarker, n), 3600) })
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
	e.answers(func(w http.ResponseWriter, _ int64) { grantToken(w, token, 3600) })
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
	e.answers(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
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
	e.answers(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
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
	e.answers(func(w http.ResponseWriter, _ int64) { grantToken(w, secretMarker, 3600) })
	site := runSidecar(t, inline(a, e, "header_down X-Reason {rp.status_text}"))
	res, _ := call(t, "GET", site+"/", nil)
	if got := res.Header.Get("X-Reason"); got != "200 OK" {
		t.Errorf("reason %q", got)
	}
}

// runLoggingSidecar is runSidecar with an access log, and what stands in it once there is something.
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
