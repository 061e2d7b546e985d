package httphelper

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// wantPing pings the connection c and checks what that says.
func wantPing(t *testing.T, working bool, status int, words ...string) pingView {
	t.Helper()
	var view pingView
	body := adminJSON(t, "POST", "/http_helper/connections/c/ping", &view)
	got := 0
	if view.Response.StatusCode != nil {
		got = *view.Response.StatusCode
	}
	if view.Working != working || got != status || (view.Response.Body == nil) != (status == 0) {
		t.Errorf("ping: %s, want %v with status %d", body, working, status)
	}
	for _, word := range words {
		if !strings.Contains(view.Response.Message, word) {
			t.Errorf("the ping's message is %q, without %q", view.Response.Message, word)
		}
	}
	return view
}

func TestPingGoesTheWayOfRequests(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})
	runSidecar(t, inline(a, e, `name c
		ping POST /me%2Fx?a=b 418 200
		access_token_header X-Token token
		api_header X-Key key
		api_query tenant t`))
	view := wantPing(t, true, 418, "418")
	if *view.Response.Body != "short and stout" {
		t.Errorf("body %q", *view.Response.Body)
	}
	r := a.last(t)
	if r.Method != "POST" || r.RequestURI != "/base/me%2Fx?a=b&tenant=t" || r.Header.Get("X-Token") != "token t1" || r.Header.Get("X-Key") != "key" || r.Header.Get("Authorization") != "" {
		t.Errorf("asked %s %s with %v", r.Method, r.RequestURI, r.Header)
	}
}

func TestPingTrustsWhatRequestsTrust(t *testing.T) {
	e := newIdP(t)
	a, ca := tlsAPI(t, nil)
	options := "name c\n\t\tping /me\n"
	runSidecar(t, inline(a, e, options))
	wantPing(t, false, 0, "cannot be reached", "certificate")
	runSidecar(t, inline(a, e, options+"\t\ttransport http {\n\t\t\ttls_trust_pool file "+ca+"\n\t\t}"))
	wantPing(t, true, 200)
}

// A ping dials the address that requests dial, wherever in the routes that stands, and only with TLS.
func TestPingDialsUpstreams(t *testing.T) {
	e := newIdP(t)
	a, ca := tlsAPI(t, nil)
	address := strings.TrimPrefix(a.URL, "https://")
	site := func(options string) string {
		return fmt.Sprintf("SITE {\n\thandle_path /a/* {\n\t\thttp_helper https://example.com/v1 {\n\t\t\tname c\n\t\t\ttoken_url %s\n\t\t\tclient_id id\n\t\t\tclient_secret s\n\t\t\tping /me\n%s\n\t\t}\n\t}\n}\n", e.URL, options)
	}
	runSidecar(t, site("to "+address+" 127.0.0.1:1\n\ttransport http {\n\ttls_trust_pool file "+ca+"\n\t}"))
	wantPing(t, true, 200)
	if r := a.last(t); r.Host != "example.com" || r.URL.Path != "/v1/me" || r.TLS.ServerName != "example.com" {
		t.Errorf("asked %s%s, SNI %s", r.Host, r.URL.Path, r.TLS.ServerName)
	}

	plain := newAPI(t, nil)
	runSidecar(t, inline(plain, e, "name c\n\t\tping /me\n\t\tto "+address))
	wantPing(t, false, 0, "in the clear only the address of base_url")
}

func TestPingTellsFailuresApart(t *testing.T) {
	e := newIdP(t)
	answer := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
		}
	}
	for _, test := range []struct {
		answer http.HandlerFunc
		status int
		words  []string
	}{
		{answer(401), 401, []string{"rejects the token"}},
		{answer(401, "WWW-Authenticate", `Bearer error="insufficient_scope", scope="orders.read t1"`), 401, []string{"refuses", "scope orders.read"}},
		{answer(403), 403, []string{"refuses", "lack a permission"}},
		{answer(403, "WWW-Authenticate", `Bearer error="insufficient_scope", scope="a b"`), 403, []string{"it wants the scope a b; the connection does not request a b"}},
		{answer(403, "WWW-Authenticate", `Bearer error="insufficient_scope", scope="literal-secret \"x"`), 403, []string{"lack a permission"}},
		{answer(302, "Location", "https://evil.example"), 302, []string{"redirects", "not followed"}},
		{answer(500), 500, []string{"500", "instead of", "200 to 299"}},
	} {
		a := newAPI(t, test.answer)
		runSidecar(t, inline(a, e, "name c\n\t\tping /"))
		view := wantPing(t, false, test.status, test.words...)
		if strings.Contains(view.Response.Message, "literal-secret") {
			t.Error(view.Response.Message)
		}
	}

	a := newAPI(t, nil)
	runSidecar(t, inline(a, e, "name c\n\t\tping /"))
	a.Close()
	wantPing(t, false, 0, "the API cannot be reached: connection refused")

	e.answers(func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
	})
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\ttoken_request_param x y"))
	wantPing(t, false, 0, "there is no token", "invalid_client")
}

func TestPingNamesScopesThatWereNotGranted(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	e.answers(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"t","scope":"a"}`)
	})
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\tscopes a b"))
	wantPing(t, false, 403, "lacks the scope b")

	a = newAPI(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_scope", scope="a b c"`)
		w.WriteHeader(http.StatusForbidden)
	})
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\tscopes a b"))
	wantPing(t, false, 403, "it wants the scope a b c; the connection does not request c; the token endpoint did not grant b")
}

