package oauth

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
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

func newTestDPoPKey(t *testing.T) *DPoPKey {
	t.Helper()
	key, err := GenerateDPoPKey()
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

func mustProve(t *testing.T, key *DPoPKey, method, target, accessToken string) map[string]any {
	t.Helper()
	proof, err := key.Proof(method, mustParseURL(t, target), accessToken, "")
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
	var nonces Nonces
	learn := func(target, nonce string) bool {
		return nonces.Set(mustParseURL(t, target), http.Header{"Dpop-Nonce": {nonce}})
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
		if got := nonces.Get(mustParseURL(t, target)); got != want {
			t.Errorf("%s: nonce %q, want %q", target, got, want)
		}
	}
	learn("https://api.example/", "n-3")
	if got := nonces.Get(mustParseURL(t, "https://api.example/")); got != "n-3" {
		t.Errorf("nonce %q", got)
	}
}

func TestDPoPKeyFromFile(t *testing.T) {
	for name, alg := range map[string]string{"ec256": "ES256", "rsa": "RS256", "ed25519": "EdDSA"} {
		jwk := jose.JSONWebKey{Key: keystest.Key(name), KeyID: "private-name", Use: "sig"}
		for _, text := range [][]byte{keystest.PEM(t, name), keystest.JWK(t, jwk)} {
			key, err := ParseDPoPKey(string(text))
			if err != nil {
				t.Fatal(err)
			}
			proof, err := key.Proof("GET", mustParseURL(t, "https://api.example/"), "", "")
			if err != nil {
				t.Fatal(err)
			}
			header, _ := proofIn(t, proof)
			thumbprint, _ := header.JSONWebKey.Thumbprint(crypto.SHA256)
			if header.Algorithm != alg || base64.RawURLEncoding.EncodeToString(thumbprint) != key.Thumbprint {
				t.Errorf("%s: header %+v, thumbprint %s", name, header, key.Thumbprint)
			}
		}
	}
	if _, err := ParseDPoPKey("hunter2"); err == nil || !strings.HasPrefix(err.Error(), "dpop") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}

// TestProofsHoldNoPrivateKey looks at the very bytes that are sent.
func TestProofsHoldNoPrivateKey(t *testing.T) {
	proof, err := newTestDPoPKey(t).Proof("GET", mustParseURL(t, "https://api.example/"), "", "")
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
			oauthtest.Responds(status, `{"error":"use_dpop_nonce"}`)(w, req)
			return
		}
		_, _ = io.WriteString(w, dpopAnswer)
	}
}

func TestDPoPTokenRequest(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, dpopAnswer))
	for _, format := range []string{"form", "query"} {
		r := basicRequest(endpoint.URL + "/token?tenant=1")
		r.DPoP, r.Format = newTestDPoPKey(t), format
		granted := fetchOnce(t, r)
		if granted.HeaderPrefix() != "DPoP " || granted.DPoP != r.DPoP {
			t.Errorf("granted %+v", granted)
		}
	}
	for _, got := range endpoint.All() {
		if _, claims := proofIn(t, got.Header.Get("DPoP")); claims["htm"] != "POST" || claims["htu"] != endpoint.URL+"/token" || claims["ath"] != nil {
			t.Errorf("claims %v", claims)
		}
	}
	bearer := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	fetchOnce(t, basicRequest(bearer.URL))
	if bearer.Only(t).Header["Dpop"] != nil {
		t.Error("a proof without dpop")
	}
}

// TestDPoPNonce: the first request is told a nonce and is repeated once, with all proofs made
// again; the nonce serves the next requests too.
func TestDPoPNonce(t *testing.T) {
	for _, status := range []int{400, 401} {
		endpoint := oauthtest.NewEndpoint(t, wantingNonce(t, "n-1", status))
		r := basicRequest(endpoint.URL)
		r.DPoP = newTestDPoPKey(t)
		auth, err := newPrivateKeyJWTAuth(Credentials{ClientID: "app", Key: keystest.PEM(t, "ec256")})
		if err != nil {
			t.Fatal(err)
		}
		r.Auth = auth
		fetchOnce(t, r)
		fetchOnce(t, r)
		requests := endpoint.All()
		if len(requests) != 3 {
			t.Fatalf("%d requests, want 3", len(requests))
		}
		seen := make(map[any]bool)
		for _, got := range requests {
			_, proof := proofIn(t, got.Header.Get("DPoP"))
			_, assertion := assertionIn(t, got, keystest.Public("ec256"), jose.ES256)
			seen[proof["jti"]], seen[assertion["jti"]] = true, true
		}
		if len(seen) != 6 {
			t.Errorf("%d different jti in 3 requests", len(seen))
		}
	}
}

func TestDPoPNonceIsTriedOnce(t *testing.T) {
	changing := oauthtest.NewEndpoint(t, func(w http.ResponseWriter, req *http.Request) {
		oauthtest.Responds(400, `{"error":"use_dpop_nonce"}`, "DPoP-Nonce", req.Header.Get("DPoP")[len(req.Header.Get("DPoP"))-8:])(w, req)
	})
	r := basicRequest(changing.URL)
	r.DPoP = newTestDPoPKey(t)
	if failure := failOnce(t, r); failure.Class != ClassConfiguration || failure.Code != "use_dpop_nonce" {
		t.Errorf("failure %+v", failure)
	}
	if got := len(changing.All()); got != 2 {
		t.Errorf("%d requests, want 2", got)
	}
	silent := oauthtest.NewEndpoint(t, oauthtest.Responds(400, `{"error":"use_dpop_nonce"}`))
	r.TokenURL = silent.URL
	failOnce(t, r)
	silent.Only(t)
	bearer := oauthtest.NewEndpoint(t, oauthtest.Responds(400, `{"error":"use_dpop_nonce"}`, "DPoP-Nonce", "n-1"))
	failOnce(t, basicRequest(bearer.URL))
	bearer.Only(t)
}

// TestDPoPNonceUnderConcurrency: a nonce that another request has just learnt does not keep a
// request from its own second try.
func TestDPoPNonceUnderConcurrency(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, wantingNonce(t, "n-1", 400))
	key := newTestDPoPKey(t)
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			r := basicRequest(endpoint.URL)
			r.DPoP = key
			if _, err := r.Do(t.Context(), NewClient(http.DefaultTransport)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}
