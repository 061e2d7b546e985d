package integration

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// hostileRequest is a request as an attacker writes it. `evil` marks what must not arrive; $ELSEWHERE is
// an address that nothing must be sent to.
type hostileRequest struct {
	name    string
	request string
	status  int      // of the first response
	arrives []string // the targets of the requests to the API, below /v2; none: nothing may arrive
}

// asking is a request for a path, or for any other text in the request line.
func asking(target string) string { return lines("GET " + target + " HTTP/1.1") }

// saying is a harmless request with header lines besides.
func saying(header ...string) string { return lines("GET /x HTTP/1.1", header...) }

func lines(requestLine string, header ...string) string {
	header = append([]string{requestLine, "Host: localhost", "Connection: close"}, header...)
	return strings.Join(header, "\r\n") + "\r\n\r\n"
}

// chunked is a request with a body in one chunk, and trailers.
func chunked(header, trailer []string) string {
	header = append([]string{"Transfer-Encoding: chunked"}, header...)
	return lines("POST /x HTTP/1.1", header...) + "3\r\nabc\r\n0\r\n" + strings.Join(append(trailer, ""), "\r\n") + "\r\n"
}

var hostileRequests = slices.Concat(hostilePaths(), hostileLines, hostileHeaders, smuggling)

func hostilePaths() []hostileRequest {
	var all []hostileRequest
	for _, path := range []string{
		"/..", "/../", "/../admin", "/a/../../admin", "/./x", "/a/.", "/a/..", "//../x", "/..//x",
		"/%2e%2e/admin", "/%2E%2E/admin", "/.%2e/admin", "/%2e./admin", "/%2e", "/a/%2e%2e%2fadmin",
		"/..%2fadmin", "/a%2f..%2f..%2fadmin", "/%2e%2e%2f%2e%2e%2fadmin",
		"/%252e%252e/admin", "/..%252fadmin", "/%252e%252e%252fadmin", "/%25%32%65%25%32%65/admin", "/%2%65%2%65/",
		`/..\admin`, `/\..\admin`, "/..%5cadmin", "/%5c..%5cadmin", "/a%5cb", "/..%255cadmin", `/\\elsewhere/x`,
		"/%c0%ae%c0%ae/admin", "/..%c0%afadmin", "/..%c1%9cadmin", "/%e0%80%ae%e0%80%ae/admin", "/%f0%80%80%ae%f0%80%80%ae/admin",
		"/%f8%80%80%80%ae%f8%80%80%80%ae/x", "/%25c0%25ae%25c0%25ae/admin",
		"/..;/admin", "/..;a=b/admin", "/%2e%2e;/admin", "/..%3b/admin", "/..%253b/admin", "/a/..;x/b",
		"/..%3fadmin", "/..%23admin", "/a%00", "/%2500", "/..%00/admin",
		"/..%20/admin", "/..%09/admin", "/%20../admin", "/%c0%2e%c0%2e/admin", "/%ef%bc%8e%ef%bc%8e/admin", "/..%ef%bc%8fadmin",
	} {
		all = append(all, hostileRequest{name: "path " + path, request: asking(path), status: 400})
	}
	for path, target := range map[string]string{
		"//evil.example/x":          "//evil.example/x",
		"///evil.example/x":         "///evil.example/x",
		"/@evil.example/":           "/@evil.example/",
		"/http://$ELSEWHERE/":       "/http://$ELSEWHERE/",
		"/x?/../../admin":           "/x?/../../admin",
		"/x?url=//$ELSEWHERE/..":    "/x?url=//$ELSEWHERE/..",
		"/%25252e%25252e/admin":     "/%25252e%25252e/admin", // decoded three times: no server does that
		"/%u002e%u002e/admin":       "",                      // no URL
		"/%":                        "",
		"/a%2Fb":                    "/a%2Fb",
		"/x;jsessionid=1?a=1&b=%2e": "/x;jsessionid=1?a=1&b=%2e",
	} {
		r := hostileRequest{name: "path " + path, request: asking(path), status: 200, arrives: []string{target}}
		if target == "" {
			r.status, r.arrives = 400, nil
		}
		all = append(all, r)
	}
	return all
}

