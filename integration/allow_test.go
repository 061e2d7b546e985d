package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// What the app may use the connection `limited` for: what both sides permit.
const (
	allowOfConnector = `allow GET HEAD /contacts /contacts/*
allow POST /contacts /pkg.Contacts/Get /pkg.Admin/*
allow DELETE /contacts/*
allow /projects/group%2Fproject/* /reports* /socket /100%25 /%C3%A4pfel /a%2Ab /trailing/ /x;v=1 /file%20name //double /a%2525 /a+b`
	allowOfConnection = `allow GET HEAD POST PUT
allow PATCH /projects/*`
)

// Responses that a request may lead to.
const (
	passed        = http.StatusOK
	upgraded      = http.StatusSwitchingProtocols
	byConnector   = http.StatusForbidden // with a reason that tells the sides apart
	byConnection  = -1
	byField       = -2
	byGRPC        = -3 // gRPC's PERMISSION_DENIED
	refusedByPath = http.StatusBadRequest
	refusedMethod = http.StatusMethodNotAllowed
)

// reasons are what the refusals say.
var reasons = map[int]string{
	byConnector: "is not in the allow of its connector", byConnection: "is not in its allow",
	byField: "which can make some servers treat it as a different request", byGRPC: "is not in the allow of its connector",
}

// limitedRequest is a request of the app, and what becomes of it on each way.
type limitedRequest struct {
	request string
	want    int
}

// limited is a request without a body; header lines may follow its first line.
func limited(want int, requestLine string, header ...string) limitedRequest {
	return limitedRequest{lines(requestLine+" HTTP/1.1", append([]string{"X-Connection: limited"}, header...)...), want}
}

var limitedRequests = slices.Concat(limitedMethods, limitedPaths, limitedEncodings, limitedUpgrades, limitedFields)

var limitedMethods = []limitedRequest{
	limited(passed, "GET /contacts"),
	limited(passed, "HEAD /contacts"),
	limited(passed, "POST /contacts"),
	limited(passed, "PUT /reports"),
	limited(passed, "PATCH /projects/group%2Fproject/issues"),
	limited(byConnector, "PUT /contacts"),
	limited(byConnector, "get /contacts"),
	limited(byConnector, "GETS /contacts"),
	limited(byConnector, "OPTIONS /contacts"),
	limited(byConnector, "POST /contacts/1"),
	limited(byConnector, "HEAD /pkg.Contacts/Get"),
	limited(byConnection, "DELETE /contacts/1"),
	limited(byConnection, "PATCH /reports"),
	limited(byConnection, "DELETE /reports/2026"),
	limited(refusedMethod, "TRACE /contacts"),
	limited(refusedMethod, "CONNECT /contacts"),
}

var limitedPaths = []limitedRequest{
	limited(passed, "GET /contacts?page=2&path=/admin"),
	limited(passed, "GET /contacts/"),
	limited(passed, "GET /contacts/1"),
	limited(passed, "GET /contacts/1/notes;draft//2/"),
	limited(passed, "GET /reports"),
	limited(passed, "GET /reports.csv"),
	limited(passed, "GET /reports/2026"),
	limited(passed, "GET /trailing/"),
	limited(passed, "GET /x;v=1"),
	limited(passed, "GET //double"),
	limited(passed, "GET /a+b"),
	limited(byConnector, "GET /"),
	limited(byConnector, "GET /contact"),
	limited(byConnector, "GET /contactss"),
	limited(byConnector, "GET /Contacts"),
	limited(byConnector, "GET //contacts"),
	limited(byConnector, "GET /contacts;x"),
	limited(byConnector, "GET /v2/contacts"),
	limited(byConnector, "GET /other?next=/contacts&secret=topsecret"),
	limited(byConnector, "GET /trailing"),
	limited(byConnector, "GET /trailing//"),
	limited(byConnector, "GET /x;v=2"),
	limited(byConnector, "GET /double"),
	limited(refusedByPath, "GET /contacts/../admin"),
	limited(refusedByPath, "GET /contacts/%2e%2e/admin"),
	limited(refusedByPath, "GET /contacts/..%2fadmin"),
	limited(refusedByPath, "GET /contacts/..;/admin"),
	limited(refusedByPath, "GET /contacts/%5cadmin"),
}

