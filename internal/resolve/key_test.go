package resolve

import (
	"context"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

// keySpec returns the spec that the tests of keys vary.
func keySpec(t *testing.T) *Spec {
	t.Helper()
	s := newSpec(t, "client_secret_basic")
	s.TokenURL, s.ClientSecret = parse(t, "https://auth.example/token"), parse(t, oauthtest.Secret)
	s.RequestedScopes = []string{"a", "b"}
	s.Parameters = []Parameter{{Key: "tenant"}}
	s.ParameterValues = map[string]ParameterValue{"tenant": {Value: *parse(t, "acme")}}
	s.ConfigValues = []ConfigValue{{Key: "host", Value: *parse(t, "auth.example")}, {Key: "found", Flow: NewFlow("f", []byte("1"), constantFlow("x"))}}
	return s
}

// constantFlow is a helper flow with a fixed result.
type constantFlow string

func (constantFlow) Check(bool) error     { return nil }
func (constantFlow) Parameters() []string { return nil }

func (f constantFlow) Run(context.Context, flows.Input) (string, error) { return string(f), nil }

// TestKeys: equal keys mean a shared token. The root has the full list of credentials.
func TestKeys(t *testing.T) {
	t.Setenv("RESOLVE_TEST_HOST", "auth.example")
	t.Setenv("RESOLVE_TEST_SECRET", oauthtest.Secret)
	useFiles(t, map[string]string{"/v/secret": oauthtest.Secret, "/v/other": oauthtest.Secret})
	type change func(*testing.T, *Spec)
	same := change(func(*testing.T, *Spec) {})
	tokenURL := func(text string) change {
		return func(t *testing.T, s *Spec) { s.TokenURL = parse(t, text) }
	}
	secretFile := func(path string) change {
		return func(t *testing.T, s *Spec) { s.ClientSecret, s.SecretFile = nil, parse(t, path) }
	}
	secret := func(text string) change {
		return func(t *testing.T, s *Spec) { s.ClientSecret = parse(t, text) }
	}
	for name, test := range map[string]struct {
		a, b  change
		equal bool
	}{
		"the same":                  {same, same, true},
		"from the environment":      {same, secret("{env.RESOLVE_TEST_SECRET}"), true},
		"a constant config value":   {same, tokenURL("https://{config.host}/token"), true},
		"two constants":             {tokenURL("https://{env.RESOLVE_TEST_HOST}/token"), tokenURL("https://{config.host}/token"), true},
		"a file in two spellings":   {secretFile("/v/secret"), secret("{file./v/secret}"), true},
		"what shapes no token":      {same, func(t *testing.T, s *Spec) { s.BaseURL = parse(t, "https://other.example") }, true},
		"no token request":          {same, func(_ *testing.T, s *Spec) { s.DefaultLifetime = time.Hour }, true},
		"an API header":             {same, func(t *testing.T, s *Spec) { s.APIHeaders = []Field{{"X-Key", *parse(t, "k")}} }, true},
		"a parameter without use":   {same, func(t *testing.T, s *Spec) { s.ParameterValues["tenant"] = ParameterValue{Value: *parse(t, "other")} }, true},
		"another client":            {same, func(t *testing.T, s *Spec) { s.ClientID = parse(t, "other") }, false},
		"another secret":            {same, secret(oauthtest.Secret + "x"), false},
		"a file of equal content":   {same, secretFile("/v/secret"), false},
		"two files":                 {secretFile("/v/secret"), secretFile("/v/other"), false},
		"another method":            {same, func(_ *testing.T, s *Spec) { s.AuthMethod = "client_secret_post" }, false},
		"other scopes":              {same, func(_ *testing.T, s *Spec) { s.RequestedScopes = []string{"a"} }, false},
		"the split of scopes":       {same, func(_ *testing.T, s *Spec) { s.RequestedScopes = []string{"a b"} }, false},
		"a token header":            {same, func(t *testing.T, s *Spec) { s.TokenHeaders = []Field{{"X-Key", *parse(t, "k")}} }, false},
		"a parameter in use":        {tokenURL("https://auth.example/{param.tenant}"), tokenURL("https://auth.example/other"), false},
		"the id in a field":         {same, func(_ *testing.T, s *Spec) { s.SendClientID = true }, false},
		"types of tokens":           {same, func(_ *testing.T, s *Spec) { s.TokenTypes = []string{"BearerToken"} }, false},
		"DPoP":                      {same, func(_ *testing.T, s *Spec) { s.DPoP = true }, false},
		"a transport of its own":    {same, func(_ *testing.T, s *Spec) { s.TokenTransport = `{"dial_timeout":1}` }, false},
		"a flow and its result":     {tokenURL("https://auth.example/x"), tokenURL("https://auth.example/{config.found}"), false},
		"a flow before the request": {same, func(t *testing.T, s *Spec) { s.BaseURL = parse(t, "https://{config.found}.example") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := keySpec(t), keySpec(t)
			test.a(t, a)
			test.b(t, b)
			if equal := newConnection(t, a).Key() == newConnection(t, b).Key(); equal != test.equal {
				t.Errorf("equal keys: %v, want %v", equal, test.equal)
			}
		})
	}
}

// TestKeyDependsOnTheFlow and on all parameters, which a flow may use.
func TestKeyDependsOnTheFlow(t *testing.T) {
	withFlow := func(config, tenant string) *Connection {
		s := keySpec(t)
		s.TokenURL = parse(t, "https://{config.found}.example/token")
		s.ConfigValues[1].Flow = NewFlow("f", []byte(config), constantFlow("x"))
		s.ParameterValues["tenant"] = ParameterValue{Value: *parse(t, tenant)}
		return newConnection(t, s)
	}
	first := withFlow("1", "acme").Key()
	if withFlow("1", "acme").Key() != first {
		t.Error("other keys with the same flow and parameters")
	}
	if withFlow("2", "acme").Key() == first || withFlow("1", "other").Key() == first {
		t.Error("equal keys with another flow or parameter")
	}
}
