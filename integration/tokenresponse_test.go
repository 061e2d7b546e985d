package integration

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestTokenResponses has responses of token endpoints, good and bad, and what the app gets.
func TestTokenResponses(t *testing.T) {
	t.Parallel()
	ok := func(body string) http.Handler { return harness.Reply(http.StatusOK, body) }
	const fine = http.StatusOK
	cases := map[string]struct {
		response  http.Handler
		options   string // of the connection
		status    int
		errorType string // of Proxy-Status
		details   string // in Proxy-Status
		token     string // at the API
	}{
		"type in capitals":          {response: ok(`{"access_token":"t","token_type":"BEARER"}`), status: fine, token: "t"},
		"no type":                   {response: ok(`{"access_token":"t"}`), status: fine, token: "t"},
		"lifetime as text":          {response: ok(`{"access_token":"t","expires_in":"3600"}`), status: fine, token: "t"},
		"lifetime as fraction":      {response: ok(`{"access_token":"t","expires_in":3599.9}`), status: fine, token: "t"},
		"lifetime null":             {response: ok(`{"access_token":"t","expires_in":null}`), status: fine, token: "t"},
		"lifetime nonsense":         {response: ok(`{"access_token":"t","expires_in":"soon"}`), status: fine, token: "t"},
		"unknown members":           {response: ok(`{"access_token":"t","refresh_token":"r","x":{"y":[1]}}`), status: fine, token: "t"},
		"nested":                    {response: ok(`{"data":{"~x/":[{"tok":"t"}],"ttl":60}}`), options: "token_pointer /data/~0x~1/0/tok\nexpires_in_pointer /data/ttl", status: fine, token: "t"},
		"type of the service's own": {response: ok(`{"access_token":"t","token_type":"application access token"}`), options: "token_types BearerToken \"Application Access Token\"", status: fine, token: "t"},
		"another type":              {response: ok(`{"access_token":"t","token_type":"mac"}`), status: http.StatusBadGateway, errorType: "proxy_configuration_error"},
		"no token":                  {response: ok(`{"token_type":"Bearer"}`), status: http.StatusBadGateway, errorType: "proxy_configuration_error"},
		"empty token":               {response: ok(`{"access_token":""}`), status: http.StatusBadGateway, errorType: "proxy_configuration_error"},
		"token is no text":          {response: ok(`{"access_token":{"a":1}}`), status: http.StatusBadGateway, errorType: "proxy_configuration_error"},
		"token with a newline":      {response: ok(`{"access_token":"a\nb"}`), status: http.StatusBadGateway, errorType: "proxy_configuration_error"},
		"token too long":            {response: ok(`{"access_token":"` + strings.Repeat("t", 16<<10+1) + `"}`), status: http.StatusBadGateway, errorType: "proxy_configuration_error"},
		"long token":                {response: ok(`{"access_token":"` + strings.Repeat("t", 16<<10) + `"}`), status: fine, token: strings.Repeat("t", 16<<10)},
		"no JSON":                   {response: ok("<html>maintenance</html>"), status: http.StatusBadGateway, errorType: "proxy_configuration_error"},
		"too much":                  {response: ok(`{"access_token":"t","x":"` + strings.Repeat("x", 1<<20) + `"}`), status: http.StatusBadGateway, errorType: "proxy_configuration_error"},
		"too much after unpacking":  {response: bomb(), status: http.StatusBadGateway, errorType: "proxy_configuration_error"},
		"redirect": {
			response: harness.Reply(http.StatusTemporaryRedirect, "", "Location", "http://127.0.0.1:9/elsewhere"),
			status:   http.StatusBadGateway, errorType: "proxy_configuration_error",
		},
		"invalid_client":      {response: harness.Refuse(http.StatusUnauthorized, "invalid_client"), status: http.StatusBadGateway, errorType: "proxy_configuration_error", details: "invalid_client"},
		"invalid_scope":       {response: harness.Refuse(http.StatusBadRequest, "invalid_scope"), status: http.StatusBadGateway, errorType: "proxy_configuration_error", details: "invalid_scope"},
		"error in a 200":      {response: harness.Refuse(http.StatusOK, "access_denied"), status: http.StatusBadGateway, errorType: "proxy_configuration_error", details: "access_denied"},
		"server error":        {response: harness.Refuse(http.StatusInternalServerError, "server_error"), status: http.StatusServiceUnavailable, errorType: "proxy_internal_error", details: "server_error"},
		"unknown code in 400": {response: harness.Refuse(http.StatusBadRequest, "temporarily_unavailable"), status: http.StatusServiceUnavailable, errorType: "proxy_internal_error", details: "temporarily_unavailable"},
		"too many requests":   {response: harness.Reply(http.StatusTooManyRequests, "{}", "Retry-After", "7"), status: http.StatusServiceUnavailable, errorType: "proxy_internal_error"},
		"too slow": {
			response: harness.Slow(time.Minute, ok(`{"access_token":"t"}`)), options: "token_timeout 300ms",
			status: http.StatusGatewayTimeout, errorType: "proxy_internal_error",
		},
	}
	names := slices.Sorted(maps.Keys(cases))
	var connections []string
	for _, name := range names {
		connections = append(connections, "client_id app\nclient_secret {env.SECRET}\n"+cases[name].options)
	}
	w := startConnections(t, connections, func(number int) http.Handler { return cases[names[number]].response })
	w.api.Accept(nil)
	for i, name := range names {
		t.Run(name, func(t *testing.T) {
			c := cases[name]
			before := w.api.Count()
			response := w.Get(t, fmt.Sprintf("/%d/x", i))
			if c.status == fine {
				wantStatus(t, response, fine)
				equal(t, "token", harness.Bearer(w.api.Last(t).Header), c.token)
				return
			}
			wantSidecarError(t, response, c.status, c.errorType)
			if !strings.Contains(response.Header.Get("Proxy-Status"), c.details) {
				t.Errorf("Proxy-Status %q, want it to say %q", response.Header.Get("Proxy-Status"), c.details)
			}
			if retry := response.Header.Get("Retry-After"); c.status == http.StatusServiceUnavailable && retry == "" {
				t.Error("an outage without Retry-After")
			}
			equal(t, "API requests", w.api.Count(), before)
		})
	}
}

