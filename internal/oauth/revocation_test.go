package oauth

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

func revokeAt(t *testing.T, r *Request, endpoint string) error {
	t.Helper()
	return r.Revoke(t.Context(), NewClient(http.DefaultTransport), endpoint, &Token{Value: "tok-1"})
}

// TestRevocation: the token travels in the body and the client proves itself as it does for a
// token, whatever format token requests have.
func TestRevocation(t *testing.T) {
	for name, auth := range everyAuth(t) {
		tokens := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
		endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, ""))
		r := &Request{TokenURL: tokens.URL, ClientID: "a b", Auth: auth, Format: "json"}
		if err := revokeAt(t, r, endpoint.URL+"/revoke?x=1"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fetchOnce(t, &Request{TokenURL: tokens.URL, ClientID: "a b", Auth: auth})
		got, like := endpoint.Only(t), tokens.Only(t)
		form := got.Form(t)
		if got.Method != "POST" || got.Query != "x=1" || form.Get("token") != "tok-1" || form.Get("token_type_hint") != "access_token" || form.Has("grant_type") {
			t.Errorf("%s: %+v", name, got)
		}
		if got.Header.Get("Authorization") != like.Header.Get("Authorization") || !sameProof(form, like.Form(t)) {
			t.Errorf("%s: %+v, but a token request %+v", name, got, like)
		}
	}
}

func sameProof(a, b url.Values) bool {
	for _, field := range []string{"client_id", "client_secret", "client_assertion_type"} {
		if a.Get(field) != b.Get(field) {
			return false
		}
	}
	return a.Has("client_assertion") == b.Has("client_assertion")
}

// TestRevocationAudience: the audience is the authorization server's, as it knows it from tokens.
func TestRevocationAudience(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, ""))
	auth, err := newPrivateKeyJWTAuth(Credentials{ClientID: "app", Key: keystest.PEM(t, "ec256")})
	if err != nil {
		t.Fatal(err)
	}
	r := &Request{TokenURL: "https://auth.example/token", ClientID: "app", Auth: auth}
	if err := revokeAt(t, r, endpoint.URL); err != nil {
		t.Fatal(err)
	}
	if _, claims := assertionIn(t, endpoint.Only(t), keystest.Public("ec256"), jose.ES256); claims["aud"] != "https://auth.example/token" {
		t.Errorf("claims %v", claims)
	}
}

// TestRevokedWithoutAResponse: some servers say so with 204.
func TestRevokedWithoutAResponse(t *testing.T) {
	if err := revokeAt(t, basicRequest("https://auth.example/token"), oauthtest.NewEndpoint(t, oauthtest.Responds(204, "")).URL); err != nil {
		t.Error(err)
	}
}

func TestFailedRevocation(t *testing.T) {
	r := basicRequest("https://auth.example/token")
	for _, status := range []int{302, 400, 503} {
		err := revokeAt(t, r, oauthtest.NewEndpoint(t, oauthtest.Responds(status, `{"error":"invalid_client"}`, "Location", "https://evil.example/")).URL)
		if err == nil || strings.Contains(err.Error(), "tok-1") {
			t.Errorf("%d: %v", status, err)
		}
	}
	closed := oauthtest.NewEndpoint(t, oauthtest.Responds(200, ""))
	closed.Close()
	for _, endpoint := range []string{closed.URL + "?key=hunter2", "https://auth.example/%zz?key=hunter2"} {
		if err := revokeAt(t, r, endpoint); err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}
