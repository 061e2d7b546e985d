// Package integration tests the built sidecar from outside, as its users see it.
package integration

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

const secret = "s3cret-of-the-tests"

// world is an app's surroundings: a sidecar, a token endpoint before it and an API behind it.
type world struct {
	*harness.Sidecar
	tokens *harness.TokenEndpoint
	api    *harness.API

	// Whether the test reloads under load. A connection that is opened while Caddy closes the old
	// listener may be cut before any response, with a bare reverse_proxy too, and is opened again.
	reloads bool
}

// newWorld prepares a world; with a CA its servers speak TLS, and the sidecar trusts them.
func newWorld(t testing.TB, ca *harness.CA) *world {
	t.Helper()
	w := &world{Sidecar: harness.New(t), tokens: harness.NewTokenEndpoint(t, ca)}
	w.api = harness.NewAPI(t, ca, w.tokens)
	return w
}

// options are pieces of a Caddyfile. In each, $API, $TOKENS and $DIR are replaced by the API's URL,
// the token endpoint's and the sidecar's directory.
type options struct {
	service    string   // of a connector, or inline
	connection string   // of a connection
	directive  string   // of http_helper
	base       string   // path of the base URL
	global     string   // global options
	more       string   // further sites
	env        []string // of the process
	secretLine string   // instead of the usual client_secret
}

// inline is the configuration with everything in one block.
func (w *world) inline(o options) harness.Config {
	return w.expand(o, harness.Config{
		Options: o.global,
		Site:    "http_helper $API" + o.base + " {\ntoken_url $TOKENS\n" + o.credentials() + o.service + "\n" + o.connection + "\n" + o.directive + "\n}",
	})
}

// variable matches the placeholder of a variable.
var variable = regexp.MustCompile(`\{env\.(\w+)\}`)

// named is the same configuration with a connector and a connection. The connector asks for the values of
// variables, which it must not read.
func (w *world) named(o options) harness.Config {
	var asks, values string
	for _, found := range variable.FindAllStringSubmatch(o.service, -1) {
		asks += "\nparameter " + found[1] + " password"
		values += "\nparameter " + found[1] + " " + found[0]
	}
	return w.expand(o, harness.Config{
		Options: o.global + "\nhttp_helper {\nconnector service {\nbase_url $API" + o.base + "\ntoken_url $TOKENS\n" + variable.ReplaceAllString(o.service, "{param.$1}") + asks +
			"\n}\nconnection billing service {\n" + o.credentials() + o.connection + values + "\n}\n}",
		Site: "http_helper billing {\n" + o.directive + "\n}",
	})
}

func (o options) credentials() string {
	line := o.secretLine
	if line == "" {
		line = "client_secret {env.SECRET}"
	}
	if strings.Contains(o.connection, "client_id ") {
		return line + "\n"
	}
	return "client_id app\n" + line + "\n"
}

func (w *world) expand(o options, config harness.Config) harness.Config {
	config.More = o.more
	config.Env = append([]string{"SECRET=" + secret}, o.env...)
	replacer := strings.NewReplacer("$API", w.api.URL, "$TOKENS", w.tokens.URL, "$DIR", w.Dir)
	for _, part := range []*string{&config.Options, &config.Site, &config.More} {
		*part = replacer.Replace(*part)
	}
	return config
}

// eachForm runs a test with a world in both forms of the configuration.
func eachForm(t *testing.T, o options, test func(t *testing.T, w *world)) {
	t.Helper()
	for name, form := range map[string]func(*world, options) harness.Config{
		"inline": (*world).inline, "named": (*world).named,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.Run(t, form(w, o))
			test(t, w)
		})
	}
}

// startInline is a world whose sidecar runs with everything in one block.
func startInline(t testing.TB, o options) *world {
	t.Helper()
	w := newWorld(t, nil)
	w.Run(t, w.inline(o))
	return w
}

// startConnections is a world whose sidecar has many connections, each with its own options and a token
// endpoint of its own. Requests for /<number>/… go by the connection of that number.
func startConnections(t testing.TB, connections []string, respond func(number int) http.Handler) *world {
	t.Helper()
	w := newWorld(t, nil)
	w.tokens.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		number, err := strconv.Atoi(connectionOf(r.RequestURI))
		if err != nil {
			t.Error(err)
			return
		}
		respond(number).ServeHTTP(rw, r)
	}))
	var global, site strings.Builder
	for i, options := range connections {
		fmt.Fprintf(&global, "connection number-%d {\nbase_url $API\ntoken_url $TOKENS?connection=%d\n%s\n}\n", i, i, options)
		fmt.Fprintf(&site, "handle_path /%d/* {\nhttp_helper number-%d\n}\n", i, i)
	}
	w.Run(t, w.expand(options{}, harness.Config{Options: "http_helper {\n" + global.String() + "}", Site: site.String()}))
	return w
}

// wantStatus checks a response's status.
func wantStatus(t testing.TB, response *harness.Response, want int) {
	t.Helper()
	if response.StatusCode != want {
		t.Fatalf("status %d, want %d; Proxy-Status %q, body %q", response.StatusCode, want, response.Header.Get("Proxy-Status"), response.Text)
	}
}

// wantSidecarError checks that a response is an error of the sidecar's own (rule 21).
func wantSidecarError(t testing.TB, response *harness.Response, status int, errorType string) {
	t.Helper()
	wantStatus(t, response, status)
	proxyStatus := response.Header.Get("Proxy-Status")
	if !strings.HasPrefix(proxyStatus, "http_helper; error="+errorType) {
		t.Errorf("Proxy-Status %q, want http_helper; error=%s", proxyStatus, errorType)
	}
	if got := response.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control %q, want no-store", got)
	}
}

// wantOK makes a request that the API must response to.
func (w *world) wantOK(t testing.TB) {
	t.Helper()
	wantStatus(t, w.Get(t, "/hello"), http.StatusOK)
}

// awaitResponse makes requests until the API responds. It fails when the process in between has ended.
func (w *world) awaitResponse(t *testing.T, ended <-chan struct{}, logs func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Timeout)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := w.Do(req)
		if err == nil {
			wantStatus(t, response, http.StatusOK)
			return
		}
		select {
		case <-ended:
			t.Fatalf("it has ended:\n%s", logs())
		case <-ctx.Done():
			t.Fatalf("no response: %v\n%s", err, logs())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
