package resolve

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

// requestFlow is a helper flow that makes a request.
type requestFlow struct{ url string }

func (requestFlow) Check(bool) error     { return nil }
func (requestFlow) Parameters() []string { return nil }

func (f requestFlow) Run(ctx context.Context, in flows.Input) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return "", err
	}
	res, err := in.Client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// flowSpec returns a spec whose URLs and a header depend on a helper flow at the server, and whose token
// endpoint is found by its issuer.
func flowSpec(t *testing.T, server string) *Spec {
	t.Helper()
	s := newSpec(t, "client_secret_basic")
	s.ClientSecret = parse(t, oauthtest.Secret)
	s.Issuer, s.BaseURL = parse(t, server+"/{config.found}"), parse(t, "https://{config.found}.example")
	s.APIHeaders = []Field{{Name: "X-Found", Value: *parse(t, "{config.found}")}}
	s.ConfigValues = []ConfigValue{{Key: "found", Flow: NewFlow("f", []byte(t.Name()), requestFlow{server + "/flow"})}}
	return s
}

// TestOfflinePassesMakeNoRequests: loading a config, comparing credentials and showing a connection
// contact nobody.
func TestOfflinePassesMakeNoRequests(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		_, _ = io.WriteString(w, "found")
	}))
	t.Cleanup(server.Close)
	c := newConnection(t, flowSpec(t, server.URL))
	for name, pass := range map[string]func() any{
		"Check":        func() any { constant, err := c.Check(); return fmt.Sprint(constant, err) },
		"Fingerprint":  func() any { return c.Fingerprint() },
		"Key":          func() any { return c.Key() },
		"TokenHost":    func() any { return c.TokenHost() },
		"Endpoint":     func() any { return c.Endpoint() },
		"KnownSecrets": func() any { return c.KnownSecrets() },
		"HiddenInHost": func() any { return c.HiddenInHost("x") },
		"View":         func() any { return c.View().BaseURL() + c.View().TokenURL() },
		"Preview":      func() any { text, err := c.Spec.Preview(); return fmt.Sprint(text, err) },
	} {
		pass()
		if got := requests.Swap(0); got > 0 {
			t.Errorf("%s made %d requests", name, got)
		}
	}
	if _, _, err := fetch(t, c); err == nil || requests.Load() == 0 {
		t.Errorf("a token request made %d requests: %v", requests.Load(), err)
	}
}

// TestRecentFlowResultIsUsedOffline, as it needs no request.
func TestRecentFlowResultIsUsedOffline(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "found") })
	c := newConnection(t, flowSpec(t, endpoint.URL))
	if shown := c.View().BaseURL(); shown != "https://{config.found}.example" {
		t.Errorf("the base URL is shown as %s before the flow has run", shown)
	}
	target, err := c.Target(t.Context())
	if err != nil || target.Base.Host != "found.example" {
		t.Fatal(target, err)
	}
	if shown := c.View().BaseURL(); shown != "https://found.example" {
		t.Errorf("the base URL is shown as %s", shown)
	}
	endpoint.Only(t)
}

// TestPreviewShowsFlowResults: a connection without clients runs the flows that need none.
func TestPreviewShowsFlowResults(t *testing.T) {
	s := newSpec(t, "none")
	s.TokenURL = parse(t, "https://{config.found}.example/token")
	s.ConfigValues = []ConfigValue{{Key: "found", Flow: NewFlow("f", []byte(t.Name()), constantFlow("eu"))}}
	if text, err := s.Preview(); err != nil || !strings.Contains(text, "POST https://eu.example/token") {
		t.Errorf("%v, preview:\n%s", err, text)
	}
}

// TestViewHidesSecrets, and whatever depends on them.
func TestViewHidesSecrets(t *testing.T) {
	s := newSpec(t, "none")
	s.TokenURL = parse(t, "https://{param.region}.example/{param.pin}/{config.both}?key={param.pin}")
	s.Parameters = []Parameter{{Key: "region"}, {Key: "pin", Password: true}}
	s.ParameterValues = map[string]ParameterValue{"region": {Value: *parse(t, "eu")}, "pin": {Value: *parse(t, "hunter2hunter2")}}
	s.ConfigValues = []ConfigValue{{Key: "both", Value: *parse(t, "{param.region}-{param.pin}")}}
	c := newConnection(t, s)
	if shown := c.View().TokenURL(); shown != "https://eu.example/{param.pin}/{config.both}" {
		t.Errorf("shown as %s", shown)
	}
	if text, err := s.Preview(); err != nil || strings.Contains(text, "hunter2") || !strings.Contains(text, "POST https://eu.example/{param.pin}/{config.both}") {
		t.Errorf("%v, preview:\n%s", err, text)
	}
}
