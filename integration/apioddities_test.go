package integration

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// respondRaw responds with bytes, and closes the connection.
func respondRaw(response string) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, response)
	})
}

// TestResponsesThatCannotBePassedOn are errors of the sidecar's, and not an empty 200.
func TestResponsesThatCannotBePassedOn(t *testing.T) {
	t.Parallel()
	upgrade := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	for name, c := range map[string]struct {
		response string
		header   []string
		details  string
	}{
		"101 not requested":        {"101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket", nil, "switched to a protocol"},
		"101 without Upgrade":      {"101 Switching Protocols", upgrade, "switched to a protocol"},
		"101 to another protocol":  {"101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: spdy", upgrade, "switched to a protocol"},
		"101 without Connection":   {"101 Switching Protocols\r\nUpgrade: websocket", upgrade, "switched to a protocol"},
		"101 to the offered HTTP2": {"101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c", []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"}, "switched to a protocol"},
		"status 000":               {"000 nothing\r\nContent-Length: 0", nil, "status"},
		"status 099":               {"099 less\r\nContent-Length: 0", nil, "status"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startInline(t, options{})
			w.api.RespondWith(respondRaw("HTTP/1.1 " + c.response + "\r\n\r\n"))
			response := w.converse(t, lines("GET /x HTTP/1.1", append(c.header, "Connection: close")...))
			equal(t, "status", statusOf(response), http.StatusBadGateway)
			if !strings.Contains(response, "http_helper; error=destination_unavailable") || !strings.Contains(response, c.details) {
				t.Errorf("response %q", response)
			}
		})
	}
}