var limitedEncodings = []limitedRequest{
	limited(passed, "GET /%63ontacts"),
	limited(passed, "GET /contacts/%31"),
	limited(passed, "GET /contacts/a%2Fb"),
	limited(passed, "GET /contacts/a%252Fb"),
	limited(passed, "GET /projects/group%2Fproject/issues"),
	limited(passed, "GET /projects/group%2fproject/issues"),
	limited(passed, "GET /100%25"),
	limited(passed, "GET /%C3%A4pfel"),
	limited(passed, "GET /%c3%a4pf%65l"),
	limited(passed, "GET /ä"+"pfel"),
	limited(passed, "GET /a*b"),
	limited(passed, "GET /a%2ab"),
	limited(passed, "GET /file%20name"),
	limited(passed, "GET /a%2525"),
	limited(passed, "GET /x%3Bv=1"),
	limited(byConnector, "GET /contacts%2F1"),
	limited(byConnector, "GET /contacts%3Fx"),
	limited(byConnector, "GET /contacts%20"),
	limited(byConnector, "GET /%2Fcontacts"),
	limited(byConnector, "GET /%2563ontacts"),
	limited(byConnector, "GET /projects/group/project/issues"),
	limited(byConnector, "GET /projects/group%252Fproject/issues"),
	limited(byConnector, "GET /projects/group%2Fproject"),
	limited(byConnector, "GET /100"),
	limited(byConnector, "GET /100%2525"),
	limited(byConnector, "GET /%E4pfel"),
	limited(byConnector, "GET /file+name"),
	limited(byConnector, "GET /a%25"),
}

var limitedUpgrades = []limitedRequest{
	limited(upgraded, "GET /socket", handshake...),
	limited(upgraded, "GET /socket?room=1", handshake...),
	limited(byConnector, "GET /socket/other", handshake...),
	limited(byConnector, "GET /", handshake...),
	limited(byField, "GET /socket", append([]string{"X-Original-URL: /admin"}, handshake...)...),
	limited(passed, "POST /pkg.Contacts/Get", grpcHeader),
	limited(passed, "POST /pkg.Admin/Anything", grpcHeader),
	limited(byGRPC, "POST /pkg.Contacts/Delete", grpcHeader),
	limited(byGRPC, "POST /pkg.contacts/Get", grpcHeader),
	limited(byGRPC, "GET /pkg.Contacts/Get", grpcHeader),
	{lines("POST /contacts HTTP/1.1", "X-Connection: limited", "Content-Length: 3") + "abc", passed},
	{lines("POST /admin HTTP/1.1", "X-Connection: limited", "Content-Length: 3") + "abc", byConnector},
	{lines("POST /admin HTTP/1.1", "X-Connection: limited", "Content-Length: 1000000"), byConnector}, // whose body does not come
	{lines("GET http://localhost/contacts HTTP/1.1", "X-Connection: limited"), passed},
	{lines("GET http://localhost/admin HTTP/1.1", "X-Connection: limited"), byConnector},
	{lines("GET http://localhost HTTP/1.1", "X-Connection: limited"), byConnector},
}

var limitedFields = []limitedRequest{
	limited(byField, "POST /contacts", "X-HTTP-Method-Override: DELETE"),
	limited(byField, "GET /contacts", "X_HTTP_Method: DELETE"), // which Caddy must be told to expect, and drops the other then
	limited(byField, "GET /contacts", "x-method-override:"),
	limited(byField, "GET /contacts", "X-Original-URL: /contacts"),
	limited(byField, "GET /contacts", "X-REWRITE-URL: /admin"),
	limited(byField, "GET /contacts", "Authorization: Bearer mine", "X-Original-URL: /admin"),
	limited(byConnector, "GET /admin", "X-Original-URL: /contacts"),
	limited(byConnector, "GET /admin", "Authorization: Bearer mine"), // that keep keeps
	limited(passed, "GET /contacts", "Authorization: Bearer mine"),
	limited(passed, "GET /contacts", "X-Forwarded-Prefix: /admin", "X-Original: /admin", "X-HTTP: DELETE"),
	{chunkedContact("Trailer: X-HTTP-Method-Override", "X-HTTP-Method-Override: DELETE"), byField},
	{chunkedContact("X-Some: thing", "X-HTTP-Method-Override: DELETE"), passed}, // the trailer is dropped
}

