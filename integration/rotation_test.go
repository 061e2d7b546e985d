package integration

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestRotationUnderLoad has Hydra refuse the old secret while requests run. The
// file follows a little later, as it does when people rotate; no request notices.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	server := harness.StartHydra(t, nil, "TTL_ACCESS_TOKEN=8s")
	register := func(secret string) {
		server.Register(t, harness.HydraClient{ID: "app", Secret: secret, AuthMethod: "client_secret_basic"})
	}
	register("the old secret")
	w := &world{Sidecar: harness.New(t), tokens: server.TokenEndpoint}
	w.api = harness.NewAPI(t, nil, nil)
	w.api.Accept(func(token string) bool { return token != "" })
	file := w.File(t, "secret", "the old secret\n")
	w.Run(t, w.inline(options{secretLine: "client_secret_file " + file, connection: "refresh_before 4s"}))

	w.wantOK(t)
	first := harness.Bearer(w.api.Last(t).Header)
	l := w.startLoad(t, 4, 5*time.Millisecond)
	register("the new secret")
	server.Await(t, 2) // the refresh with the old secret: refused
	harness.WriteFile(t, file, "the new secret\n")
	eventually(t, "a token for the new secret", func() bool {
		return harness.Bearer(w.api.Last(t).Header) != first
	})
	newest := harness.Bearer(w.api.Last(t).Header)
	wantAllOK(t, l.stop())
	equal[any](t, "active", server.Introspect(t, newest)["active"], true)
}

// TestChangedCredentialsEndTheBackOff corrects a wrong secret after long failure.
func TestChangedCredentialsEndTheBackOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	file := w.File(t, "secret", "wrong")
	w.tokens.RespondWith(harness.Reply(http.StatusUnauthorized, `{"error":"invalid_client"}`, "Retry-After", "300"))
	w.Run(t, w.inline(options{secretLine: "client_secret_file " + file}))
	for range 20 {
		wantSidecarError(t, w.Get(t, "/"), http.StatusBadGateway, "proxy_configuration_error")
	}
	equal(t, "token requests", w.tokens.Count(), 1)
	w.tokens.RespondWith(w.tokens.Grant(time.Hour))
	harness.WriteFile(t, file, "right")
	changed := time.Now()
	eventually(t, "recovery", func() bool { return w.try("/").status == http.StatusOK })
	if took := time.Since(changed); took > 5*time.Second {
		t.Errorf("noticed after %v", took)
	}
	equal(t, "token requests", w.tokens.Count(), 2)
	equal(t, "Authorization", w.tokens.Requests()[1].Header.Get("Authorization"), basicAuth("app", "right"))
}

// TestAnyCorrectionEndsTheBackOff: every part of a token request that comes from outside the
// configuration can be what was wrong, such as the name of a key or an API key in a header.
func TestAnyCorrectionEndsTheBackOff(t *testing.T) {
	t.Parallel()
	const value = "{file.$DIR/value}"
	for name, o := range map[string]options{
		"key_id":               {service: "auth_method private_key_jwt", secretLine: "client_key_file $DIR/key.pem\nkey_id " + value},
		"assertion_audience":   {service: "auth_method private_key_jwt", secretLine: "client_key_file $DIR/key.pem\nassertion_audience " + value},
		"token_request_header": {service: "token_request_header X-Api-Key " + value},
		"token_request_param":  {service: "token_request_param key " + value},
		"resource":             {service: "resource https://api.example/" + value},
		"token_url":            {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.File(t, "key.pem", newSigner(t, "ES256", "").pem(t))
			if name == "token_url" {
				w.tokens.URL += "?key=" + strings.Replace(value, "$DIR", w.Dir, 1)
			}
			file := w.File(t, "value", "wrong")
			w.tokens.RespondWith(harness.Reply(http.StatusUnauthorized, `{"error":"invalid_client"}`, "Retry-After", "300"))
			w.Run(t, w.inline(o))
			wantSidecarError(t, w.Get(t, "/"), http.StatusBadGateway, "proxy_configuration_error")
			w.tokens.RespondWith(w.tokens.Grant(time.Hour))
			harness.WriteFile(t, file, "right")
			eventually(t, "recovery", func() bool { return w.try("/").status == http.StatusOK })
			equal(t, "token requests", w.tokens.Count(), 2)
		})
	}
}

func TestAnUnreadableSecretIsAConfigurationErrorUntilItComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	file := w.File(t, "secret", secret)
	w.Run(t, w.inline(options{secretLine: "client_secret_file " + file}))
	harness.WriteFile(t, file, "")
	wantSidecarError(t, w.Get(t, "/"), http.StatusBadGateway, "proxy_configuration_error")
	equal(t, "token requests", w.tokens.Count(), 0)
	harness.WriteFile(t, file, secret)
	eventually(t, "recovery", func() bool { return w.try("/").status == http.StatusOK })
}

func TestAServerThatRestarts(t *testing.T) {
	t.Parallel()
	config := harness.OIDCConfig{TTL: 2, Clients: []map[string]any{{"client_id": "app", "client_secret": secret}}}
	server := harness.StartOIDCProvider(t, nil, config)
	w := &world{Sidecar: harness.New(t), tokens: server.TokenEndpoint}
	w.api = harness.NewAPI(t, nil, nil)
	w.Run(t, w.inline(options{}))
	w.wantOK(t)
	server.Stop()
	eventually(t, "no token", func() bool { return w.try("/").status != http.StatusOK })
	server.Restart(t, config)
	eventually(t, "recovery", func() bool { return w.try("/").status == http.StatusOK })
}