func TestAResponseWithoutContentTypeStaysSo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		directive string
		site      string
		response  http.Handler
		want      string // values of Content-Type
	}{
		"none":                          {"", "", respondRaw("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), "[]"},
		"chunked":                       {"", "", respondRaw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n<html>\r\n0\r\n\r\n"), "[]"},
		"one":                           {"", "", harness.Status(http.StatusOK), "[text/plain; charset=utf-8]"},
		"a default of the site":         {"", "header ?Content-Type text/x", respondRaw("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), "[text/x]"},
		"another handler's":             {"handle_response {\nrespond hello\n}", "", respondRaw("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), "[text/plain; charset=utf-8]"},
		"the API's, by another handler": {"handle_response {\ncopy_response\n}", "", respondRaw("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"), "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			config := w.inline(options{directive: c.directive})
			config.Site += "\n" + c.site
			w.Run(t, config)
			w.api.RespondWith(c.response)
			response := w.Get(t, "/")
			wantStatus(t, response, http.StatusOK)
			equal(t, "Content-Type", fmt.Sprint(response.Header.Values("Content-Type")), c.want)
			for field := range response.Header {
				if strings.HasPrefix(field, "Http-Helper") {
					t.Errorf("the app sees %s", field)
				}
			}
		})
	}
}

func TestBufferedRequestsHaveALength(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{directive: "request_buffers unlimited"})
	seen := make(chan string, 1)
	w.api.RespondWith(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen <- fmt.Sprint(r.ContentLength, r.TransferEncoding, string(body))
	}))
	equal(t, "status", statusOf(w.converse(t, chunked([]string{"Connection: close"}, nil))), http.StatusOK)
	equal(t, "the API got", <-seen, "3 []abc")
}

func TestTrailersThatMustNotBeOnesAreDropped(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	dropped := []string{
		"Host", "Content-Length", "Transfer-Encoding", "Authorization", "Proxy-Authorization", "Cookie", "Connection", "Keep-Alive",
		"Upgrade", "TE", "Trailer", "Content-Type", "Content-Encoding", "Content-Range", "Range", "Expect", "Cache-Control", "Max-Forwards",
		"If-Match", "If-None-Match", "WWW-Authenticate", "X-Forwarded-For", "content_length",
	}
	trailer := []string{"X-Up: up"}
	for _, field := range dropped {
		trailer = append(trailer, field+": evil")
	}
	equal(t, "status", statusOf(w.converse(t, chunked([]string{"Connection: close", "Trailer: X-Up, Host, Authorization"}, trailer))), http.StatusOK)
	eventually(t, "the API has the trailer", func() bool { return w.api.Last(t).Trailer.Get("X-Up") == "up" })
	equal(t, "trailers", fmt.Sprint(w.api.Last(t).Trailer), "map[X-Up:[up]]")
}

func TestTEReachesTheAPI(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	for _, c := range []struct{ header, want []string }{
		{[]string{"Connection: TE, close", "TE: trailers"}, []string{"trailers"}},
		{[]string{"Connection: close", "TE: trailers, deflate;q=0.5"}, []string{"trailers"}},
		{[]string{"Connection: TE, close", "TE: deflate"}, nil},
		{[]string{"Connection: close"}, nil},
	} {
		equal(t, "status", statusOf(w.converse(t, lines("GET / HTTP/1.1", c.header...))), http.StatusOK)
		equal(t, fmt.Sprint(c.header), fmt.Sprint(w.api.Last(t).Header["Te"]), fmt.Sprint(c.want))
	}
}

func TestDestinationOfCopyAndMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	config := w.inline(options{base: "/v2"})
	config.Site = "handle_path /q/* {\n" + config.Site + "\n}"
	w.Run(t, config)
	for _, c := range []struct{ method, destination, want string }{
		{"MOVE", "http://$HERE/q/moved", "$API/v2/moved"},
		{"COPY", "https://$HERE/q/a%2Fb%20c/?x=%41", "$API/v2/a%2Fb%20c/?x=%41"},
		{"COPY", "/q/moved", "/v2/moved"},
		{"COPY", "http://$HERE/other/moved", "http://$HERE/other/moved"},
		{"COPY", "http://$HERE/qq/moved", "http://$HERE/qq/moved"},
		{"COPY", "http://elsewhere.example/q/moved", "http://elsewhere.example/q/moved"},
		{"COPY", "http://$HERE/q/../x", "http://$HERE/q/../x"},
		{"COPY", "//$HERE/q/x", "//$HERE/q/x"},
		{"PUT", "http://$HERE/q/moved", "http://$HERE/q/moved"},
	} {
		expand := strings.NewReplacer("$HERE", w.Addr, "$API", w.api.URL).Replace
		wantStatus(t, w.Send(t, c.method, "/q/file", nil, "Destination", expand(c.destination)), http.StatusOK)
		equal(t, c.method+" "+c.destination, w.api.Last(t).Header.Get("Destination"), expand(c.want))
	}
}

// TestOne100Continue: some clients do not expect two.
func TestOne100Continue(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			respondRaw("HTTP/1.1 417 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ServeHTTP(rw, r)
			return
		}
		if r.URL.Path == "/late" {
			time.Sleep(2500 * time.Millisecond) // longer than the sidecar waits
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(rw, len(body))
	}))
	for path, want := range map[string]string{"/": "[100 200]", "/late": "[100 200]", "/refused": "[417]"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", w.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(harness.Timeout))
			fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", path)
			var statuses []int
			reader := bufio.NewReader(conn)
			for len(statuses) == 0 || statuses[len(statuses)-1] == http.StatusContinue {
				res, err := http.ReadResponse(reader, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if statuses = append(statuses, res.StatusCode); len(statuses) == 1 && res.StatusCode == http.StatusContinue {
					_, _ = io.WriteString(conn, "hello")
				}
			}
			equal(t, "statuses", fmt.Sprint(statuses), want)
		})
	}
}

