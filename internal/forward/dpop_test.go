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

// nonceIn returns the nonce in a DPoP proof; nil: there is none. Package oauth tests the rest of it.
func nonceIn(t *testing.T, proof string) any {
	t.Helper()
	parsed, err := jwt.ParseSigned(proof, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		t.Fatal(err)
	}
	return claims["nonce"]
}

// busyAPI requires a nonce of the first request, and gives another nonce to another request before the
// first is sent again.
type busyAPI struct {
	t     *testing.T
	token *oauth.Token

	nonces []any // in the proofs
}

func (a *busyAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	a.nonces = append(a.nonces, nonceIn(a.t, req.Header.Get("DPoP")))
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

// closing is an empty body that calls itself when it is closed.
type closing func()

func (closing) Read([]byte) (int, error) { return 0, io.EOF }

func (c closing) Close() error {
	c()
	return nil
}

// TestRequestIsRepeatedWithItsOwnNonce and not with one that another request got meanwhile.
func TestRequestIsRepeatedWithItsOwnNonce(t *testing.T) {
	key, err := oauth.GenerateDPoPKey()
	if err != nil {
		t.Fatal(err)
	}
	token := &oauth.Token{Value: "t1", DPoP: key}
	req := httptest.NewRequest(http.MethodGet, "/x", nil)
	q := &Request{
		Context: t.Context(), options: &Options{Field: "Authorization"}, received: req,
		Conn:   &Connection{Tracing: new(telemetry.Tracing)},
		Target: &Target{Base: &url.URL{Scheme: "https", Host: "api.example"}},
	}
	api := &busyAPI{t: t, token: token}
	transport := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), Base: api}
	res, err := transport.sendOnce(req, q, token, nil, "")
	if err == nil {
		res, err = transport.sendWithNonce(req, q, token, nil, res)
	}
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res, err)
	}
	if !slices.Equal(api.nonces, []any{nil, "mine"}) {
		t.Errorf("nonces %v", api.nonces)
	}
}
