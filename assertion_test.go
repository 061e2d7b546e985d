package httphelper

import (
	"cmp"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// assertionIn verifies the assertion that arrived, and returns its header and claims.
func assertionIn(t *testing.T, got wireRequest, key any, alg jose.SignatureAlgorithm) (jose.Header, map[string]any) {
	t.Helper()
	form := got.form(t)
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
			auth, err := newPrivateKeyJWTAuth(authMaterial{clientID: "app", key: testKeyPEM(t, test.key), keyID: "key-7", alg: test.alg})
			if err != nil {
				t.Fatal(err)
			}
			checkAssertion(t, auth, publicOf(test.key), jose.SignatureAlgorithm(test.alg), "key-7")
		})
	}
}

func TestClientSecretJWT(t *testing.T) {
	for _, alg := range []jose.SignatureAlgorithm{"", jose.HS256, jose.HS384, jose.HS512} {
		auth, err := newSecretJWTAuth(authMaterial{clientID: "app", secret: testSecret, alg: string(alg)})
		if err != nil {
			t.Fatal(err)
		}
		checkAssertion(t, auth, []byte(testSecret), cmp.Or(alg, jose.HS256), "")
	}
}

// checkAssertion makes a request and checks what it proves.
func checkAssertion(t *testing.T, auth clientAuth, key any, alg jose.SignatureAlgorithm, keyID string) {
	t.Helper()
	endpoint := newEndpoint(t, answering(200, goodAnswer))
	r := basicRequest(endpoint.URL + "/token?tenant=1")
	r.auth = auth
	before := time.Now().Unix()
	fetchOnce(t, r)
	header, claims := assertionIn(t, endpoint.only(t), key, alg)
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
	endpoint := newEndpoint(t, answering(200, goodAnswer))
	r := basicRequest(endpoint.URL)
	var err error
	r.auth, err = newPrivateKeyJWTAuth(authMaterial{
		clientID: "app", key: testKeyPEM(t, "ec256"), audience: "https://issuer.example/", lifetime: 5 * time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	fetchOnce(t, r)
	_, claims := assertionIn(t, endpoint.only(t), publicOf("ec256"), jose.ES256)
	if claims["aud"] != "https://issuer.example/" || claims["exp"].(float64)-claims["iat"].(float64) != 300 {
		t.Errorf("claims %v", claims)
	}
}

// TestAssertionsAreNeverSentTwice: a server refuses a jti that it has seen.
func TestAssertionsAreNeverSentTwice(t *testing.T) {
	endpoint := newEndpoint(t, answering(200, goodAnswer))
	auth, err := newPrivateKeyJWTAuth(authMaterial{clientID: "app", key: testKeyPEM(t, "ec256")})
	if err != nil {
		t.Fatal(err)
	}
	r := basicRequest(endpoint.URL)
	r.auth = auth
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() { _, _ = r.do(t.Context(), newTokenClient(http.DefaultTransport)) })
	}
	group.Wait()
	seen := make(map[any]bool)
	for _, got := range endpoint.all() {
		_, claims := assertionIn(t, got, publicOf("ec256"), jose.ES256)
		seen[claims["jti"]] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d different assertions in 20 requests", len(seen))
	}
}

func TestMountedAssertion(t *testing.T) {
	endpoint := newEndpoint(t, answering(200, goodAnswer))
	auth, err := authMethods["private_key_jwt"].make(authMaterial{clientID: "app", assertion: "head.body.sig"})
	if err != nil {
		t.Fatal(err)
	}
	r := basicRequest(endpoint.URL)
	r.auth = auth
	fetchOnce(t, r)
	form := endpoint.only(t).form(t)
	if form.Get("client_assertion") != "head.body.sig" || form.Get("client_assertion_type") != assertionType {
		t.Errorf("fields %v", form)
	}
	if _, err := newMountedAssertion(authMaterial{assertion: "two lines\nhunter2"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v", err)
	}
}

func TestUnusableSecretsForJWT(t *testing.T) {
	for _, test := range []struct{ secret, alg, say string }{
		{"hunter2", "", "at least 32 bytes"},
		{testSecret[:47], "HS384", "at least 48 bytes"},
		{testSecret[:63], "HS512", "at least 64 bytes"},
		{testSecret, "RS256", "HS256"},
		{testSecret, "none", "HS256"},
	} {
		if _, err := newSecretJWTAuth(authMaterial{secret: test.secret, alg: test.alg}); err == nil || !strings.Contains(err.Error(), test.say) {
			t.Errorf("%s: %v", test.alg, err)
		} else if strings.Contains(err.Error(), test.secret) {
			t.Errorf("the error quotes the secret: %v", err)
		}
	}
	for alg, least := range map[string]int{"HS256": 32, "HS384": 48, "HS512": 64} {
		if _, err := newSecretJWTAuth(authMaterial{secret: testSecret[:least], alg: alg}); err != nil {
			t.Error(err)
		}
	}
}

// TestUnusableCredentialsNameTheOption: the one that was used, when the config is loaded.
func TestUnusableCredentialsNameTheOption(t *testing.T) {
	dir := t.TempDir()
	putFile(t, filepath.Join(dir, "short"), "hunter2")
	putFile(t, filepath.Join(dir, "weak"), string(testKeyPEM(t, "weak")))
	putFile(t, filepath.Join(dir, "key"), string(testKeyPEM(t, "ec256")))
	for options, want := range map[string]string{
		"client_secret_jwt\nclient_secret_file $DIR/short":             "client_secret_file: HS256 needs",
		"client_secret_jwt\nclient_secret {file.$DIR/short}":           "client_secret: HS256 needs",
		"private_key_jwt\nclient_key_file $DIR/short":                  "client_key_file: neither",
		"private_key_jwt\nclient_key_file $DIR/weak":                   "client_key_file: an RSA key",
		"private_key_jwt\nclient_key {file.$DIR/weak}":                 "client_key: an RSA key",
		"private_key_jwt\nclient_key_file $DIR/key\nsigning_alg ES512": "client_key_file: its algorithm",
		"private_key_jwt\nclient_assertion_file $DIR/key":              "client_assertion_file: not an assertion",
	} {
		err := validate(t, inGlobal(strings.ReplaceAll("connection orders {\nbase_url https://api.example\ntoken_url https://auth.example/token\nclient_id app\nauth_method "+options+"\n}", "$DIR", dir)))
		if err == nil || !strings.Contains(err.Error(), "connection orders: "+want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %v", options, err)
		}
	}
}
