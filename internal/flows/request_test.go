package flows

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows/flowstest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

func provisioned(t *testing.T, f *Request) *Request {
	t.Helper()
	if err := f.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return f
}

// wantError checks what an error says, and that it does not quote a value.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	if err != nil && strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error quotes a value: %v", err)
	}
}

// runFlow runs a flow with parameters, in pairs of key and value.
func runFlow(ctx context.Context, f Flow, params ...string) (string, error) {
	in := Input{Params: make(map[string]string), Client: oauth.NewClient(http.DefaultTransport)}
	for pair := range slices.Chunk(params, 2) {
		in.Params[pair[0]] = pair[1]
	}
	return f.Run(ctx, in)
}

func TestFlowRequestOnTheWire(t *testing.T) {
	form := "application/x-www-form-urlencoded; charset=utf-8"
	for name, test := range map[string]struct {
		flow Request // URL without scheme and host
		want string
	}{
		"the least":          {Request{URL: "/d"}, "GET /d accept=application/json"},
		"method":             {Request{Method: "PUT", URL: "/d"}, "PUT /d accept=application/json"},
		"parameters":         {Request{URL: "/d/{param.odd}?q={param.odd}"}, "GET /d/a%22%2F&b?q=a%22%2F%26b accept=application/json"},
		"header":             {Request{URL: "/d", Headers: []Header{{"X-Key", "k3y {param.odd}"}}}, `GET /d accept=application/json x-key=k3y a"/&b`},
		"accept of its own":  {Request{URL: "/d", Headers: []Header{{"ACCEPT", "text/json"}}}, "GET /d accept=text/json"},
		"body is a POST":     {Request{URL: "/d", Body: `{"i":"{param.odd}"}`}, `POST /d accept=application/json content-type=application/json {"i":"a\"/\u0026b"}`},
		"body with a method": {Request{Method: "PATCH", URL: "/d", Body: "k3y"}, `PATCH /d accept=application/json content-type=application/json k3y`},
		"body, form":         {Request{URL: "/d", Body: "i={param.odd}&k=k3y", Headers: []Header{{"content-type", form}}}, "POST /d accept=application/json content-type=" + form + " i=a%22%2F%26b&k=k3y"},
		"body, text":         {Request{URL: "/d", Body: "a\n{param.odd}", Headers: []Header{{"Content-Type", "text/plain"}}}, "POST /d accept=application/json content-type=text/plain a\na\"/&b"},
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			test.flow.URL = flowstest.NewServer(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = r.Method + " " + r.RequestURI
				for _, field := range []string{"Accept", "Content-Type", "X-Key", "Authorization"} {
					if value := r.Header.Get(field); value != "" {
						got += " " + strings.ToLower(field) + "=" + value
					}
				}
				if len(body) > 0 {
					got += " " + string(body)
				}
				_, _ = io.WriteString(w, `"ok"`)
			}) + test.flow.URL
			value, err := runFlow(t.Context(), provisioned(t, &test.flow), "odd", `a"/&b`)
			if err != nil || value != "ok" {
				t.Fatal(value, err)
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestFlowRequestResult(t *testing.T) {
	for name, test := range map[string]struct{ body, pointer, want string }{
		"string":            {`{"data":{"shard":"s7"}}`, "/data/shard", "s7"},
		"number as written": {`{"n":12345678901234567890.50}`, "/n", "12345678901234567890.50"},
		"true":              {`{"b":true}`, "/b", "true"},
		"false":             {`{"b":false}`, "/b", "false"},
		"zero":              {`[0]`, "/0", "0"},
		"array":             {`{"a":[{"x":1},{"x":2}]}`, "/a/1/x", "2"},
		"escapes":           {`{"a/b":{"c~d":"x"}}`, "/a~1b/c~0d", "x"},
		"empty key":         {`{"":"x"}`, "/", "x"},
		"whole response":    {` "x" `, "", "x"},
		"escapes in JSON":   {`"\u00e4\"\\"`, "", `ä"\`},
	} {
		t.Run(name, func(t *testing.T) {
			f := provisioned(t, &Request{URL: flowstest.NewServer(t, oauthtest.Responds(200, test.body)), Pointer: test.pointer})
			if got, err := runFlow(t.Context(), f); err != nil || got != test.want {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

// wantTokenError checks a failure, and that it keeps what servers say to itself.
func wantTokenError(t *testing.T, err error, class oauth.Class, status int, message string) {
	t.Helper()
	failed, ok := errors.AsType[*oauth.Error](err)
	if !ok {
		t.Fatalf("got %v, want a tokenError", err)
	}
	if failed.Class != class || failed.Status != status || !strings.Contains(failed.Message, message) {
		t.Errorf("got %s %d %q; want %s %d %q", failed.Class, failed.Status, failed.Message, class, status, message)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error says too much: %v", err)
	}
}

func TestFlowRequestFailures(t *testing.T) {
	large := `"` + strings.Repeat("x", 1<<20) + `"`
	for name, test := range map[string]struct {
		respond http.HandlerFunc
		class   oauth.Class
		status  int
		message string
	}{
		"400":               {oauthtest.Responds(400, `{"error":"hunter2"}`), oauth.ClassConfiguration, 502, "refused the request (status 400): check the flow's URL"},
		"401":               {oauthtest.Responds(401, `hunter2`), oauth.ClassConfiguration, 502, "status 401"},
		"404":               {oauthtest.Responds(404, `hunter2`), oauth.ClassConfiguration, 502, "status 404"},
		"408":               {oauthtest.Responds(408, `hunter2`), oauth.ClassOutage, 503, "status 408"},
		"425":               {oauthtest.Responds(425, `hunter2`), oauth.ClassOutage, 503, "status 425"},
		"429":               {oauthtest.Responds(429, `hunter2`), oauth.ClassOutage, 503, "status 429"},
		"400, out of order": {oauthtest.Responds(400, `{"error":"temporarily_unavailable"}`), oauth.ClassOutage, 503, "status 400"},
		"500":               {oauthtest.Responds(500, `hunter2`), oauth.ClassOutage, 503, "its server responded with status 500"},
		"503":               {oauthtest.Responds(503, `hunter2`), oauth.ClassOutage, 503, "status 503"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/hunter2", http.StatusTemporaryRedirect)
		}, oauth.ClassConfiguration, 502, "redirect"},
		"no JSON":           {oauthtest.Responds(200, "<html>hunter2"), oauth.ClassConfiguration, 502, "the response is not JSON"},
		"more than JSON":    {oauthtest.Responds(200, `{"shard":"x"} hunter2`), oauth.ClassConfiguration, 502, "the response is not JSON"},
		"no content":        {oauthtest.Responds(204, ""), oauth.ClassConfiguration, 502, "the response is not JSON"},
		"nothing there":     {oauthtest.Responds(200, `{"hunter2":1}`), oauth.ClassConfiguration, 502, `nothing at pointer "/shard"`},
		"null":              {oauthtest.Responds(200, `{"shard":null}`), oauth.ClassConfiguration, 502, "neither a string nor a number nor a boolean"},
		"an object":         {oauthtest.Responds(200, `{"shard":{"hunter2":1}}`), oauth.ClassConfiguration, 502, "neither a string"},
		"an array":          {oauthtest.Responds(200, `{"shard":["hunter2"]}`), oauth.ClassConfiguration, 502, "neither a string"},
		"empty":             {oauthtest.Responds(200, `{"shard":""}`), oauth.ClassConfiguration, 502, "the result is empty"},
		"control character": {oauthtest.Responds(200, `{"shard":"hunter2\u0000"}`), oauth.ClassConfiguration, 502, "control character"},
		"too large":         {oauthtest.Responds(200, large), oauth.ClassConfiguration, 502, "larger than 1 MiB"},
		"too large, packed": {zipped(large), oauth.ClassConfiguration, 502, "larger than 1 MiB"},
		"broken off":        {brokenOff, oauth.ClassOutage, 503, "its server cannot be reached: the connection was closed"},
	} {
		t.Run(name, func(t *testing.T) {
			f := provisioned(t, &Request{URL: flowstest.NewServer(t, test.respond) + "?key=hunter2", Pointer: "/shard"})
			_, err := runFlow(t.Context(), f)
			wantTokenError(t, err, test.class, test.status, test.message)
		})
	}
}

func zipped(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, body)
		_ = z.Close()
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(b.Bytes())
	}
}

func brokenOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	_, _ = io.WriteString(w, `{"shard":"hunt`)
}

func TestFlowRequestNobodyThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	_, err = runFlow(t.Context(), provisioned(t, &Request{URL: "http://" + address + "/?key=hunter2"}))
	wantTokenError(t, err, oauth.ClassOutage, 503, "cannot be reached: connection refused")
	if failed, _ := errors.AsType[*oauth.Error](err); failed != nil && !failed.Transient {
		t.Error("a quick retry makes sense")
	}
}

func TestFlowRequestRetryAfter(t *testing.T) {
	for status, header := range map[int]string{503: "7", 429: "7"} {
		f := provisioned(t, &Request{URL: flowstest.NewServer(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", header)
			w.WriteHeader(status)
		})})
		_, err := runFlow(t.Context(), f)
		failed, _ := errors.AsType[*oauth.Error](err)
		if failed == nil || failed.RetryAfter != 7*time.Second || failed.Transient {
			t.Errorf("%d: got %+v", status, failed)
		}
	}
}

func TestFlowRequestTimeout(t *testing.T) {
	address, _ := flowstest.NewHangingServer(t)
	_, err := runFlow(t.Context(), provisioned(t, &Request{URL: address, Timeout: caddy.Duration(50 * time.Millisecond)}))
	wantTokenError(t, err, oauth.ClassOutage, 504, "no response within its timeout of 50ms")
	if f := provisioned(t, &Request{URL: address}); f.Timeout != caddy.Duration(10*time.Second) {
		t.Errorf("the default is %s", time.Duration(f.Timeout))
	}
}

func TestFlowRequestDeadlineOfTheCaller(t *testing.T) {
	address, _ := flowstest.NewHangingServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := runFlow(ctx, provisioned(t, &Request{URL: address}))
	failed, ok := errors.AsType[*oauth.Error](err)
	if !ok || failed.Class != oauth.ClassOutage || failed.Status != http.StatusGatewayTimeout || failed.Message != "no response within token_timeout" {
		t.Error(err)
	}
}

func TestFlowRequestCallerLeaves(t *testing.T) {
	address, arrived := flowstest.NewHangingServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := runFlow(ctx, provisioned(t, &Request{URL: address})); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestFlowRequestValuesKeepTheirPlace(t *testing.T) {
	called := false
	server := flowstest.NewServer(t, func(http.ResponseWriter, *http.Request) { called = true })
	host := strings.TrimPrefix(server, "http://")
	for name, test := range map[string]struct {
		flow  Request
		value string
		want  string
	}{
		"path":              {Request{URL: server + "/{param.p}"}, "../hunter2", "url: {param.p}: the value has a dot segment"},
		"host":              {Request{URL: "http://{param.p}" + host}, "hunter2@", "url: {param.p}: the value is not a host name"},
		"query":             {Request{URL: server + "/?{param.p}"}, "hunter2\n", "the parameter p contains a control character"},
		"header":            {Request{URL: server, Headers: []Header{{"X-A", "{param.p}"}}}, "hunter2\r\nX-B: 1", "header X-A: the parameter p contains a control character"},
		"body":              {Request{URL: server, Body: `"{param.p}"`}, "hunter2\x00", "body: the parameter p contains a control character"},
		"no such parameter": {Request{URL: server, Body: `"{param.q}"`}, "hunter2", "body: there is no parameter q"},
		"in the clear":      {Request{URL: "http://{param.p}.example/"}, "hunter2", "the URL is http and its host is not loopback: use https, or permit it with allow_insecure token_url"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := runFlow(t.Context(), provisioned(t, &test.flow), "p", test.value)
			wantTokenError(t, err, oauth.ClassConfiguration, 502, test.want)
		})
	}
	if called {
		t.Error("a refused request was sent")
	}
}

// A parameter in a JSON body stays inside of its string, whatever it is.
func FuzzFlowBody(f *testing.F) {
	for _, seed := range []string{"", `"`, `\`, `","b":"`, "\u2028", "<&>", "\xff", `\u0022`} {
		f.Add(seed)
	}
	asJSON := &Request{URL: "https://h", Body: `{"a":"{param.p}","b":"c"}`}
	asForm := &Request{URL: "https://h", Body: "a={param.p}&b=c", Headers: []Header{{"Content-Type", contentTypeForm}}}
	for _, flow := range []*Request{asJSON, asForm} {
		if err := flow.Provision(caddy.Context{}); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, value string) {
		in := Input{Params: map[string]string{"p": value}}
		parameters := &placeholder.Values{Lookup: in.lookup}
		body, err := asJSON.expandBody(parameters)
		if err != nil {
			return
		}
		var document map[string]string
		err = json.Unmarshal([]byte(body), &document)
		if err != nil || len(document) != 2 || document["b"] != "c" || utf8.ValidString(value) && document["a"] != value {
			t.Fatalf("%q became %s: %v", value, body, err)
		}
		if body, err = asForm.expandBody(parameters); err != nil {
			t.Fatal(err)
		}
		if fields, err := url.ParseQuery(body); err != nil || len(fields) != 2 || fields.Get("a") != value || fields.Get("b") != "c" {
			t.Fatalf("%q became %s: %v", value, body, err)
		}
	})
}

func TestFlowRequestInsecure(t *testing.T) {
	for _, test := range []struct {
		url           string
		allowed, want bool
	}{
		{"https://d.example/{param.p}", false, true},
		{"http://localhost/{param.p}", false, true},
		{"http://{param.p}/x", false, true}, // may be loopback
		{"http://d.example/x", false, false},
		{"http://d.example/{param.p}", false, false},
		{"http://{param.p}.example/", false, false},
		{"http://d.example/{param.p}", true, true},
	} {
		if err := provisioned(t, &Request{URL: test.url}).Check(test.allowed); (err == nil) != test.want {
			t.Errorf("%s, %t: %v", test.url, test.allowed, err)
		}
	}
	f := provisioned(t, &Request{URL: "http://d.example/"})
	in := Input{AllowInsecure: true, Client: oauth.NewClient(&http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("dialed") },
	})}
	_, err := f.Run(t.Context(), in)
	wantTokenError(t, err, oauth.ClassOutage, 503, "cannot be reached")
}

func TestFlowRequestProvision(t *testing.T) {
	for name, test := range map[string]struct {
		flow Request
		want string
	}{
		"no URL":           {Request{}, "url: not an http or https URL"},
		"bad URL":          {Request{URL: "https://u:hunter2@h"}, "url: the URL must not contain a user name"},
		"fragment":         {Request{URL: "https://h/#hunter2"}, "url: the URL must not have a fragment"},
		"method":           {Request{URL: "https://h", Method: "get"}, "the method must be one in capital letters"},
		"TRACE":            {Request{URL: "https://h", Method: "TRACE"}, "other than CONNECT and TRACE"},
		"pointer":          {Request{URL: "https://h", Pointer: "a"}, "pointer: a JSON pointer begins with a slash"},
		"pointer, escape":  {Request{URL: "https://h", Pointer: "/~2"}, "pointer: in a JSON pointer"},
		"timeout":          {Request{URL: "https://h", Timeout: -1}, "timeout must not be negative"},
		"header name":      {Request{URL: "https://h", Headers: []Header{{"hunter2 x", ""}}}, "header: a name must consist"},
		"header Host":      {Request{URL: "https://h", Headers: []Header{{"host", "x"}}}, "header host cannot be set"},
		"hop-by-hop":       {Request{URL: "https://h", Headers: []Header{{"Connection", "x"}}}, "header Connection cannot be set"},
		"header twice":     {Request{URL: "https://h", Headers: []Header{{"X-A", "1"}, {"x-a", "2"}}}, "header x-a is given twice"},
		"header value":     {Request{URL: "https://h", Headers: []Header{{"X-A", "hunter2\n"}}}, "header X-A: the value contains a control character"},
		"placeholder":      {Request{URL: "https://h/{config.x}"}, "url: unknown placeholder"},
		"body placeholder": {Request{URL: "https://h", Body: "{http.x}"}, "body: values of a request"},
		"variable":         {Request{URL: "https://h", Headers: []Header{{"X-A", "{env.FLOW_EMPTY}"}}}, "header X-A: {env.*} and {file.*} are not for a connector"},
		"file":             {Request{URL: "https://h", Body: "{file./no/such}"}, "body: {env.*} and {file.*} are not for a connector"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.flow.Provision(caddy.Context{})
			wantError(t, err, test.want)
		})
	}
}

func TestFlowRequestParameters(t *testing.T) {
	f := provisioned(t, &Request{URL: "https://{param.c}.h/{param.a}", Body: "{param.b}{param.a}", Headers: []Header{{"X-A", "{param.d}"}}})
	if got := f.Parameters(); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Errorf("got %q", got)
	}
}

func TestFlowRequestCaddyfile(t *testing.T) {
	for name, test := range map[string]struct{ input, want string }{
		"URL":    {`request https://h/{param.p}`, `{"url":"https://h/{param.p}"}`},
		"method": {`request POST https://h`, `{"method":"POST","url":"https://h"}`},
		"everything": {
			"request https://h {\n header X-A {env.A}\n header X-B b\n body `{\"a\":1}`\n pointer /a\n timeout 3s\n}",
			`{"url":"https://h","headers":[{"name":"X-A","value":"{env.A}"},{"name":"X-B","value":"b"}],"body":"{\"a\":1}","pointer":"/a","timeout":3000000000}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			var f Request
			if err := f.UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.input)); err != nil {
				t.Fatal(err)
			}
			if got, err := json.Marshal(f); err != nil || string(got) != test.want {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
	for name, test := range map[string]struct{ input, want string }{
		"nothing":        {`request`, "takes a method, which may be left out, and a URL"},
		"too much":       {`request GET https://h hunter2`, "takes a method"},
		"header":         {"request https://h {\n header hunter2\n}", "header takes a name and a value"},
		"header, more":   {"request https://h {\n header X-A hunter2 b\n}", "header takes a name and a value"},
		"body":           {"request https://h {\n body hunter2 x\n}", "body takes exactly one argument"},
		"body twice":     {"request https://h {\n body hunter2\n body x\n}", "body is given twice"},
		"pointer":        {"request https://h {\n pointer\n}", "pointer takes exactly one argument"},
		"pointer twice":  {"request https://h {\n pointer /a\n pointer /b\n}", "pointer is given twice"},
		"timeout":        {"request https://h {\n timeout\n}", "timeout takes exactly one argument"},
		"timeout twice":  {"request https://h {\n timeout 1s\n timeout 1s\n}", "timeout is given twice"},
		"timeout, what":  {"request https://h {\n timeout soon\n}", "timeout must be a duration above zero"},
		"timeout, none":  {"request https://h {\n timeout 0s\n}", "timeout must be a duration above zero"},
		"unknown":        {"request https://h {\n hunter2\n}", "unknown option of a request flow"},
		"option, nested": {"request https://h {\n body x {\n  hunter2\n }\n}", "body"},
	} {
		t.Run(name, func(t *testing.T) {
			err := new(Request).UnmarshalCaddyfile(caddyfile.NewTestDispenser(test.input))
			wantError(t, err, test.want)
		})
	}
}
