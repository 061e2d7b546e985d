package integration

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// generation makes a configuration differ, because Caddy skips a reload of what it has.
func generation(o options, n int) options {
	o.directive += fmt.Sprintf("\nheader_down X-Generation %d", n)
	return o
}

// awaitGeneration makes requests until that configuration responds to one. For a moment after a reload
// Caddy's old listener may still accept connections, and serve or close them.
func (w *world) awaitGeneration(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		req, err := http.NewRequest(http.MethodGet, w.URL+"/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		if response, err := w.Do(req); err == nil && response.Header.Get("X-Generation") == strconv.Itoa(n) {
			equal(t, "status", response.StatusCode, http.StatusOK)
			return
		}
	}
	t.Fatalf("no response of configuration %d", n)
}

func TestFiftyReloadsUnderLoad(t *testing.T) {
	w := newWorld(t, nil)
	w.reloads = true
	w.Run(t, w.named(generation(options{}, 0)))
	w.wantOK(t)
	l := w.startLoad(t, 4, time.Millisecond)
	for i := range 50 {
		if err := w.Reload(w.named(generation(options{}, i+1))); err != nil {
			t.Fatal(err)
		}
	}
	wantAllOK(t, l.stop())
	equal(t, "X-Generation", w.Get(t, "/").Header.Get("X-Generation"), "50")
	equal(t, "token requests", w.tokens.Count(), 1)
}

func TestAReloadDuringTheFirstTokenRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	release := make(chan struct{})
	w.tokens.RespondWith(harness.Blocked(release, w.tokens.Grant(time.Hour)))
	w.Run(t, w.inline(generation(options{}, 0)))
	before := make(chan outcome, 1)
	go func() { before <- w.try("/before") }()
	w.tokens.Await(t, 1)
	if err := w.Reload(w.inline(generation(options{}, 1))); err != nil {
		t.Fatal(err)
	}
	after := make(chan outcome, 1)
	go func() { after <- w.try("/after") }()
	close(release)
	equal(t, "status before", (<-before).status, http.StatusOK)
	equal(t, "status after", (<-after).status, http.StatusOK)
	equal(t, "token requests", w.tokens.Count(), 1)
}

func TestARejectedReloadChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.reloads = true
	good := w.named(options{})
	w.Run(t, good)
	w.wantOK(t)
	l := w.startLoad(t, 2, time.Millisecond)
	for name, bad := range map[string]harness.Config{
		"unknown scope":      w.named(options{connection: "scopes nope"}),
		"unset variable":     w.named(options{secretLine: "client_secret {env.NOT_SET}", connection: "warm"}),
		"port in use":        {Options: good.Options, Site: good.Site, More: ":" + w.api.Port() + " {\nbind 127.0.0.1\n}"},
		"changed and broken": {Options: strings.Replace(good.Options, "client_id app", "client_id other", 1), Site: good.Site, More: ":" + w.api.Port() + " {\nbind 127.0.0.1\n}"},
	} {
		if err := w.Reload(bad); err == nil {
			t.Errorf("%s: the configuration was loaded", name)
		}
	}
	wantAllOK(t, l.stop())
	w.wantOK(t)
	equal(t, "token requests", w.tokens.Count(), 1)
	// The running configuration is still whole: a token is fetched again when it must.
	w.tokens.Revoke()
	w.wantOK(t)
	equal(t, "token requests", w.tokens.Count(), 2)
}

