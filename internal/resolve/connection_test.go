package resolve

import (
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// parse returns the template of a text, in which all placeholders are understood.
func parse(t *testing.T, text string) *placeholder.Template {
	t.Helper()
	parsed, err := placeholder.Parse(text, placeholder.Param, placeholder.Config)
	if err != nil {
		t.Fatal(err)
	}
	return &parsed
}

// newSpec returns a spec with an authentication method, and with the client id app.
func newSpec(t *testing.T, method string) *Spec {
	t.Helper()
	found, err := oauth.Method(method)
	if err != nil {
		t.Fatal(err)
	}
	return &Spec{
		ServiceSpec: &ServiceSpec{BaseURL: parse(t, "https://api.example"), AuthMethod: method, Method: found},
		ClientID:    parse(t, "app"),
	}
}

// plainClient makes requests without showing certificates.
func plainClient(*tls.Certificate) *http.Client {
	return oauth.NewClient(http.DefaultTransport)
}

func newConnection(t *testing.T, spec *Spec) *Connection {
	t.Helper()
	c := new(Connection)
	if err := c.Init("c", spec, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	c.Client = plainClient
	return c
}

// fetch prepares a token request and makes it.
func fetch(t *testing.T, c *Connection) (granted *oauth.Token, fingerprint string, err error) {
	t.Helper()
	p, fingerprint, err := c.Prepare(t.Context())
	if err != nil {
		return nil, fingerprint, err
	}
	granted, err = p.Fetch(t.Context())
	return granted, fingerprint, err
}

// TestTokenOfAnotherReplicaIsBound as one that this connection has requested.
func TestTokenOfAnotherReplicaIsBound(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(http.StatusOK, `{"access_token":"t1","token_type":"DPoP","expires_in":60}`))
	spec := newSpec(t, "client_secret_basic")
	spec.TokenURL, spec.ClientSecret, spec.DPoP = parse(t, endpoint.URL), parse(t, oauthtest.Secret), true
	p, _, err := newConnection(t, spec).Prepare(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own, err := p.Fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other := &oauth.Token{Value: "t2"}
	p.Bind(other)
	if other.DPoP != own.DPoP || other.DPoP == nil || !slices.Equal(other.RequestSecrets, own.RequestSecrets) || len(other.RequestSecrets) == 0 {
		t.Errorf("got %+v, want it bound like %+v", other, own)
	}
}

// TestMovedTokenEndpointIsFound a minute after the metadata were requested last, and not an hour.
func TestMovedTokenEndpointIsFound(t *testing.T) {
	old := oauthtest.NewEndpoint(t, oauthtest.Responds(http.StatusNotFound, ""))
	moved := oauthtest.NewEndpoint(t, oauthtest.Responds(http.StatusOK, oauthtest.GoodResponse))
	metadata := func(endpoint *oauthtest.Endpoint) string {
		return `{"issuer":"ISSUER","token_endpoint":"` + endpoint.URL + `"}`
	}
	issuer := oauthtest.NewIssuer(t, "/.well-known/oauth-authorization-server", metadata(old))
	spec := newSpec(t, "client_secret_basic")
	spec.Issuer, spec.ClientSecret = parse(t, issuer.URL), parse(t, oauthtest.Secret)
	c := newConnection(t, spec)
	now := time.Now()
	c.issuer.Now = func() time.Time { return now }

	fetchAgain := func() error {
		_, _, err := fetch(t, c)
		return err
	}
	if err := fetchAgain(); err == nil {
		t.Fatal("a token from an endpoint that does not exist")
	}
	issuer.Metadata.Store(metadata(moved))
	now = now.Add(time.Minute - time.Second)
	if err := fetchAgain(); err == nil {
		t.Error("the metadata were requested within a minute")
	}
	now = now.Add(time.Second)
	if err := fetchAgain(); err != nil {
		t.Error(err)
	}
	if c.Endpoint() != moved.URL {
		t.Errorf("the endpoint is shown as %s", c.Endpoint())
	}
}

// TestUnresolvedValueIsAConfigurationError that names its option, and makes no token request.
func TestUnresolvedValueIsAConfigurationError(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(http.StatusOK, oauthtest.GoodResponse))
	spec := newSpec(t, "client_secret_basic")
	spec.TokenURL, spec.ClientSecret = parse(t, endpoint.URL), parse(t, "{env.RESOLVE_TEST_UNSET}")
	c := newConnection(t, spec)
	_, fingerprint, err := fetch(t, c)
	failed, ok := errors.AsType[*oauth.Error](err)
	if !ok || failed.Class != oauth.ClassConfiguration || failed.Message != "client_secret: {env.RESOLVE_TEST_UNSET} is not set or empty" {
		t.Errorf("%v", err)
	}
	if requests := endpoint.All(); len(requests) > 0 {
		t.Errorf("requests %v", requests)
	}
	t.Setenv("RESOLVE_TEST_UNSET", oauthtest.Secret)
	if c.Fingerprint() == fingerprint {
		t.Error("the fingerprint is the same with the secret and without it")
	}
}