// bomb is a response that is small only while it is compressed.
func bomb() http.Handler {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	fmt.Fprintf(writer, `{"access_token":"t","x":"%s"}`, strings.Repeat("x", 8<<20))
	writer.Close()
	return harness.Reply(http.StatusOK, packed.String(), "Content-Encoding", "gzip")
}

func TestGrantedScopesThatLackARequiredOne(t *testing.T) {
	t.Parallel()
	const scopes = "scope read required\nscope write\ncustomize_scopes\n"
	for name, c := range map[string]struct {
		service string
		granted any
		status  int
	}{
		"warned about by default":        {scopes, "write", http.StatusOK},
		"refused when so configured":     {scopes + "require_granted_scopes", "write other", http.StatusBadGateway},
		"an optional one may be missing": {scopes + "require_granted_scopes", "read", http.StatusOK},
		"separated by commas":            {scopes + "require_granted_scopes", "write,read", http.StatusOK},
		"as an array":                    {scopes + "require_granted_scopes", []string{"write", "read"}, http.StatusOK},
		"an empty list is as requested":  {scopes + "require_granted_scopes", "", http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.api.Accept(nil)
			w.tokens.RespondWith(harness.Reply(http.StatusOK, map[string]any{"access_token": "t", "scope": c.granted}))
			w.Run(t, w.named(options{service: c.service}))
			response := w.Get(t, "/")
			if c.status == http.StatusOK {
				wantStatus(t, response, c.status)
				return
			}
			wantSidecarError(t, response, c.status, "proxy_configuration_error")
			if details := response.Header.Get("Proxy-Status"); !strings.Contains(details, "read") {
				t.Errorf("the error does not name the scope: %q", details)
			}
		})
	}
}

func TestMissingScopesAreLoggedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		harness.Reply(http.StatusOK, map[string]any{
			"access_token": w.tokens.Issue(time.Second), "expires_in": 1, "scope": "scope-a",
		}).ServeHTTP(rw, nil)
	}))
	w.Run(t, w.inline(options{connection: "scopes scope-a scope-missing"}))
	for w.tokens.Count() < 3 {
		w.wantOK(t)
	}
	if got := strings.Count(w.Logs(), "scope-missing"); got != 1 {
		t.Errorf("the missing scope was logged %d times, want once", got)
	}
}