// TestWhatAReloadMayChange tells changes that keep the token from changes that need another one
// (rule 13).
func TestWhatAReloadMayChange(t *testing.T) {
	t.Parallel()
	start := options{service: "scope a\nscope b\ncustomize_scopes", connection: "scopes a"}
	for name, c := range map[string]struct {
		changed func(o options) options
		rename  string
		kept    bool
	}{
		"nothing":        {func(o options) options { return o }, "", true},
		"name":           {func(o options) options { return o }, "renamed", true},
		"timeouts":       {func(o options) options { o.connection += "\ntoken_timeout 3s\nrefresh_before 10s"; return o }, "", true},
		"warm":           {func(o options) options { o.connection += "\nwarm"; return o }, "", true},
		"base URL":       {func(o options) options { o.base = "/v2"; return o }, "", true},
		"API header":     {func(o options) options { o.service += "\napi_header X-A b"; return o }, "", true},
		"allow":          {func(o options) options { o.service += "\nallow GET /hello"; o.connection += "\nallow /hello"; return o }, "", true},
		"client id":      {func(o options) options { o.connection += "\nclient_id other"; return o }, "", false},
		"secret":         {func(o options) options { o.secretLine = "client_secret {env.OTHER_SECRET}"; return o }, "", false},
		"scopes":         {func(o options) options { o.connection = "scopes a b"; return o }, "", false},
		"method":         {func(o options) options { o.service += "\nauth_method client_secret_post"; return o }, "", false},
		"parameter":      {func(o options) options { o.service += "\ntoken_request_param audience x"; return o }, "", false},
		"request header": {func(o options) options { o.service += "\ntoken_request_header X-A b"; return o }, "", false},
		"format":         {func(o options) options { o.service += "\ntoken_request_format json"; return o }, "", false},
		"transport":      {func(o options) options { o.service += "\ntoken_transport {\ndial_timeout 2s\n}"; return o }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			start := start
			start.env = []string{"OTHER_SECRET=" + secret + "-2"}
			w.Run(t, w.named(generation(start, 0)))
			w.wantOK(t)
			config := w.named(generation(c.changed(start), 1))
			if c.rename != "" {
				config.Options = strings.Replace(config.Options, "connection billing", "connection "+c.rename, 1)
				config.Site = strings.Replace(config.Site, "http_helper billing", "http_helper "+c.rename, 1)
			}
			if err := w.Reload(config); err != nil {
				t.Fatal(err)
			}
			w.awaitGeneration(t, 1)
			want, token := 2, "token-2"
			if c.kept {
				want, token = 1, "token-1"
			}
			equal(t, "token requests", w.tokens.Count(), want)
			equal(t, "token", harness.Bearer(w.api.Last(t).Header), token)
		})
	}
}

func TestConnectionsShareATokenOnlyWhenEverythingIsEqual(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const connection = "connection %s {\nbase_url $API/%[1]s\ntoken_url $TOKENS\nclient_id %s\nclient_secret {env.%s}\n%s\n}\n"
	config := w.expand(options{env: []string{"SECRET_2=another secret"}}, harness.Config{Options: "http_helper {\n" +
		fmt.Sprintf(connection, "a", "app", "SECRET", "") +
		fmt.Sprintf(connection, "same", "app", "SECRET", "warm\ntoken_timeout 3s") +
		fmt.Sprintf(connection, "id", "other", "SECRET", "") +
		fmt.Sprintf(connection, "secret", "app", "SECRET_2", "") +
		fmt.Sprintf(connection, "scopes", "app", "SECRET", "scopes x") +
		"}", Site: "http_helper {header.X-Connection} {\nconnections a same id secret scopes\n}"})
	w.Run(t, config)
	tokens := map[string]string{}
	for _, name := range []string{"a", "same", "id", "secret", "scopes"} {
		wantStatus(t, w.Get(t, "/", "X-Connection", name), http.StatusOK)
		tokens[name] = harness.Bearer(w.api.Last(t).Header)
	}
	equal(t, "token of the equal connection", tokens["same"], tokens["a"])
	delete(tokens, "same")
	seen := map[string]string{}
	for name, token := range tokens {
		if other, ok := seen[token]; ok {
			t.Errorf("connections %s and %s share a token", name, other)
		}
		seen[token] = name
	}
	equal(t, "token requests", w.tokens.Count(), 4)
}

func TestRequestsInFlightOutliveAReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.Run(t, w.named(options{}))
	w.wantOK(t)
	w.tokens.Revoke()
	arrived, release := make(chan struct{}), make(chan struct{})
	valid := w.tokens.Valid
	w.api.Accept(func(token string) bool {
		if !valid(token) {
			close(arrived)
			<-release
			return false
		}
		return true
	})
	inFlight := make(chan outcome, 1)
	go func() { inFlight <- w.try("/in-flight") }()
	<-arrived
	// The connection is gone when the API rejects the token; the request still gets another token.
	if err := w.Reload(harness.Config{Site: "respond gone 410"}); err != nil {
		t.Fatal(err)
	}
	close(release)
	if got := <-inFlight; got.status != http.StatusOK {
		t.Errorf("%v, want 200", got)
	}
	wantStatus(t, w.Get(t, "/"), http.StatusGone)
}
