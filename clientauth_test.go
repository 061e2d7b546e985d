package httphelper

import (
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/oauth2"
)

// testSecret is long enough for every HMAC.
var testSecret = strings.Repeat("0123456789abcdef", 4)

// everyAuth makes each authentication that there is.
func everyAuth(t *testing.T) map[string]clientAuth {
	t.Helper()
	auths := make(map[string]clientAuth)
	material := authMaterial{clientID: "app", secret: testSecret, key: testKeyPEM(t, "ec256")}
	for name, method := range authMethods {
		auth, err := method.make(material)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		auths[name] = auth
	}
	auths["assertion file"] = mountedAssertion("mounted.assertion.sig")
	return auths
}

// TestExactlyOneAuthentication: whatever the method and format, nothing of another one is sent.
func TestExactlyOneAuthentication(t *testing.T) {
	want := map[string][]string{
		"client_secret_basic": {"Authorization"},
		"client_secret_post":  {"client_id", "client_secret"},
		"client_secret_jwt":   {"client_assertion", "client_assertion_type", "client_id"},
		"private_key_jwt":     {"client_assertion", "client_assertion_type", "client_id"},
		"assertion file":      {"client_assertion", "client_assertion_type", "client_id"},
		"tls_client_auth":     {"client_id"},
		"none":                {"client_id"},
	}
	for name, auth := range everyAuth(t) {
		for _, format := range []string{"form", "query"} {
			endpoint := newEndpoint(t, answering(200, goodAnswer))
			r := basicRequest(endpoint.URL)
			r.auth, r.format = auth, format
			fetchOnce(t, r)
			if got := proofOf(t, endpoint.only(t)); !reflect.DeepEqual(got, want[name]) {
				t.Errorf("%s, %s: %v, want %v", name, format, got, want[name])
			}
		}
	}
}

// proofOf lists what a request says of the client, sorted.
func proofOf(t *testing.T, got wireRequest) []string {
	t.Helper()
	fields, err := url.ParseQuery(got.query + "&" + got.body)
	if err != nil {
		t.Fatal(err)
	}
	var proof []string
	if got.header.Get("Authorization") != "" {
		proof = append(proof, "Authorization")
	}
	for _, field := range []string{"client_assertion", "client_assertion_type", "client_id", "client_secret"} {
		if fields.Get(field) != "" {
			proof = append(proof, field)
		}
	}
	return proof
}

// TestFailuresWithEveryMethod: a refusal is one request and the same failure for each method.
func TestFailuresWithEveryMethod(t *testing.T) {
	for name, auth := range everyAuth(t) {
		endpoint := newEndpoint(t, answering(400, `{"error":"invalid_client"}`))
		r := basicRequest(endpoint.URL)
		r.auth = auth
		if failure := failOnce(t, r); failure.class != classConfiguration || failure.code != "invalid_client" {
			t.Errorf("%s: %+v", name, failure)
		}
		endpoint.only(t)
		r.tokenURL = newEndpoint(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }).URL
		if failure := failOnce(t, r); failure.class != classOutage || !failure.transient {
			t.Errorf("%s: %+v", name, failure)
		}
	}
}

func TestWhatMethodsNeed(t *testing.T) {
	type needs struct{ secret, key, certificate, signs bool }
	want := map[string]needs{
		"client_secret_basic": {secret: true},
		"client_secret_post":  {secret: true},
		"client_secret_jwt":   {secret: true, signs: true},
		"private_key_jwt":     {key: true, signs: true},
		"tls_client_auth":     {certificate: true},
		"none":                {},
	}
	got := make(map[string]needs)
	for name, m := range authMethods {
		got[name] = needs{m.needsSecret, m.needsKey, m.needsCertificate, m.signs}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestUnknownAuthMethod(t *testing.T) {
	_, err := lookupAuthMethod("client_secret_magic")
	if err == nil || !strings.Contains(err.Error(), "client_secret_post") {
		t.Errorf("error %v", err)
	}
	if method, err := lookupAuthMethod(""); err != nil || !method.needsSecret {
		t.Errorf("default: %+v %v", method, err)
	}
}

func TestRawBasicCannotCarryAColon(t *testing.T) {
	if _, err := newBasicAuth(authMaterial{clientID: "a:b", rawBasic: true}); err == nil {
		t.Error("no error")
	}
	if _, err := newBasicAuth(authMaterial{clientID: "a:b"}); err != nil {
		t.Error(err)
	}
}

// TestCertificateNeedsTLS: over http nothing would be proved.
func TestCertificateNeedsTLS(t *testing.T) {
	certFile, keyFile := writeCertificate(t, t.TempDir(), "first")
	issuer := newIssuer(t, oauthPlace, strings.Replace(plainMetadata, "{", `{"token_endpoint_auth_methods_supported":["tls_client_auth"],`, 1))
	caddyfile := func(endpoint string) string {
		return "SITE {\n\thttp_helper http://127.0.0.1:1 {\n" + endpoint + "\nauth_method tls_client_auth\nclient_id app\nclient_certificate " + certFile + " " + keyFile + "\n}\n}\n"
	}
	err := tryCaddyfile(onPort(caddyfile("token_url http://127.0.0.1:1/token"), "http://"+freeAddress(t)))
	if err == nil || !strings.Contains(err.Error(), "no client certificate is shown") {
		t.Errorf("error %v", err)
	}
	site := runSidecar(t, caddyfile("issuer "+issuer.URL))
	resp, _ := call(t, http.MethodGet, site, nil)
	if status := resp.Header.Get("Proxy-Status"); resp.StatusCode != http.StatusBadGateway || !strings.Contains(status, "no client certificate is shown") {
		t.Errorf("status %d, %q", resp.StatusCode, status)
	}
	if got := len(issuer.all()); got != 1 {
		t.Errorf("%d requests, want only that for the metadata", got)
	}
}

// stampAuth is a method that nobody has: a stamp among the fields.
type stampAuth struct{ stamp string }

func (a stampAuth) credentials(string) (credentials, error) {
	return credentials{style: oauth2.AuthStyleInParams, fields: url.Values{"stamp": {a.stamp}}}, nil
}

// TestANewMethodIsOneTypeAndOneRegistration: the rest of the code needs not know it.
func TestANewMethodIsOneTypeAndOneRegistration(t *testing.T) {
	authMethods["stamp"] = authMethod{
		needsSecret: true,
		otherNames:  []string{"rubber_stamp"},
		make:        func(m authMaterial) (clientAuth, error) { return stampAuth{"stamp of " + m.secret}, nil },
	}
	t.Cleanup(func() { delete(authMethods, "stamp") })

	if err := (&serverMetadata{AuthMethods: []string{"rubber_stamp"}}).checkMethod("stamp"); err != nil {
		t.Error(err)
	}

	method, err := lookupAuthMethod("stamp")
	if err != nil || !slices.Contains(authMethodNames(), "stamp") {
		t.Fatalf("%v, methods %v", err, authMethodNames())
	}
	auth, err := method.make(authMaterial{clientID: "app", secret: "hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	tokens := newEndpoint(t, answering(200, goodAnswer))
	fetchOnce(t, &tokenRequest{tokenURL: tokens.URL, clientID: "app", auth: auth})
	if form := tokens.only(t).form(t); form.Get("stamp") != "stamp of hunter2" || form.Get("client_id") != "app" || form.Has("client_secret") {
		t.Errorf("form %v", form)
	}
}
