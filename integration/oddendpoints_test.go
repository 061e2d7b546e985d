package integration

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// oddEndpoint is a token endpoint, described by the bytes of its response, and what comes of it.
type oddEndpoint struct {
	name, wire string
	status     int    // that the app gets
	details    string // in Proxy-Status
	requests   int    // at the token endpoint: three when it looks like a transient fault
}

const plainToken = `{"access_token":"token","token_type":"Bearer","expires_in":3600}`

// whole is a complete response.
func whole(status int, body string, header ...string) string {
	return fmt.Sprintf("HTTP/1.1 %d Odd\r\n%s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, strings.Join(append(header, "X-Odd: yes"), "\r\n"), len(body), body)
}

func packed(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func oddEndpoints(t *testing.T) []oddEndpoint {
	t.Helper()
	const (
		fine, mistake, outage, late = http.StatusOK, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout

		zipped = "Content-Encoding: gzip"
		noJSON = "is not JSON"
		hint   = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
	)
	zip := packed(t, plainToken)
	return []oddEndpoint{
		{"compressed", whole(200, zip, zipped), fine, "", 1},
		{"compressed by its other name", whole(200, zip, "Content-Encoding: x-gzip"), fine, "", 1},
		{"half of what was compressed", whole(200, zip[:len(zip)/2], zipped), mistake, "badly compressed", 1},
		{"compressed without an end", whole(200, zip[:len(zip)-4], zipped), mistake, "badly compressed", 1},
		{"nothing compressed", whole(200, "", zipped), mistake, "badly compressed", 1},
		{"compressed twice", whole(200, packed(t, zip), "Content-Encoding: gzip, gzip"), mistake, noJSON, 1},
		{"compressed refusal", whole(400, packed(t, `{"error":"invalid_scope"}`), zipped), mistake, "invalid_scope", 1},
		{"badly compressed refusal", whole(400, zip[:20], zipped), mistake, "status 400", 1},
		{"badly compressed outage", whole(500, zip[:20], zipped), outage, "status 500", 3},

		{"hints before", hint + hint + whole(200, plainToken), fine, "", 1},
		{"very many hints", strings.Repeat(hint, 50_000) + whole(200, plainToken), outage, "cannot be reached", 3},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: odd\r\nConnection: Upgrade\r\n\r\n", mistake, "status 101", 1},
		{"very large header", whole(200, plainToken, "X-Large: "+strings.Repeat("x", 2<<20)), outage, "cannot be reached", 3},
		{"old protocol", "HTTP/1.0 200 OK\r\n\r\n" + plainToken, fine, "", 1},
		{"no length", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + plainToken, fine, "", 1},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n" + plainToken, outage, "cannot be reached", 3},
		{"less than announced", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n" + plainToken, outage, "closed before", 3},
		{"chunks without an end", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"acc\r\n", late, "token_timeout", 1},

		{"created", whole(201, plainToken), fine, "", 1},
		{"no content", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", mistake, noJSON, 1},
		{"not modified", "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n", mistake, "redirect", 1},
		{"redirect to nowhere", whole(302, plainToken), mistake, "redirect", 1},
		{"not found", whole(404, "nothing here"), mistake, "(status 404): check token_url", 1},
		{"unknown status", whole(999, plainToken), outage, "status 999", 3},
		{"refusal as an outage", whole(500, `{"error":"invalid_client"}`), outage, "invalid_client", 3},

		{"byte order mark", whole(200, "\ufeff"+plainToken), fine, "", 1},
		{"another encoding", whole(200, "\xff\xfe{\x00}\x00", "Content-Type: application/json; charset=utf-16"), mistake, noJSON, 1},
		{"more after the JSON", whole(200, plainToken+plainToken), mistake, noJSON, 1},
		{"very deep", whole(200, strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)), mistake, noJSON, 1},
		{"a form", whole(200, "access_token=token&token_type=bearer&expires_in=3600&scope=a+b", "Content-Type: application/x-www-form-urlencoded; charset=utf-8"), fine, "", 1},
		{"a refusal as a form", whole(400, "error=invalid_client&error_description=no", "Content-Type: application/x-www-form-urlencoded"), mistake, "invalid_client", 1},
		{"a form that says it is text", whole(200, "access_token=token", "Content-Type: text/plain"), mistake, noJSON, 1},
		{"null", whole(200, "null"), mistake, noJSON, 1},
		{"an array", whole(200, `["token"]`), mistake, "no token at /access_token", 1},
		{"a token twice", whole(200, `{"access_token":"another","access_token":"token"}`), fine, "", 1},
		{"an escaped token", whole(200, `{"access_token":"\u0074oken"}`), fine, "", 1},
		{"half a character", whole(200, `{"access_token":"\ud800token"}`), mistake, "is not allowed in a header", 1},
		{"an error beside the token", whole(200, `{"error":"odd","access_token":"token"}`), mistake, "odd", 1},
		{"an empty error", whole(200, `{"error":"","access_token":"token"}`), fine, "", 1},
		{"no error", whole(200, `{"error":null,"access_token":"token"}`), fine, "", 1},
		{"a nested error", whole(200, `{"error":{"code":"odd"}}`), mistake, "no token at /access_token", 1},
		{"odd members", whole(200, `{"access_token":"token","token_type":null,"scope":{"a":1},"expires_in":[1]}`), fine, "", 1},
		{"another type", whole(200, `{"access_token":"token","token_type":1}`), mistake, "token_type", 1},
	}
}

// ServeHTTP writes the bytes and closes the connection, unless the sidecar is to time out.
func (o oddEndpoint) ServeHTTP(rw http.ResponseWriter, _ *http.Request) {
	conn, buffer, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = buffer.WriteString(o.wire)
	_ = buffer.Flush()
	if o.status == http.StatusGatewayTimeout {
		_, _ = conn.Read(make([]byte, 1))
	}
}

// TestOddTokenEndpoints has token endpoints that respond in every way in which HTTP, JSON and OAuth can
// be stretched. There is a token, or an error of the right kind and the right number of requests.
func TestOddTokenEndpoints(t *testing.T) {
	t.Parallel()
	endpoints := oddEndpoints(t)
	connections := slices.Repeat([]string{"client_id app\nclient_secret {env.SECRET}\ntoken_timeout 5s"}, len(endpoints))
	w := startConnections(t, connections, func(number int) http.Handler { return endpoints[number] })
	w.api.Accept(func(token string) bool { return token == "token" })
	for i, odd := range endpoints {
		t.Run(odd.name, func(t *testing.T) {
			response := w.Get(t, fmt.Sprintf("/%d/x", i))
			wantStatus(t, response, odd.status)
			if details := response.Header.Get("Proxy-Status"); !strings.Contains(details, odd.details) {
				t.Errorf("Proxy-Status %q, want it to say %q", details, odd.details)
			}
			requests := 0
			for _, r := range w.tokens.Requests() {
				if connectionOf(r.RequestURI) == fmt.Sprint(i) {
					requests++
				}
			}
			equal(t, "token requests", requests, odd.requests)
		})
	}
}
