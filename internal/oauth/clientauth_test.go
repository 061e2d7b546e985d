package oauth

import (
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

var publicAuth = always(AuthParams{Style: oauth2.AuthStyleInParams})

func basicAuth(secret string) ClientAuth {
	return always(AuthParams{Style: oauth2.AuthStyleInHeader, Secret: secret})
}

func postAuth(secret string) ClientAuth {
	return always(AuthParams{Style: oauth2.AuthStyleInParams, Secret: secret})
}

// everyAuth makes each authentication that there is.
func everyAuth(t *testing.T) map[string]ClientAuth {
	t.Helper()
	auths := make(map[string]ClientAuth)
	material := Credentials{ClientID: "app", Secret: oauthtest.Secret, Key: keystest.PEM(t, "ec256")}
	for name, method := range methods {
		auth, err := method.New(material)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		auths[name] = auth
	}
	auths["assertion file"] = always(AssertionParams("mounted.assertion.sig", ""))
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
			endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
			r := basicRequest(endpoint.URL)
			r.Auth, r.Format = auth, format
			fetchOnce(t, r)
			if got := proofOf(t, endpoint.Only(t)); !reflect.DeepEqual(got, want[name]) {
				t.Errorf("%s, %s: %v, want %v", name, format, got, want[name])
			}
		}
	}
}

// proofOf lists what a request says of the client, sorted.
func proofOf(t *testing.T, got oauthtest.Request) []string {
	t.Helper()
	fields, err := url.ParseQuery(got.Query + "&" + got.Body)
	if err != nil {
		t.Fatal(err)
	}
	var proof []string
	if got.Header.Get("Authorization") != "" {
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
		endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(400, `{"error":"invalid_client"}`))
		r := basicRequest(endpoint.URL)
		r.Auth = auth
		if failure := failOnce(t, r); failure.Class != ClassConfiguration || failure.Code != "invalid_client" {
			t.Errorf("%s: %+v", name, failure)
		}
		endpoint.Only(t)
		r.TokenURL = oauthtest.NewEndpoint(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }).URL
		if failure := failOnce(t, r); failure.Class != ClassOutage || !failure.Transient {
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
	for name, m := range methods {
		got[name] = needs{m.NeedsSecret, m.NeedsKey, m.NeedsCertificate, m.Signs}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func TestUnknownAuthMethod(t *testing.T) {
	_, err := Method("client_secret_magic")
	if err == nil || !strings.Contains(err.Error(), "client_secret_post") {
		t.Errorf("error %v", err)
	}
	if method, err := Method(""); err != nil || !method.NeedsSecret {
		t.Errorf("default: %+v %v", method, err)
	}
}

func TestRawBasicCannotCarryAColon(t *testing.T) {
	if _, err := newBasicAuth(Credentials{ClientID: "a:b", RawBasic: true}); err == nil {
		t.Error("no error")
	}
	if _, err := newBasicAuth(Credentials{ClientID: "a:b"}); err != nil {
		t.Error(err)
	}
}

// newStampAuth returns a method that nobody has: a stamp among the fields.
func newStampAuth(c Credentials) (ClientAuth, error) {
	return always(AuthParams{Style: oauth2.AuthStyleInParams, fields: url.Values{"stamp": {"stamp of " + c.Secret}}}), nil
}

// TestANewMethodIsOneFunctionAndOneRegistration: the rest of the code needs not know it.
func TestANewMethodIsOneFunctionAndOneRegistration(t *testing.T) {
	methods["stamp"] = AuthMethod{
		NeedsSecret: true,
		otherNames:  []string{"rubber_stamp"},
		New:         newStampAuth,
	}
	t.Cleanup(func() { delete(methods, "stamp") })

	if err := (&serverMetadata{AuthMethods: []string{"rubber_stamp"}}).checkMethod("stamp"); err != nil {
		t.Error(err)
	}

	method, err := Method("stamp")
	if err != nil || !slices.Contains(MethodNames(), "stamp") {
		t.Fatalf("%v, methods %v", err, MethodNames())
	}
	auth, err := method.New(Credentials{ClientID: "app", Secret: "hunter2"})
	if err != nil {
		t.Fatal(err)
	}
	tokens := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	fetchOnce(t, &Request{TokenURL: tokens.URL, ClientID: "app", Auth: auth})
	if form := tokens.Only(t).Form(t); form.Get("stamp") != "stamp of hunter2" || form.Get("client_id") != "app" || form.Has("client_secret") {
		t.Errorf("form %v", form)
	}
}