var hostileLines = []hostileRequest{
	{"absolute form", asking("http://$ELSEWHERE/x"), 200, []string{"/x"}},
	{"absolute form with user", asking("http://evil:evil@$ELSEWHERE/x"), 200, []string{"/x"}},
	{"absolute form with https", asking("https://$ELSEWHERE/x"), 200, []string{"/x"}},
	{"absolute form with dots", asking("http://$ELSEWHERE/../admin"), 400, nil},
	{"absolute form without path", asking("http://$ELSEWHERE"), 200, []string{"/"}},
	{"absolute form with a query only", asking("http://$ELSEWHERE?a=b"), 200, []string{"/?a=b"}},
	{"scheme without slashes", asking("http:$ELSEWHERE"), 400, nil},
	{"scheme of files", asking("file:///etc/passwd"), 200, []string{"/etc/passwd"}},
	{"authority form", asking("$ELSEWHERE"), 400, nil},
	{"no slash", asking("admin"), 400, nil},
	{"asterisk", asking("*"), 400, nil},
	{"CONNECT", lines("CONNECT $ELSEWHERE HTTP/1.1"), 405, nil},
	{"CONNECT with a path", lines("CONNECT /x HTTP/1.1"), 405, nil},
	{"TRACE", lines("TRACE /x HTTP/1.1"), 405, nil},
	{"trace", lines("trace /x HTTP/1.1"), 405, nil},
	{"blank in the path", asking("/a b"), 400, nil},
	{"tab in the path", asking("/a\tb"), 400, nil},
	{"newline in the path", asking("/a\nevil: x"), 400, nil},
	{"carriage return in the path", asking("/a\rb"), 400, nil},
	{"fragment", asking("/x#/../admin"), 400, nil},
	{"HTTP/0.9", "GET /x-with-a-long-name-of-a-file\r\n\r\n", 400, nil},
	{"HTTP/2.0 in text", lines("GET /x HTTP/2.0"), 505, nil},
	{"no method", lines(" /x HTTP/1.1"), 400, nil},
}