var handshake = []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}

const grpcHeader = "Content-Type: application/grpc"

func chunkedContact(header, trailer string) string {
	return strings.Replace(chunked([]string{"X-Connection: limited", header}, []string{trailer}), "/x", "/contacts", 1)
}

// limitedWays are the ways by which a request may come to the API, as sites.
var limitedWays = []struct {
	name, site string
	prefix     string // of the path
}{
	{"the handler alone", "http_helper limited {\n$OPTIONS\n}", ""},
	{"with reverse_proxy", "http_helper limited {\n$OPTIONS\nuse_reverse_proxy\n}", ""},
	{"with options of reverse_proxy", "http_helper limited {\n$OPTIONS\nheader_up X-Up yes\nlb_retries 2\n}", ""},
	{"by placeholder", "http_helper {header.X-Connection} {\n$OPTIONS\nconnections limited free\n}", ""},
	{"by placeholder with reverse_proxy", "http_helper {header.X-Connection} {\n$OPTIONS\nconnections free limited\nuse_reverse_proxy\n}", ""},
	{"by hand", "reverse_proxy $API {\ntransport http_helper {\nconnection limited\n$OPTIONS\n}\n}", ""},
	{"below a prefix", "handle_path /own/* {\nhttp_helper limited {\n$OPTIONS\n}\n}", "/own"},
}

// limitedWorld is a world with a site for each way, and their addresses.
func limitedWorld(t *testing.T) (*world, []string) {
	t.Helper()
	w := newWorld(t, nil)
	w.api.Accept(nil)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			_, _ = io.Copy(rw, r.Body)
			return
		}
		if conn, buffered, err := http.NewResponseController(rw).Hijack(); err == nil {
			_, _ = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			_ = buffered.Flush()
			_ = conn.Close()
		}
	}))
	const connection = "connection %s service {\nclient_id app\nclient_secret {env.SECRET}\n%s\n}\n"
	var more strings.Builder
	var addresses []string
	for _, way := range limitedWays {
		addresses = append(addresses, "127.0.0.1:"+harness.Port(t))
		_, port, _ := net.SplitHostPort(addresses[len(addresses)-1])
		fmt.Fprintf(&more, ":%s {\nbind 127.0.0.1\n%s\n}\n", port, strings.ReplaceAll(way.site, "$OPTIONS", "app_authorization keep"))
	}
	w.Run(t, w.expand(options{more: more.String()}, harness.Config{
		Options: "metrics\nservers {\nexpected_underscore_headers X_HTTP_Method\n}\nhttp_helper {\nconnector service {\nbase_url $API/v2\ntoken_url $TOKENS\nping /me\nallow GET /me\n" + allowOfConnector + "\n}\n" +
			fmt.Sprintf(connection, "limited", allowOfConnection) + fmt.Sprintf(connection, "free", "") + "}",
		Site: "http_helper limited",
	}))
	return w, addresses
}

