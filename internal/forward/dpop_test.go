package forward

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// proofIn verifies a DPoP proof with the key that it contains (RFC 9449 §4.3).
func proofIn(t *testing.T, proof string) (jose.Header, map[string]any) {
	t.Helper()
	token, err := jwt.ParseSigned(proof, []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.EdDSA})
	if err != nil {
		t.Fatal(err)
	}
	header := token.Headers[0]
	if header.ExtraHeaders["typ"] != "dpop+jwt" || header.JSONWebKey == nil || !header.JSONWebKey.IsPublic() || header.JSONWebKey.KeyID != "" {
		t.Fatalf("header %+v", header)
	}
	var claims map[string]any
	if err := token.Claims(header.JSONWebKey.Key, &claims); err != nil {
		t.Fatal(err)
	}
	return header, claims
}

func newTestDPoPKey(t *testing.T) *oauth.DPoPKey {
	t.Helper()
	key, err := oauth.GenerateDPoPKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mustParseURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// busyAPI wants a nonce of the first request, and gives another one to another request before the
// first is sent again.
type busyAPI struct {
	t     *testing.T
	token *oauth.Token

	nonces []any // in the proofs
}

func (a *busyAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	_, claims := proofIn(a.t, req.Header.Get("DPoP"))
	a.nonces = append(a.nonces, claims["nonce"])
	res := &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody}
	if len(a.nonces) == 1 {
		res.StatusCode = http.StatusUnauthorized
		res.Header.Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		res.Header.Set("DPoP-Nonce", "mine")
		res.Body = closing(func() {
			a.token.DPoP.APINonces.Set(req.URL, http.Header{"Dpop-Nonce": {"another's"}})
		})
	}
	return res, nil
}

// closing is an empty body that does something when it is closed.
type closing func()

func (closing) Read([]byte) (int, error) { return 0, io.EOF }

func (c closing) Close() error {
	c()
	return nil
}

// TestRequestIsRepeatedWithItsOwnNonce: not with one that another request was told meanwhile.
func TestRequestIsRepeatedWithItsOwnNonce(t *testing.T) {
	token := &oauth.Token{Value: "t1", Type: oauth.TypeDPoP, DPoP: newTestDPoPKey(t)}
	q := &Request{
		Context: t.Context(), options: &Options{Field: "Authorization"},
		Conn:   &Connection{Tracing: new(telemetry.Tracing)},
		Target: &Target{Base: mustParseURL(t, "https://api.example")},
	}
	api := &busyAPI{t: t, token: token}
	transport := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), Base: api}
	res, err := transport.sendWithNonce(httptest.NewRequest(http.MethodGet, "/x", nil), q, token, nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res, err)
	}
	if !slices.Equal(api.nonces, []any{nil, "mine"}) {
		t.Errorf("nonces %v", api.nonces)
	}
}