var hostileHeaders = []hostileRequest{
	{"Authorization", saying("Authorization: Bearer evil"), 200, []string{"/x"}},
	{"Authorization twice", saying("Authorization: Bearer evil", "authorization: Basic evil"), 200, []string{"/x"}},
	{"oddly cased", saying("aUTHORIZATION: Bearer evil", "pROXY-aUTHORIZATION: evil", "dpop: evil"), 200, []string{"/x"}},
	{"empty Authorization", saying("Authorization:"), 200, []string{"/x"}},
	{"folded Authorization", saying("X-Other: x", " Authorization: folded"), 200, []string{"/x"}},
	{"blank before the colon", saying("Authorization : Bearer evil"), 400, nil},
	{"name with a blank", saying("Authorization Bearer: evil"), 400, nil},
	{"newline in a value", saying("X-Other: a\nAuthorization: Bearer evil"), 200, []string{"/x"}},
	{"carriage return in a value", saying("X-Other: a\rAuthorization: Bearer evil"), 400, nil},
	{"NUL in a value", saying("X-Other: a\x00b"), 400, nil},
	{"hop-by-hop Authorization", saying("Connection: Authorization"), 200, []string{"/x"}},
	{"hop-by-hop key", saying("Connection: X-Api-Key, Host, Authorization, User-Agent"), 200, []string{"/x"}},
	{"hop-by-hop in any case", saying("Connection: aUTHORIZATION", "connection: x-api-key"), 200, []string{"/x"}},
	{"Proxy-Connection", saying("Proxy-Connection: Authorization, X-Api-Key"), 200, []string{"/x"}},
	{"Proxy-Authorization", saying("Proxy-Authorization: Basic evil"), 200, []string{"/x"}},
	{"DPoP", saying("DPoP: evil", "DPoP: evil"), 200, []string{"/x"}},
	{"key of the connector", saying("X-Api-Key: evil", "x-api-key: evil"), 200, []string{"/x"}},
	{"underscores", saying("X_Api_Key: evil", "Proxy_Authorization: evil", "X_Forwarded_For: evil"), 200, []string{"/x"}},
	{"client certificate", saying("Client-Cert: evil", "Client-Cert-Chain: evil", "X-Forwarded-Client-Cert: evil"), 200, []string{"/x"}},
	{"forwarding", saying("X-Forwarded-For: 127.0.0.1, evil", "X-Forwarded-Host: evil", "X-Forwarded-Prefix: /evil", "Forwarded: for=evil", "Via: evil"), 200, []string{"/x"}},
	{"key in the query", asking("/x?key=evil&k%65y=evil&a=1&a;key=evil"), 200, []string{"/x?a=1"}},
	{"Host", "GET /x HTTP/1.1\r\nHost: $ELSEWHERE\r\nConnection: close\r\n\r\n", 200, []string{"/x"}},
	{"Host twice", saying("Host: $ELSEWHERE"), 400, nil},
	{"Host with a path", "GET /x HTTP/1.1\r\nHost: $ELSEWHERE/../admin\r\nConnection: close\r\n\r\n", 400, nil},
	{"Host with a user", "GET /x HTTP/1.1\r\nHost: evil@$ELSEWHERE\r\nConnection: close\r\n\r\n", 400, nil},
	{"no Host", "GET /x HTTP/1.1\r\nConnection: close\r\n\r\n", 400, nil},
	{"HTTP/1.0", "GET /x HTTP/1.0\r\nX-Other: a\r\n\r\n", 200, []string{"/x"}},
	{"rewriting headers", saying("X-Original-URL: /evil", "X-Rewrite-URL: /evil"), 200, []string{"/x"}},
	{"h2c", saying("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: evil"), 200, []string{"/x"}},
	{"page of another site", saying("Sec-Fetch-Site: cross-site", "Origin: https://evil.example"), 403, nil},
	{"page that says no more", saying("Origin: https://evil.example"), 403, nil},
	{"page without an origin", saying("Origin: null"), 403, nil},
	{"websocket of another site", saying("Origin: https://evil.example", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 403, nil},
	{"caller by header", saying("X-Real-IP: evil"), 200, []string{"/x"}},
	{"trailers", chunked([]string{"Trailer: Authorization, X-Api-Key, DPoP"},
		[]string{"Authorization: Bearer evil", "X-Api-Key: evil", "DPoP: evil", "X_Api_Key: evil", "Via: evil", "Client-Cert: evil"}), 200, []string{"/x"}},
	{"trailers that frame", chunked(nil, []string{"Content-Length: 9", "Transfer-Encoding: evil", "Host: evil"}), 200, []string{"/x"}},
	{"very long header", saying("X-Other: " + strings.Repeat("a", 2<<20)), 431, nil},
}

// inner is a request inside of another one's body.
const inner = "GET /../evil HTTP/1.1\r\nHost: $ELSEWHERE\r\n\r\n"

var smuggling = []hostileRequest{
	{"both lengths", lines("POST /x HTTP/1.1", "Content-Length: 4", "Transfer-Encoding: chunked") + "0\r\n\r\n" + inner, 200, []string{"/x"}},
	{"two lengths", lines("POST /x HTTP/1.1", "Content-Length: 4", "Content-Length: 100") + inner, 400, nil},
	{"signed length", lines("POST /x HTTP/1.1", "Content-Length: +4") + "0123" + inner, 400, nil},
	{"list of lengths", lines("POST /x HTTP/1.1", "Content-Length: 4, 4") + "0123" + inner, 400, nil},
	{"negative length", lines("POST /x HTTP/1.1", "Content-Length: -1") + inner, 400, nil},
	{"two encodings", lines("POST /x HTTP/1.1", "Transfer-Encoding: chunked", "Transfer-Encoding: identity") + "0\r\n\r\n" + inner, 501, nil},
	{"unknown encoding", lines("POST /x HTTP/1.1", "Transfer-Encoding: xchunked") + "0\r\n\r\n" + inner, 501, nil},
	{"encoding after a blank", lines("POST /x HTTP/1.1", "Transfer-Encoding : chunked") + "0\r\n\r\n" + inner, 400, nil},
	{"body of a GET", lines("GET /x HTTP/1.1", fmt.Sprintf("Content-Length: %d", len(inner))) + inner, 200, []string{"/x"}},
	{"chunk with an extension", lines("POST /x HTTP/1.1", "Transfer-Encoding: chunked") + "3;a=b\r\nabc\r\n0\r\n\r\n" + inner, 200, []string{"/x"}},
	{"pipelined", "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\nGET /../evil HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200, []string{"/x"}},
	// The last, because what arrives of it may do so after the response.
	{brokenChunk, lines("POST /x HTTP/1.1", "Transfer-Encoding: chunked") + "zz\r\n" + inner, 400, nil},
}

const brokenChunk = "broken chunk"

func TestHostileRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	elsewhere := harness.NewAPI(t, nil, nil)
	w.Run(t, w.inline(options{
		base: "/v2", service: "api_header X-Api-Key our-key\napi_query key our-key",
		global: "servers {\nexpected_underscore_headers X_Api_Key Proxy_Authorization X_Forwarded_For\n}",
	}))
	w.wantOK(t)
	t.Logf("%d requests", len(hostileRequests))
	for _, h := range hostileRequests {
		before := len(w.api.Requests())
		request := strings.ReplaceAll(h.request, "$ELSEWHERE", elsewhere.Addr)
		responses := w.converse(t, request)
		if status := statusOf(responses); status != h.status {
			t.Errorf("%s: status %d, want %d", h.name, status, h.status)
		}
		arrived := w.api.Requests()[before:]
		if h.name == brokenChunk {
			continue // its head streams, and may have arrived
		}
		if len(arrived) != len(h.arrives) {
			t.Errorf("%s: %d requests at the API, want %d", h.name, len(arrived), len(h.arrives))
			continue
		}
		for i, r := range arrived {
			w.checkArrival(t, h, i, r, elsewhere.Addr)
		}
	}
	if n := elsewhere.Count(); n != 0 {
		t.Errorf("%d requests elsewhere: %s", n, elsewhere.Last(t).RequestURI)
	}
	w.wantOK(t)
}

// checkArrival checks what of a hostile request has arrived at the API.
func (w *world) checkArrival(t *testing.T, h hostileRequest, i int, r harness.APIRequest, elsewhere string) {
	t.Helper()
	target := "/v2" + strings.ReplaceAll(h.arrives[i], "$ELSEWHERE", elsewhere)
	separator := "?"
	if strings.Contains(target, "?") {
		separator = "&"
	}
	equal(t, h.name+": target", r.RequestURI, target+separator+"key=our-key")
	equal(t, h.name+": Host", r.Host, w.api.Addr)
	equal(t, h.name+": Authorization", strings.Join(r.Header["Authorization"], "|"), "Bearer token-1")
	equal(t, h.name+": X-Api-Key", strings.Join(r.Header["X-Api-Key"], "|"), "our-key")
	for _, header := range []http.Header{r.Header, r.Trailer} {
		for field, values := range header {
			if strings.Contains(strings.Join(values, " "), "evil") && field != "X-Original-Url" && field != "X-Rewrite-Url" && field != "X-Real-Ip" {
				t.Errorf("%s: %s arrived: %q", h.name, field, values)
			}
		}
	}
}

// converse sends bytes and returns all that comes back, until the sidecar closes the connection.
func (w *world) converse(t *testing.T, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", w.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(harness.Timeout))
	_, _ = io.WriteString(conn, request) // a response may come before all is written
	responses, err := io.ReadAll(conn)
	if err != nil && len(responses) == 0 {
		t.Errorf("%.60q: %v", request, err)
	}
	return string(responses)
}

func statusOf(responses string) (status int) {
	_, _ = fmt.Sscanf(responses, "HTTP/1.%d %d", new(int), &status)
	return status
}
