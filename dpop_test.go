package httphelper

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
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

func newTestDPoPKey(t *testing.T) *dpopKey {
	t.Helper()
	key, err := generateDPoPKey()
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

func mustProve(t *testing.T, key *dpopKey, method, target, accessToken string) map[string]any {
	t.Helper()
	proof, err := key.proof(method, mustParseURL(t, target), accessToken, "")
	if err != nil {
		t.Fatal(err)
	}
	_, claims := proofIn(t, proof)
	return claims
}

func TestDPoPProof(t *testing.T) {
	key := newTestDPoPKey(t)
	before := time.Now().Unix()
	claims := mustProve(t, key, "PATCH", "https://api.example/a%2Fb?secret=1#frag", "the-token")
	hash := sha256.Sum256([]byte("the-token"))
	if claims["htm"] != "PATCH" || claims["htu"] != "https://api.example/a%2Fb" || claims["ath"] != base64.RawURLEncoding.EncodeToString(hash[:]) {
		t.Errorf("claims %v", claims)
	}
	if issued, _ := claims["iat"].(float64); int64(issued) < before || int64(issued) > time.Now().Unix() {
		t.Errorf("iat %v", claims["iat"])
	}
	if _, ok := claims["nonce"]; ok {
		t.Errorf("claims %v", claims)
	}
	again := mustProve(t, key, "PATCH", "https://api.example/a", "")
	if _, ok := again["ath"]; ok || again["jti"] == claims["jti"] || len(again["jti"].(string)) < 22 {
		t.Errorf("claims %v", again)
	}
}

func TestDPoPTargets(t *testing.T) {
	key := newTestDPoPKey(t)
	for target, want := range map[string]string{
		"https://API.example":         "https://api.example/",
		"https://api.example:443/x/":  "https://api.example/x/",
		"https://api.example:8443/x":  "https://api.example:8443/x",
		"http://localhost:80/x":       "http://localhost/x",
		"http://localhost:443/x?y=1":  "http://localhost:443/x",
		"https://[::1]:443/x%20y/é":   "https://[::1]/x%20y/%C3%A9",
		"https://user@api.example/x#": "https://api.example/x",
	} {
		if claims := mustProve(t, key, "GET", target, ""); claims["htu"] != want {
			t.Errorf("%s: %v", target, claims["htu"])
		}
	}
}

func TestDPoPNoncesBelongToOrigins(t *testing.T) {
	var nonces dpopNonces
	learn := func(target, nonce string) bool {
		return nonces.set(mustParseURL(t, target), http.Header{"Dpop-Nonce": {nonce}})
	}
	if !learn("https://api.example/x", "n-1") || !learn("https://AS.example:443/token?q", "n-2") {
		t.Error("a nonce was not learnt")
	}
	for _, bad := range []string{"", "a b", "a\x00", "ä", strings.Repeat("n", maxDPoPNonce+1)} {
		if learn("https://api.example/", bad) {
			t.Errorf("nonce %.20q was learnt", bad)
		}
	}
	for target, want := range map[string]string{
		"https://api.example:443/other": "n-1", "https://as.example/": "n-2", "http://api.example/": "", "https://api.example:8443/": "",
	} {
		if got := nonces.get(mustParseURL(t, target)); got != want {
			t.Errorf("%s: nonce %q, want %q", target, got, want)
		}
	}
	learn("https://api.example/", "n-3")
	if got := nonces.get(mustParseURL(t, "https://api.example/")); got != "n-3" {
		t.Errorf("nonce %q", got)
	}
}

func TestDPoPKeyFromFile(t *testing.T) {
	for name, alg := range map[string]string{"ec256": "ES256", "rsa": "RS256", "ed25519": "EdDSA"} {
		jwk := jose.JSONWebKey{Key: testKeys()[name], KeyID: "private-name", Use: "sig"}
		for _, text := range [][]byte{testKeyPEM(t, name), testJWK(t, jwk)} {
			key, err := parseDPoPKey(string(text))
			if err != nil {
				t.Fatal(err)
			}
			proof, err := key.proof("GET", mustParseURL(t, "https://api.example/"), "", "")
			if err != nil {
				t.Fatal(err)
			}
			header, _ := proofIn(t, proof)
			thumbprint, _ := header.JSONWebKey.Thumbprint(crypto.SHA256)
			if header.Algorithm != alg || base64.RawURLEncoding.EncodeToString(thumbprint) != key.thumbprint {
				t.Errorf("%s: header %+v, thumbprint %s", name, header, key.thumbprint)
			}
		}
	}
	if _, err := parseDPoPKey("hunter2"); err == nil || !strings.HasPrefix(err.Error(), "dpop") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}

// TestProofsHoldNoPrivateKey looks at the very bytes that are sent.
func TestProofsHoldNoPrivateKey(t *testing.T) {
	proof, err := newTestDPoPKey(t).proof("GET", mustParseURL(t, "https://api.example/"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(proof, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var header struct {
		JWK map[string]string `json:"jwk"`
	}
	if err := json.Unmarshal(raw, &header); err != nil {
		t.Fatal(err)
	}
	if len(header.JWK) != 4 || header.JWK["kty"] != "EC" || header.JWK["d"] != "" {
		t.Errorf("jwk %v", header.JWK)
	}
}

const dpopAnswer = `{"access_token":"tok-1","token_type":"DPoP","expires_in":60}`

// wantingNonce is a token endpoint that wants this nonce in proofs.
func wantingNonce(t *testing.T, nonce string, status int) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		_, claims := proofIn(t, req.Header.Get("DPoP"))
		w.Header().Set("DPoP-Nonce", nonce)
		if claims["nonce"] != nonce {
			answering(status, `{"error":"use_dpop_nonce"}`)(w, req)
			return
		}
		_, _ = io.WriteString(w, dpopAnswer)
	}
}

func TestDPoPTokenRequest(t *testing.T) {
	endpoint := newEndpoint(t, answering(200, dpopAnswer))
	for _, format := range []string{"form", "query"} {
		r := basicRequest(endpoint.URL + "/token?tenant=1")
		r.dpop, r.format = newTestDPoPKey(t), format
		granted := fetchOnce(t, r)
		if granted.kind != "DPoP" || granted.key != r.dpop {
			t.Errorf("granted %+v", granted)
		}
	}
	for _, got := range endpoint.all() {
		if _, claims := proofIn(t, got.header.Get("DPoP")); claims["htm"] != "POST" || claims["htu"] != endpoint.URL+"/token" || claims["ath"] != nil {
			t.Errorf("claims %v", claims)
		}
	}
	bearer := newEndpoint(t, answering(200, goodAnswer))
	fetchOnce(t, basicRequest(bearer.URL))
	if bearer.only(t).header["Dpop"] != nil {
		t.Error("a proof without dpop")
	}
}

// TestDPoPNonce: the first request is told a nonce and is repeated once, with all proofs made
// anew; the nonce serves the next requests too.
func TestDPoPNonce(t *testing.T) {
	for _, status := range []int{400, 401} {
		endpoint := newEndpoint(t, wantingNonce(t, "n-1", status))
		r := basicRequest(endpoint.URL)
		r.dpop = newTestDPoPKey(t)
		auth, err := newPrivateKeyJWTAuth(authMaterial{clientID: "app", key: testKeyPEM(t, "ec256")})
		if err != nil {
			t.Fatal(err)
		}
		r.auth = auth
		fetchOnce(t, r)
		fetchOnce(t, r)
		requests := endpoint.all()
		if len(requests) != 3 {
			t.Fatalf("%d requests, want 3", len(requests))
		}
		seen := make(map[any]bool)
		for _, got := range requests {
			_, proof := proofIn(t, got.header.Get("DPoP"))
			_, assertion := assertionIn(t, got, publicOf("ec256"), jose.ES256)
			seen[proof["jti"]], seen[assertion["jti"]] = true, true
		}
		if len(seen) != 6 {
			t.Errorf("%d different jti in 3 requests", len(seen))
		}
	}
}

func TestDPoPNonceIsTriedOnce(t *testing.T) {
	changing := newEndpoint(t, func(w http.ResponseWriter, req *http.Request) {
		answering(400, `{"error":"use_dpop_nonce"}`, "DPoP-Nonce", req.Header.Get("DPoP")[len(req.Header.Get("DPoP"))-8:])(w, req)
	})
	r := basicRequest(changing.URL)
	r.dpop = newTestDPoPKey(t)
	if failure := failOnce(t, r); failure.class != classOutage || failure.code != "use_dpop_nonce" {
		t.Errorf("failure %+v", failure)
	}
	if got := len(changing.all()); got != 2 {
		t.Errorf("%d requests, want 2", got)
	}
	silent := newEndpoint(t, answering(400, `{"error":"use_dpop_nonce"}`))
	r.tokenURL = silent.URL
	failOnce(t, r)
	silent.only(t)
	bearer := newEndpoint(t, answering(400, `{"error":"use_dpop_nonce"}`, "DPoP-Nonce", "n-1"))
	failOnce(t, basicRequest(bearer.URL))
	bearer.only(t)
}

// TestDPoPNonceUnderConcurrency: a nonce that another request has just learnt does not keep a
// request from its own second try.
func TestDPoPNonceUnderConcurrency(t *testing.T) {
	endpoint := newEndpoint(t, wantingNonce(t, "n-1", 400))
	key := newTestDPoPKey(t)
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			r := basicRequest(endpoint.URL)
			r.dpop = key
			if _, err := r.do(t.Context(), newTokenClient(http.DefaultTransport)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// busyAPI wants a nonce of the first request, and gives another one to another request before the
// first is sent again.
type busyAPI struct {
	t     *testing.T
	token *grantedToken

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
			a.token.key.apiNonces.set(req.URL, http.Header{"Dpop-Nonce": {"another's"}})
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
	token := &grantedToken{value: "t1", kind: kindDPoP, key: newTestDPoPKey(t)}
	q := &forwardRequest{
		Context: t.Context(), options: &forwardOptions{field: "Authorization"},
		conn:   &forwardConnection{tracing: new(tracing)},
		target: &apiTarget{base: mustParseURL(t, "https://api.example")},
	}
	api := &busyAPI{t: t, token: token}
	transport := &forwardTransport{HTTPTransport: new(reverseproxy.HTTPTransport), roundTripper: api}
	res, err := transport.sendWithNonce(httptest.NewRequest(http.MethodGet, "/x", nil), q, token, nil)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(res, err)
	}
	if !slices.Equal(api.nonces, []any{nil, "mine"}) {
		t.Errorf("nonces %v", api.nonces)
	}
}
