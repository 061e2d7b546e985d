package httphelper

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func revokeAt(t *testing.T, r *tokenRequest, endpoint string) error {
	t.Helper()
	return r.revoke(t.Context(), newTokenClient(http.DefaultTransport), endpoint, &grantedToken{value: "tok-1"})
}

// TestRevocation: the token travels in the body and the client proves itself as it does for a
// token, whatever format token requests have.
func TestRevocation(t *testing.T) {
	for name, auth := range everyAuth(t) {
		tokens := newEndpoint(t, answering(200, goodAnswer))
		endpoint := newEndpoint(t, answering(200, ""))
		r := &tokenRequest{tokenURL: tokens.URL, clientID: "a b", auth: auth, format: "json"}
		if err := revokeAt(t, r, endpoint.URL+"/revoke?x=1"); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fetchOnce(t, &tokenRequest{tokenURL: tokens.URL, clientID: "a b", auth: auth})
		got, like := endpoint.only(t), tokens.only(t)
		form := got.form(t)
		if got.method != "POST" || got.query != "x=1" || form.Get("token") != "tok-1" || form.Get("token_type_hint") != "access_token" || form.Has("grant_type") {
			t.Errorf("%s: %+v", name, got)
		}
		if got.header.Get("Authorization") != like.header.Get("Authorization") || !sameProof(form, like.form(t)) {
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
	endpoint := newEndpoint(t, answering(200, ""))
	auth, err := newPrivateKeyJWTAuth(authMaterial{clientID: "app", key: testKeyPEM(t, "ec256")})
	if err != nil {
		t.Fatal(err)
	}
	r := &tokenRequest{tokenURL: "https://auth.example/token", clientID: "app", auth: auth}
	if err := revokeAt(t, r, endpoint.URL); err != nil {
		t.Fatal(err)
	}
	if _, claims := assertionIn(t, endpoint.only(t), publicOf("ec256"), jose.ES256); claims["aud"] != "https://auth.example/token" {
		t.Errorf("claims %v", claims)
	}
}

// TestRevokedWithoutAnAnswer: some servers say so with 204.
func TestRevokedWithoutAnAnswer(t *testing.T) {
	if err := revokeAt(t, basicRequest("https://auth.example/token"), newEndpoint(t, answering(204, "")).URL); err != nil {
		t.Error(err)
	}
}

func TestFailedRevocation(t *testing.T) {
	r := basicRequest("https://auth.example/token")
	for _, status := range []int{302, 400, 503} {
		err := revokeAt(t, r, newEndpoint(t, answering(status, `{"error":"invalid_client"}`, "Location", "https://evil.example/")).URL)
		if err == nil || strings.Contains(err.Error(), "tok-1") {
			t.Errorf("%d: %v", status, err)
		}
	}
	closed := newEndpoint(t, answering(200, ""))
	closed.Close()
	for _, endpoint := range []string{closed.URL + "?key=hunter2", "https://auth.example/%zz?key=hunter2"} {
		if err := revokeAt(t, r, endpoint); err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}