func TestRetryMatchNeverLeavesTheAppWithoutAResponse(t *testing.T) {
	t.Parallel()
	retry := func(condition string) string {
		return "lb_retries 2\nlb_retry_match {\nexpression `" + condition + "`\n}"
	}
	for name, c := range map[string]struct {
		condition string
		api       http.Handler
		tokens    http.Handler
		status    int
		errorType string
		details   string
		attempts  int
	}{
		"429":                {"{rp.status_code} == 429", harness.Status(http.StatusTooManyRequests), nil, 429, "destination_unavailable", "responded with 429", 3},
		"200":                {"{rp.status_code} == 200", harness.Status(http.StatusOK), nil, 502, "destination_unavailable", "responded with 200", 3},
		"our own error":      {"{rp.status_code} == 503", harness.Status(http.StatusOK), harness.Refuse(http.StatusServiceUnavailable, "temporarily_unavailable"), 503, "proxy_internal_error", "token endpoint", 0},
		"no longer matching": {"{rp.status_code} == 429", nil, nil, 200, "", "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startInline(t, options{directive: retry(c.condition)})
			w.api.RespondWith(c.api)
			if c.api == nil {
				w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if w.api.Count() == 1 {
						rw.WriteHeader(http.StatusTooManyRequests)
					}
				}))
			}
			if c.tokens != nil {
				w.tokens.RespondWith(c.tokens)
			}
			response := w.Get(t, "/")
			equal(t, "attempts", w.api.Count(), c.attempts)
			if c.errorType == "" {
				wantStatus(t, response, c.status)
				return
			}
			wantSidecarError(t, response, c.status, c.errorType)
			if details := response.Header.Get("Proxy-Status"); !strings.Contains(details, c.details) {
				t.Errorf("the app is told %s", details)
			}
		})
	}
}

// TestAPIThatCannotBeReached says why, in the words of the ping.
func TestAPIThatCannotBeReached(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	config := ca.ServerConfig()
	config.ClientAuth = tls.RequireAnyClientCert
	strict := listen(t, "tcp", "127.0.0.1:0")
	serveConns(t, tls.NewListener(strict, config), func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	refuses := listen(t, "tcp", "127.0.0.1:0")
	serveConns(t, refuses, func(conn net.Conn) {
		if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil && req.Method == http.MethodConnect {
			_, _ = io.WriteString(conn, "HTTP/1.1 403 no\r\nContent-Length: 0\r\n\r\n")
		}
	})
	down := "127.0.0.1:" + harness.Port(t)
	for name, c := range map[string]struct{ api, directive, connection, details string }{
		"no such host":        {"https://api.does-not-exist.invalid", "", "", "the API cannot be reached: no such host"},
		"refused port":        {"http://" + down, "", "", "the API cannot be reached: connection refused"},
		"wants a client":      {"https://" + strict.Addr().String(), "transport http {\ntls_trust_pool file " + ca.File + "\n}", "client_certificate $DIR/c.pem $DIR/c.key", "tls_client_auth"},
		"proxy refuses":       {"https://api.test", "transport http {\nnetwork_proxy url http://joe:" + proxyPassword + "@" + refuses.Addr().String() + "\n}", "", "the forward proxy refused with status 403 (" + refuses.Addr().String() + ")"},
		"proxy is down":       {"https://api.test", "transport http {\nnetwork_proxy url http://joe:" + proxyPassword + "@" + down + "\n}", "", "the forward proxy cannot be reached: connection refused (" + down + ")"},
		"SOCKS proxy is down": {"https://api.test", "transport http {\nnetwork_proxy url socks5://joe:" + proxyPassword + "@" + down + "\n}", "", "the forward proxy cannot be reached: connection refused (" + down + ")"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			ca.Client(t, "sidecar", w.Dir+"/c.pem", w.Dir+"/c.key")
			w.api.URL = c.api
			w.Run(t, w.inline(options{service: "ping /", directive: c.directive, connection: c.connection + "\nname billing"}))
			response := w.Get(t, "/")
			details := response.Header.Get("Proxy-Status")
			wantSidecarError(t, response, http.StatusBadGateway, "destination_unavailable")
			_, ping, err := w.Admin(http.MethodPost, "/http_helper/connections/billing/ping", "", "")
			if err != nil {
				t.Fatal(err)
			}
			for what, text := range map[string]string{"app": details, "ping": ping} {
				if !strings.Contains(text, c.details) {
					t.Errorf("%s is told %s, want %s", what, text, c.details)
				}
				if strings.Contains(text+w.Logs(), proxyPassword) {
					t.Errorf("%s is told the proxy's password", what)
				}
			}
		})
	}
}
