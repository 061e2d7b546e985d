package oauth

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

// assertionIn verifies the assertion that arrived, and returns its header and claims.
func assertionIn(t *testing.T, got oauthtest.Request, key any, alg jose.SignatureAlgorithm) (jose.Header, map[string]any) {
	t.Helper()
	form := got.Form(t)
	if form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || form.Get("client_id") != "app" {
		t.Errorf("fields %v", form)
	}
	token, err := jwt.ParseSigned(form.Get("client_assertion"), []jose.SignatureAlgorithm{alg})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := token.Claims(key, &claims); err != nil {
		t.Fatalf("verifying: %v", err)
	}
	return token.Headers[0], claims
}

func TestPrivateKeyJWT(t *testing.T) {
	tests := []struct{ key, alg string }{
		{"rsa", "RS256"},
		{"rsa", "RS384"},
		{"rsa", "RS512"},
		{"rsa", "PS256"},
		{"rsa", "PS384"},
		{"rsa", "PS512"},
		{"ec256", "ES256"},
		{"ec384", "ES384"},
		{"ec521", "ES512"},
		{"ed25519", "EdDSA"},
	}
	for _, test := range tests {
		t.Run(test.alg, func(t *testing.T) {
			auth, err := newPrivateKeyJWTAuth(Credentials{ClientID: "app", Key: keystest.PEM(t, test.key), KeyID: "key-7", Alg: test.alg})
			if err != nil {
				t.Fatal(err)
			}
			checkAssertion(t, auth, keystest.Public(test.key), jose.SignatureAlgorithm(test.alg), "key-7")
		})
	}
}

func TestClientSecretJWT(t *testing.T) {
	for _, alg := range []jose.SignatureAlgorithm{"", jose.HS256, jose.HS384, jose.HS512} {
		auth, err := newSecretJWTAuth(Credentials{ClientID: "app", Secret: oauthtest.Secret, Alg: string(alg)})
		if err != nil {
			t.Fatal(err)
		}
		checkAssertion(t, auth, []byte(oauthtest.Secret), cmp.Or(alg, jose.HS256), "")
	}
}

// checkAssertion makes a request and checks what it proves.
func checkAssertion(t *testing.T, auth ClientAuth, key any, alg jose.SignatureAlgorithm, keyID string) {
	t.Helper()
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	r := basicRequest(endpoint.URL + "/token?tenant=1")
	r.Auth = auth
	before := time.Now().Unix()
	fetchOnce(t, r)
	header, claims := assertionIn(t, endpoint.Only(t), key, alg)
	if header.KeyID != keyID || header.ExtraHeaders["typ"] != "client-authentication+jwt" {
		t.Errorf("header %+v", header)
	}
	issued, _ := claims["iat"].(float64)
	if int64(issued) < before || int64(issued) > time.Now().Unix() || claims["exp"] != issued+60 {
		t.Errorf("from %v until %v", claims["iat"], claims["exp"])
	}
	if claims["iss"] != "app" || claims["sub"] != "app" || claims["aud"] != endpoint.URL+"/token?tenant=1" {
		t.Errorf("claims %v", claims)
	}
	if id, _ := claims["jti"].(string); len(id) < 22 {
		t.Errorf("jti %q", id)
	}
	if names := slices.Sorted(maps.Keys(claims)); !slices.Equal(names, []string{"aud", "exp", "iat", "iss", "jti", "sub"}) {
		t.Errorf("claims %v", names)
	}
}

func TestAssertionOptions(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	r := basicRequest(endpoint.URL)
	var err error
	r.Auth, err = newPrivateKeyJWTAuth(Credentials{
		ClientID: "app", Key: keystest.PEM(t, "ec256"), Audience: "https://issuer.example/", Lifetime: 5 * time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	fetchOnce(t, r)
	_, claims := assertionIn(t, endpoint.Only(t), keystest.Public("ec256"), jose.ES256)
	if claims["aud"] != "https://issuer.example/" || claims["exp"].(float64)-claims["iat"].(float64) != 300 {
		t.Errorf("claims %v", claims)
	}
}

// TestAssertionsAreNeverSentTwice: a server refuses a jti that it has seen.
func TestAssertionsAreNeverSentTwice(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	auth, err := newPrivateKeyJWTAuth(Credentials{ClientID: "app", Key: keystest.PEM(t, "ec256")})
	if err != nil {
		t.Fatal(err)
	}
	r := basicRequest(endpoint.URL)
	r.Auth = auth
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() { _, _ = r.Do(t.Context(), NewClient(http.DefaultTransport)) })
	}
	group.Wait()
	seen := make(map[any]bool)
	for _, got := range endpoint.All() {
		_, claims := assertionIn(t, got, keystest.Public("ec256"), jose.ES256)
		seen[claims["jti"]] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d different assertions in 20 requests", len(seen))
	}
}

func TestMountedAssertion(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	auth, err := methods["private_key_jwt"].New(Credentials{ClientID: "app", Assertion: "head.body.sig"})
	if err != nil {
		t.Fatal(err)
	}
	r := basicRequest(endpoint.URL)
	r.Auth = auth
	fetchOnce(t, r)
	form := endpoint.Only(t).Form(t)
	if form.Get("client_assertion") != "head.body.sig" || form.Get("client_assertion_type") != assertionType {
		t.Errorf("fields %v", form)
	}
	if _, err := newPrivateKeyJWTAuth(Credentials{Assertion: "two lines\nhunter2"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}

func TestUnusableSecretsForJWT(t *testing.T) {
	for _, test := range []struct{ secret, alg, say string }{
		{"hunter2", "", "at least 32 bytes"},
		{oauthtest.Secret[:47], "HS384", "at least 48 bytes"},
		{oauthtest.Secret[:63], "HS512", "at least 64 bytes"},
		{oauthtest.Secret, "RS256", "HS256"},
		{oauthtest.Secret, "none", "HS256"},
	} {
		if _, err := newSecretJWTAuth(Credentials{Secret: test.secret, Alg: test.alg}); err == nil || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v", test.alg, err)
		} else if strings.Contains(err.Error(), test.secret) {
			t.Errorf("the error quotes the secret: %v", err)
		}
	}
	for alg, least := range map[string]int{"HS256": 32, "HS384": 48, "HS512": 64} {
		if _, err := newSecretJWTAuth(Credentials{Secret: oauthtest.Secret[:least], Alg: alg}); err != nil {
			t.Error(err)
		}
	}
}

func TestHeaderOfAssertions(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	const spiffe = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
	r := basicRequest(endpoint.URL)
	var err error
	r.Auth, err = newPrivateKeyJWTAuth(Credentials{
		ClientID: "app", Key: keystest.PEM(t, "ec256"), AssertionTyp: "JWT", AssertionType: spiffe, CertificateThumbprint: "thumb",
	})
	if err != nil {
		t.Fatal(err)
	}
	fetchOnce(t, r)
	form := endpoint.Only(t).Form(t)
	if got := form.Get("client_assertion_type"); got != spiffe {
		t.Errorf("client_assertion_type %q", got)
	}
	parsed, err := jwt.ParseSigned(form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if header := parsed.Headers[0].ExtraHeaders; header["typ"] != "JWT" || header["x5t#S256"] != "thumb" {
		t.Errorf("header %v", header)
	}
}