// TestAllow has each request take each way. Those that are refused come first: they must not lead to a token.
func TestAllow(t *testing.T) {
	t.Parallel()
	w, addresses := limitedWorld(t)
	requests := slices.Clone(limitedRequests)
	slices.SortStableFunc(requests, func(a, b limitedRequest) int { return boolToInt(a.arrives()) - boolToInt(b.arrives()) })
	refused, ways := 0, map[string]bool{}
	for _, r := range requests {
		if !r.arrives() {
			equal(t, "token requests", w.tokens.Count(), 0)
		}
		for i, way := range limitedWays {
			t.Run(way.name+": "+strings.ReplaceAll(r.request[:strings.Index(r.request, " HTTP")], "/", "|"), func(t *testing.T) {
				ways[way.name] = true
				w.checkLimited(t, addresses[i], way.prefix, r)
				refused += boolToInt(!r.arrives())
			})
		}
	}
	t.Logf("%d requests on %d ways, %d of them refused", len(requests), len(ways), refused)
	_, metrics, err := w.Admin(http.MethodGet, "/metrics", "", "")
	if want := fmt.Sprintf("caddy_http_helper_requests_total{connection=\"limited\",outcome=\"refused\"} %d\n", refused-unknownRefusals(requests)); err != nil || !strings.Contains(metrics, want) {
		t.Errorf("without %q, %v:\n%s", want, err, metrics)
	}
	w.checkRefusalLog(t, requests)
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// unknownRefusals is the number of refusals whose connection is not known: by placeholder, the path and the method
// are looked at before the connection is chosen.
func unknownRefusals(requests []limitedRequest) (number int) {
	for _, r := range requests {
		if r.want == refusedByPath || r.want == refusedMethod {
			number += 2
		}
	}
	return number
}

func (r limitedRequest) arrives() bool { return r.want == passed || r.want == upgraded }

// below returns the request with a prefix before its path, and its target without.
func (r limitedRequest) below(prefix string) (request, target string) {
	method, rest, _ := strings.Cut(r.request, " ")
	target, rest, _ = strings.Cut(rest, " HTTP/1.1")
	if prefix == "" || strings.HasPrefix(target, "http:") {
		return r.request, target
	}
	return method + " " + prefix + target + " HTTP/1.1" + rest, target
}

// checkLimited makes a request on one way.
func (w *world) checkLimited(t *testing.T, address, prefix string, r limitedRequest) {
	request, target := r.below(prefix)
	switch {
	case prefix == "":
	case !strings.HasPrefix(target, "/"):
		t.Skip("the prefix cannot be put before it")
	case strings.Contains(target, "//") || strings.Contains(target, "..") || strings.Contains(target, "%2e%2e"):
		t.Skip("handle_path makes another path of it, which counts")
	}
	before := w.api.Count()
	responses := talk(t, address, request)
	arrived := w.api.Requests()[before:]
	if r.arrives() {
		equal(t, "status", statusOf(responses), r.want)
		if len(arrived) != 1 {
			t.Fatalf("%d requests at the API: %s", len(arrived), responses)
		}
		if want := "/v2" + strings.NewReplacer("http://localhost", "", "ä", "%C3%A4").Replace(target); arrived[0].RequestURI != want {
			t.Errorf("the API got %s, want %s", arrived[0].RequestURI, want)
		}
		if trailer := w.api.Last(t).Trailer; trailer.Get("X-Http-Method-Override") != "" {
			t.Errorf("the API got the trailer %v", trailer)
		}
		return
	}
	equal(t, "requests at the API", len(arrived), 0)
	head, _, _ := strings.Cut(responses, "\r\n\r\n")
	switch r.want {
	case refusedByPath, refusedMethod:
		equal(t, "status", statusOf(responses), r.want)
	case byGRPC:
		equal(t, "status", statusOf(responses), http.StatusOK)
		if !strings.Contains(head, "\r\nGrpc-Status: 7") || !strings.Contains(head, reasons[byGRPC]) {
			t.Errorf("got %s", head)
		}
	default:
		equal(t, "status", statusOf(responses), http.StatusForbidden)
		if !strings.Contains(head, "Proxy-Status: http_helper; error=http_request_denied; details=\"connection limited: ") || !strings.Contains(head, reasons[r.want]) {
			t.Errorf("got %s", head)
		}
	}
	if strings.Contains(head, "topsecret") {
		t.Errorf("the query is quoted: %s", head)
	}
}

// checkRefusalLog checks that each method and path is logged once, without a query, so that it can be put into
// allow.
func (w *world) checkRefusalLog(t *testing.T, requests []limitedRequest) {
	t.Helper()
	logged := warnings(w.Logs(), "allow does not permit it")
	seen := map[[3]string]bool{}
	for _, line := range logged {
		var entry struct{ Connection, Method, Path, Reason string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		key := [3]string{entry.Method, entry.Path, entry.Reason}
		if entry.Connection != "limited" || entry.Reason == "" || seen[key] || strings.Contains(line, "topsecret") {
			t.Errorf("logged: %s", line)
		}
		seen[key] = true
	}
	for _, want := range [][3]string{
		{"PUT", "/contacts", reasons[byConnector]},
		{"DELETE", "/contacts/1", reasons[byConnection]},
		{"GET", "/other", reasons[byConnector]},
		{"GET", "/projects/group%252Fproject/issues", reasons[byConnector]},
		{"GET", "/%E4pfel", reasons[byConnector]},
	} {
		if !seen[want] {
			t.Errorf("%v is not logged", want)
		}
	}
	refused := 0
	for _, r := range requests {
		if !r.arrives() && r.want != refusedByPath && r.want != refusedMethod {
			refused++
		}
	}
	if len(logged) == 0 || len(logged) > refused {
		t.Errorf("%d refusals are logged, there were %d requests", len(logged), refused)
	}
}

// talk sends bytes to an address and returns all that comes back.
func talk(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(harness.Timeout))
	_, _ = io.WriteString(conn, request)
	responses, err := io.ReadAll(conn)
	if err != nil && len(responses) == 0 {
		t.Errorf("%.60q: %v", request, err)
	}
	return string(responses)
}

// TestAllowWithGRPC has a gRPC client call what is permitted, and what is not.
func TestAllowWithGRPC(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]string{"alone": "", "with reverse_proxy": "use_reverse_proxy"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, api, client := startGRPCWorld(t, nil, "allow POST /grpc.testing.TestService/UnaryCall", option)
			ctx, cancel := context.WithTimeout(context.Background(), harness.Timeout)
			defer cancel()
			stream, err := client.FullDuplexCall(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			equal(t, "code", status.Code(err), codes.PermissionDenied)
			equal(t, "token requests", w.tokens.Count(), 0)
			if _, err := client.UnaryCall(ctx, &testpb.SimpleRequest{}); err != nil {
				t.Error(err)
			}
			equal(t, "calls", len(api.seen), 1)
		})
	}
}