// What is no text is shown as far as it goes, and is no longer for that.
func TestPingShowsAtMost4KiB(t *testing.T) {
	e := newIdP(t)
	for name, body := range map[string]string{"long": strings.Repeat("x", 10000), "cut inside of a character": "x" + strings.Repeat("é", 5000), "no text": strings.Repeat("\xffa", 5000)} {
		a := newAPI(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		runSidecar(t, inline(a, e, "name c\n\t\tping /"))
		got := *wantPing(t, true, 200).Response.Body
		if len(got) > 4096 || len(got) < 4092 || !utf8.ValidString(got) || !strings.HasPrefix(got, strings.ToValidUTF8(body, "\uFFFD")[:100]) {
			t.Errorf("%s: %d bytes: %q", name, len(got), got)
		}
	}
}

func TestPingWithoutAny(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	runSidecar(t, inline(a, e, "name c"))
	wantPing(t, true, 0, "no ping is configured")
	if len(a.seen()) != 0 || e.requests.Load() != 1 {
		t.Errorf("%d requests to the API, %d token requests", len(a.seen()), e.requests.Load())
	}
}

// A connection that no handler uses can be pinged too.
func TestPingUnusedConnection(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	caddyfile := strings.NewReplacer("http_helper billing\n", "respond unused\n", "connection billing", "connection c").Replace(crm(a, e, "ping /me", ""))
	runSidecar(t, caddyfile)
	wantPing(t, true, 200)
	if r := a.last(t); r.RequestURI != "/emea/api/me" || r.Header.Get("Authorization") != "Bearer t1" {
		t.Errorf("asked %s with %v", r.RequestURI, r.Header)
	}
}

func TestPingShowsNoSecret(t *testing.T) {
	token := strings.Repeat("tok/en+", 30)
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("é", 1500))
		quoted, _ := json.Marshal(map[string]any{
			"header": r.Header, "query": r.URL.RawQuery, "path": r.URL.Path, "cut": token[:40], "secret": "literal-secret",
		})
		_, _ = w.Write(quoted)
		_, _ = io.WriteString(w, strings.Repeat(token, 100))
	})
	e.answers(func(w http.ResponseWriter, _ int64) { grantToken(w, token, 3600) })
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\tapi_header X-Key \"very secret\"\n\t\tapi_query key my&very=secret"))
	view := wantPing(t, true, 200)
	body := *view.Response.Body
	if len(body) > 4096 || !strings.HasPrefix(body, "éé") || !strings.Contains(body, `"secret":"[redacted]"`) {
		t.Errorf("%d bytes: %s", len(body), body)
	}
	for _, secret := range []string{token[:20], "literal-secret", "very secret", "my%26very"} {
		if strings.Contains(body, secret) {
			t.Errorf("%s is in %s", secret, body)
		}
	}
}

// What a request carries may be older than what would be found now: a flow's result that is no longer
// remembered, a file that has changed.
func TestPingShowsNoSecretThatWasForgotten(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-Pass")+" and "+r.Header.Get("X-Key"))
	})
	asked := flowServer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `"computed-pass"`) })
	key := writeFile(t, "key", "the-key-before")
	connector := `ping /me
			config_value pass password {
				flow compute
			}
			flow compute request ` + asked + `
			api_header X-Pass {config.pass}
			api_header X-Key {file.` + key + `}`
	runSidecar(t, strings.NewReplacer("connection billing", "connection c", "http_helper billing", "http_helper c").Replace(crm(a, e, connector, "")))
	const shown = "[redacted] and [redacted]"
	if body := *wantPing(t, true, 200).Response.Body; body != shown {
		t.Errorf("body %q", body)
	}
	laterForFlows(t, flows.ResultLifetime)
	if err := os.WriteFile(key, []byte("another-key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if body := *wantPing(t, true, 200).Response.Body; body != shown {
		t.Errorf("later: body %q", body)
	}
}

func TestPingShowsNoProofOfPossession(t *testing.T) {
	e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "proof "+r.Header.Get("DPoP")) })
	e.answers(func(w http.ResponseWriter, _ int64) {
		_, _ = io.WriteString(w, `{"access_token":"a-bound-token","token_type":"DPoP"}`)
	})
	runSidecar(t, inline(a, e, "name c\n\t\tping /\n\t\tdpop"))
	if body := *wantPing(t, true, 200).Response.Body; body != "proof [redacted]" {
		t.Errorf("body %s", body)
	}
}

func TestRedactor(t *testing.T) {
	secret := "s3cr3t/value with \"quotes\" & more"
	r := redact.New([]string{secret, "ab", ""})
	for _, text := range []string{
		secret,
		`s3cr3t\/value with \"quotes\" & more`,
		`s3cr3t/value with \"quotes\" \u0026 more`,
		"s3cr3t%2Fvalue+with+%22quotes%22+%26+more",
		"s3cr3t%2Fvalue%20with%20%22quotes%22%20&%20more",
		"czNjcjN0L3ZhbHVlIHdpdGggInF1b3RlcyIgJiBtb3Jl",
		"ab",
	} {
		if got := r.Redact("<" + text + ">"); got != "<[redacted]>" {
			t.Errorf("%s became %s", text, got)
		}
	}
	if got := r.Redact("the value is a b"); got != "the value is a b" {
		t.Errorf("harmless text became %s", got)
	}
	if got := r.Redact(fmt.Sprintf("begin %s", secret[:20])); got != "begin [redacted]" {
		t.Errorf("a piece of a secret became %s", got)
	}
}
