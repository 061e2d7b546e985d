package httphelper

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

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
		`{"handler": "headers", "request": {"set": {"X-Rewrite-Url": ["/b"]}}}`: "connection c: GET /a has X-Rewrite-Url, by which some servers take a request for another",
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