// TestAllowIsShown by the admin API and on the command line.
func TestAllowIsShown(t *testing.T) {
	t.Parallel()
	w, _ := limitedWorld(t)
	for path, want := range map[string]string{
		"connections/limited": `"allow":[{"method":["GET","HEAD","POST","PUT"]},{"method":["PATCH"],"path":["/projects/*"]}],"connector_allow":[{"method":["GET"],"path":["/me"]},{"method":["GET","HEAD"],"path":["/contacts","/contacts/*"]}`,
		"connections/free":    `"connector_allow":[{"method":["GET"],"path":["/me"]},`,
		"connectors/service":  `"allow":[{"method":["GET"],"path":["/me"]},`,
	} {
		if _, body, err := w.Admin(http.MethodGet, "/http_helper/"+path, "", ""); err != nil || !strings.Contains(body, want) {
			t.Errorf("%s: %v\n%s", path, err, body)
		}
	}
}

// TestThePingNeedsNoPermissionOfTheConnection, and neither do health checks of the API.
func TestThePingNeedsNoPermissionOfTheConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.Run(t, w.named(options{service: "ping /me\nallow GET /me /contacts", connection: "allow /contacts", directive: "health_uri /health\nhealth_interval 100ms"}))
	status, body, err := w.Admin(http.MethodPost, "/http_helper/connections/billing/ping", "", "")
	if err != nil || status != http.StatusOK || !strings.Contains(body, `"working":true`) {
		t.Errorf("%d %s %v", status, body, err)
	}
	eventually(t, "a health check", func() bool {
		return slices.ContainsFunc(w.api.Requests(), func(r harness.APIRequest) bool { return r.RequestURI == "/health" })
	})
	wantSidecarError(t, w.Get(t, "/me"), http.StatusForbidden, "http_request_denied")
	wantSidecarError(t, w.Get(t, "/health"), http.StatusForbidden, "http_request_denied")
	wantStatus(t, w.Get(t, "/contacts"), http.StatusOK)
}
