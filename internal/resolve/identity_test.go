package resolve

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

// identityOf returns the identity of a connection's token request as it is now. It wants a request.
func identityOf(t *testing.T, s *Spec) []byte {
	t.Helper()
	r := newConnection(t, s).resolver(t.Context())
	request, err := r.tokenRequest()
	if err != nil {
		t.Fatal(err)
	}
	r.goOffline()
	return r.identity(request)
}

// change changes one value of a spec.
type change func(*testing.T, *Spec)

// identityChanges are changes of each field that must give another identity, by the names of the fields.
func identityChanges() map[string]change {
	return map[string]change{
		"ClientID":     func(t *testing.T, s *Spec) { s.ClientID = parse(t, "other") },
		"ClientSecret": func(t *testing.T, s *Spec) { s.SecretFile, s.ClientSecret = nil, parse(t, "other-secret") },
		"SecretFile":   func(t *testing.T, s *Spec) { s.SecretFile = parse(t, "/other/secret") },
		"KeyFile":      func(t *testing.T, s *Spec) { s.KeyFile, s.KeyCertificateFile = parse(t, "/other/key"), nil },
		"ClientKey": func(t *testing.T, s *Spec) {
			s.KeyFile, s.ClientKey = nil, parse(t, "{file./v/certkey}")
			s.KeyCertificateFile = nil
		},
		"KeyCertificateFile":   func(t *testing.T, s *Spec) { s.KeyCertificateFile = parse(t, "/other/keycert") },
		"AssertionFile":        func(t *testing.T, s *Spec) { s.AssertionFile = parse(t, "/other/assertion") },
		"KeyID":                func(t *testing.T, s *Spec) { s.KeyID = parse(t, "k2") },
		"Audience":             func(t *testing.T, s *Spec) { s.Audience = parse(t, "https://other.example") },
		"SigningAlg":           func(_ *testing.T, s *Spec) { s.SigningAlg = "ES384" },
		"AssertionLifetime":    func(_ *testing.T, s *Spec) { s.AssertionLifetime = time.Hour },
		"DPoP DPoPKeyFile":     func(_ *testing.T, s *Spec) { s.DPoP, s.DPoPKeyFile = false, nil },
		"DPoPKeyFile":          func(t *testing.T, s *Spec) { s.DPoPKeyFile = parse(t, "/other/key") },
		"ParameterValues":      func(t *testing.T, s *Spec) { s.ParameterValues["tenant"] = ParameterValue{Value: *parse(t, "other")} },
		"RequestedScopes":      func(_ *testing.T, s *Spec) { s.RequestedScopes = []string{"b", "a"} },
		"RequiredScopes":       func(_ *testing.T, s *Spec) { s.RequiredScopes = []string{"a", "b"} },
		"DefaultLifetime":      func(_ *testing.T, s *Spec) { s.DefaultLifetime = time.Hour },
		"TokenURL":             func(t *testing.T, s *Spec) { s.TokenURL = parse(t, "https://other.example/acme?key=api-key-2") },
		"AuthMethod Method":    func(_ *testing.T, s *Spec) { s.AuthMethod = "client_secret_post" },
		"RawBasic":             func(_ *testing.T, s *Spec) { s.RawBasic = true },
		"AssertionTyp":         func(_ *testing.T, s *Spec) { s.AssertionTyp = "JWT" },
		"ClientAssertionType":  func(_ *testing.T, s *Spec) { s.ClientAssertionType = "urn:other" },
		"TokenTransport":       func(_ *testing.T, s *Spec) { s.TokenTransport = `{"dial_timeout":1}` },
		"RequireGrantedScopes": func(_ *testing.T, s *Spec) { s.RequireGrantedScopes = false },
		"SendClientID":         func(_ *testing.T, s *Spec) { s.SendClientID = true },
		"GrantType":            func(_ *testing.T, s *Spec) { s.GrantType = "other" },
		"RequestFormat":        func(_ *testing.T, s *Spec) { s.RequestFormat = "json" },
		"ScopeSeparator":       func(_ *testing.T, s *Spec) { s.ScopeSeparator = "," },
		"TokenTypes":           func(_ *testing.T, s *Spec) { s.TokenTypes = []string{"BearerToken"} },
		"TokenPointer":         func(_ *testing.T, s *Spec) { s.TokenPointer = "/data/token" },
		"ExpiresInPointer":     func(_ *testing.T, s *Spec) { s.ExpiresInPointer = "/data/expires_in" },
		"Params":               func(t *testing.T, s *Spec) { s.Params[0].Value = *parse(t, "3") },
		"TokenHeaders":         func(t *testing.T, s *Spec) { s.TokenHeaders[0].Name = "X-Other" },
		"Resources":            func(t *testing.T, s *Spec) { s.Resources[0] = *parse(t, "urn:other") },
		"ConfigValues":         func(t *testing.T, s *Spec) { s.ConfigValues[0].Value = *parse(t, "other") },
		"CertificateFile CertificateKeyFile": func(t *testing.T, s *Spec) {
			s.CertificateFile, s.CertificateKeyFile = parse(t, "/other/cert"), parse(t, "/other/certkey")
		},
		"Issuer": func(t *testing.T, s *Spec) {
			s.Issuer = parse(t, oauthtest.NewIssuerURL(t, `{"issuer":"ISSUER","token_endpoint":"https://auth.example/acme?key=api-key-2"}`))
		},
	}
}

// shapesNoTokenRequest are changes of the other fields, which must not give another identity. Each comment
// says why.
func shapesNoTokenRequest() map[string]change {
	return map[string]change{
		// The API's, not the token endpoint's.
		"BaseURL":    func(t *testing.T, s *Spec) { s.BaseURL = parse(t, "https://other.example") },
		"APIHeaders": func(t *testing.T, s *Spec) { s.APIHeaders = []Field{{"X-Other", *parse(t, "v")}} },
		"APIQuery":   func(t *testing.T, s *Spec) { s.APIQuery = []Field{{"other", *parse(t, "v")}} },
		// A shared token is never revoked (rule 32).
		"RevocationURL": func(t *testing.T, s *Spec) { s.RevocationURL = parse(t, "https://other.example/revoke") },
		// They say which URLs are permitted, not which one is used.
		"InsecureURLs": func(_ *testing.T, s *Spec) { s.InsecureURLs = InsecureURLs{Token: true, Base: true} },
		// They say which values are permitted and secret. The values count, where they are used.
		"Parameters": func(_ *testing.T, s *Spec) { s.Parameters[0].Password = true },
		// Its fields are considered one by one.
		"ServiceSpec": func(_ *testing.T, s *Spec) { s.ServiceSpec = new(*s.ServiceSpec) },
	}
}

// identitySpec returns a spec in which every value counts, and the files that it and its changes need.
func identitySpec(t *testing.T) (func() *Spec, map[string]string) {
	t.Helper()
	files := secretFiles(t)
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "second")
	maps.Copy(files, map[string]string{
		"/other/secret": "third-secret", "/other/assertion": "other.payload.signature",
		"/other/key": string(keystest.PEM(t, "ec384")), "/other/keycert": string(keystest.CertificateFor(t, "ec256")),
		"/other/cert": keystest.ReadFile(t, certFile), "/other/certkey": keystest.ReadFile(t, keyFile),
	})
	return func() *Spec {
		s := fileSpec(t, "https://auth.example")
		s.RequestedScopes, s.RequiredScopes, s.RequireGrantedScopes = []string{"a", "b"}, []string{"a"}, true
		s.ConfigValues = []ConfigValue{{Key: "audience", Value: *parse(t, "{param.tenant}-api")}}
		s.Params = []Field{{"n", *parse(t, "1")}, {"audience", *parse(t, "{config.audience}")}, {"n", *parse(t, "2")}}
		s.Resources = append(s.Resources, *parse(t, "urn:one"), *parse(t, "urn:two"))
		return s
	}, files
}

// TestEveryValueCounts: one more field of a spec needs a change in one of the two lists.
func TestEveryValueCounts(t *testing.T) {
	newSpec, files := identitySpec(t)
	useFiles(t, files)
	base := identityOf(t, newSpec())
	if len(base) == 0 || !bytes.Equal(base, identityOf(t, newSpec())) {
		t.Fatal("the identity is not the same each time")
	}
	considered := make(map[string]bool)
	seen := map[string]string{string(base): "the spec without a change"}
	for names, change := range identityChanges() {
		s := newSpec()
		change(t, s)
		got := string(identityOf(t, s))
		if same, ok := seen[got]; ok {
			t.Errorf("%s: the same identity as with %s", names, same)
		}
		seen[got] = names
		for name := range strings.FieldsSeq(names) {
			considered[name] = true
		}
	}
	for name, change := range shapesNoTokenRequest() {
		s := newSpec()
		change(t, s)
		if !bytes.Equal(base, identityOf(t, s)) {
			t.Errorf("%s: another identity", name)
		}
		considered[name] = true
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Spec]()) {
		if !considered[field.Name] {
			t.Errorf("Spec has a field %s: must its value be in the identity?", field.Name)
		}
		delete(considered, field.Name)
	}
	if len(considered) > 0 {
		t.Errorf("Spec has no fields %v", slices.Collect(maps.Keys(considered)))
	}
}

// TestIdentityGoesByValue, and not by where the values come from.
func TestIdentityGoesByValue(t *testing.T) {
	key := string(keystest.PEM(t, "ec256"))
	for name, value := range map[string]string{"ID": "app", "SECRET": oauthtest.Secret, "HOST": "auth.example", "KEY": key, "HEADER": "api-key-1"} {
		t.Setenv("RESOLVE_TEST_"+name, value)
	}
	useFiles(t, map[string]string{"/v/id": "app", "/v/secret": oauthtest.Secret, "/v/host": "auth.example", "/v/key": strings.TrimSuffix(key, "\n"), "/v/header": "api-key-1", "/v/hdr": "api-key-1"})
	spec := func(id, secret, host, key, header string) *Spec {
		s := newSpec(t, "client_secret_basic")
		s.ClientID, s.ClientSecret, s.ClientKey = parse(t, id), parse(t, secret), parse(t, key)
		s.TokenURL = parse(t, "https://"+host+"/token")
		s.TokenHeaders = []Field{{"X-Api-Key", *parse(t, header)}}
		s.Parameters = []Parameter{{Key: "id"}, {Key: "secret", Password: true}, {Key: "header"}}
		s.ParameterValues = map[string]ParameterValue{"id": {Value: *parse(t, "app")}, "secret": {File: parse(t, "/v/secret")}, "header": {Value: *parse(t, "{env.RESOLVE_TEST_HEADER}")}}
		s.ConfigValues = []ConfigValue{{Key: "host", Flow: NewFlow("f", []byte(t.Name()), constantFlow("auth.example"))}, {Key: "header", Value: *parse(t, "{param.header}")}}
		return s
	}
	want := identityOf(t, spec("app", oauthtest.Secret, "auth.example", key, "api-key-1"))
	files := spec("{file./v/id}", "", "{file./v/host}", "", "{file./v/hdr}")
	files.ClientSecret, files.SecretFile = nil, parse(t, "/v/secret")
	files.ClientKey, files.KeyFile = nil, parse(t, "/v/key")
	for name, s := range map[string]*Spec{
		"variables":  spec("{env.RESOLVE_TEST_ID}", "{env.RESOLVE_TEST_SECRET}", "{env.RESOLVE_TEST_HOST}", "{env.RESOLVE_TEST_KEY}", "{env.RESOLVE_TEST_HEADER}"),
		"files":      files,
		"parameters": spec("{param.id}", "{param.secret}", "{config.host}", "{file./v/key}", "{config.header}"),
	} {
		if got := identityOf(t, s); !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}

// TestIdentityTellsBytesApart: neither values with bytes that are not UTF-8 nor other splits of the same
// text look alike.
func TestIdentityTellsBytesApart(t *testing.T) {
	useFiles(t, map[string]string{"/v/a": "secret-\xe4", "/v/b": "secret-\xf6"})
	spec := func(secretFile string, scopes ...string) *Spec {
		s := newSpec(t, "client_secret_basic")
		s.TokenURL, s.SecretFile, s.RequestedScopes = parse(t, "https://auth.example/token"), parse(t, secretFile), scopes
		return s
	}
	all := [][]byte{
		identityOf(t, spec("/v/a", "a", "b")), identityOf(t, spec("/v/b", "a", "b")), identityOf(t, spec("/v/a", "a b")),
		identityOf(t, spec("/v/a", "a", "b", "")), identityOf(t, spec("/v/a", "a\n1:b")), identityOf(t, spec("/v/a")),
	}
	for i, one := range all {
		if slices.ContainsFunc(all[:i], func(other []byte) bool { return bytes.Equal(one, other) }) {
			t.Errorf("%d is like one before:\n%s", i, one)
		}
	}
}

// TestIdentityOfAnAssertion lasts while the platform renews it.
func TestIdentityOfAnAssertion(t *testing.T) {
	jwt := func(header, payload string) string {
		encode := base64.RawURLEncoding.EncodeToString
		return encode([]byte(header)) + "." + encode([]byte(payload)) + ".c2lnbmF0dXJl"
	}
	const first = `{"iss":"i","sub":"s","aud":"a","exp":1}`
	for name, test := range map[string]struct {
		a, b  string
		equal bool
	}{
		"renewed":            {jwt(`{"kid":"1"}`, first), jwt(`{"kid":"2"}`, `{"exp":2,"aud":["a"],"sub":"s","iss":"i","jti":"x"}`), true},
		"another subject":    {jwt(`{}`, first), jwt(`{}`, `{"iss":"i","sub":"t","aud":"a","exp":1}`), false},
		"another issuer":     {jwt(`{}`, first), jwt(`{}`, `{"iss":"j","sub":"s","aud":"a","exp":1}`), false},
		"another audience":   {jwt(`{}`, first), jwt(`{}`, `{"iss":"i","sub":"s","aud":"b","exp":1}`), false},
		"one audience more":  {jwt(`{}`, first), jwt(`{}`, `{"iss":"i","sub":"s","aud":["a","b"],"exp":1}`), false},
		"no issuer":          {jwt(`{}`, `{"sub":"s","aud":"a","exp":1}`), jwt(`{}`, `{"sub":"s","aud":"a","exp":2}`), true},
		"no subject":         {jwt(`{}`, `{"iss":"i","aud":"a","exp":1}`), jwt(`{}`, `{"iss":"i","aud":"a","exp":2}`), false},
		"a SUB in capitals":  {jwt(`{}`, `{"iss":"i","sub":"s","SUB":"1"}`), jwt(`{}`, `{"iss":"i","sub":"s","SUB":"2"}`), true},
		"a number as issuer": {jwt(`{}`, `{"iss":1,"sub":"s"}`), jwt(`{}`, `{"iss":1,"sub":"s","exp":2}`), false},
		"an odd audience":    {jwt(`{}`, `{"sub":"s","aud":[1]}`), jwt(`{}`, `{"sub":"s","aud":[1],"exp":2}`), false},
		"no JWT":             {"opaque-1", "opaque-2", false},
		"no JSON":            {"a.b.c", "a.b.d", false},
		"the same text":      {"opaque", "opaque", true},
	} {
		t.Run(name, func(t *testing.T) {
			fileSystem := useFiles(t, map[string]string{"/v/assertion": test.a})
			s := newSpec(t, "private_key_jwt")
			s.TokenURL, s.AssertionFile = parse(t, "https://auth.example/token"), parse(t, "/v/assertion")
			a := identityOf(t, s)
			fileSystem.files["/v/assertion"] = test.b
			if equal := bytes.Equal(a, identityOf(t, s)); equal != test.equal {
				t.Errorf("equal: %v, want %v", equal, test.equal)
			}
		})
	}
}

// TestIdentityIsThatOfTheRequest: it reads no file again, and it takes the results of helper flows that
// the request has, though they are forgotten by now.
func TestIdentityIsThatOfTheRequest(t *testing.T) {
	found := "first"
	endpoint := oauthtest.NewEndpoint(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(found)) })
	newSpec, files := identitySpec(t)
	fileSystem := useFiles(t, files)
	spec := func() *Spec {
		s := newSpec()
		s.ConfigValues[0].Flow = NewFlow("f", []byte(t.Name()), requestFlow{endpoint.URL})
		return s
	}
	r := newConnection(t, spec()).resolver(t.Context())
	request, err := r.tokenRequest()
	if err != nil {
		t.Fatal(err)
	}
	flows.Results.Forget(r.flowKey(r.spec.ConfigValues[0].Flow))
	fileSystem.takeReads()
	first := r.identity(request)
	if reads := fileSystem.takeReads(); first == nil || len(reads) > 0 {
		t.Errorf("identity %q, reads %v", first, reads)
	}
	if len(endpoint.All()) != 1 {
		t.Errorf("the flow made %d requests", len(endpoint.All()))
	}
	found = "second"
	if bytes.Equal(first, identityOf(t, spec())) {
		t.Error("the identity does not depend on the flow's result")
	}
}

// TestNoIdentity: tokens are not shared if a value is missing, or if they are bound to a key that no other
// process has.
func TestNoIdentity(t *testing.T) {
	newSpec, files := identitySpec(t)
	fileSystem := useFiles(t, maps.Clone(files))
	generated := newSpec()
	generated.DPoPKeyFile = nil
	if got := identityOf(t, generated); got != nil {
		t.Error("an identity with a DPoP key that was made at start")
	}
	for _, missing := range []string{"/v/secret", "/v/key", "/v/assertion", "/v/cert", "/v/header", "/v/tenant", "/v/query"} {
		r := newConnection(t, newSpec()).resolver(t.Context())
		delete(fileSystem.files, missing)
		request, err := r.tokenRequest()
		if err == nil || r.identity(request) != nil {
			t.Errorf("an identity without %s: %v", missing, err)
		}
		fileSystem.files = maps.Clone(files)
	}
}

// TestCertificateMakesTheIdentitySecret where it proves the client: whoever knows only what is public
// cannot tell the identity.
func TestCertificateMakesTheIdentitySecret(t *testing.T) {
	files := secretFiles(t)
	useFiles(t, files)
	s := newSpec(t, "tls_client_auth")
	s.TokenURL, s.CertificateFile, s.CertificateKeyFile = parse(t, "https://auth.example/token"), parse(t, "/v/cert"), parse(t, "/v/certkey")
	block, _ := pem.Decode([]byte(files["/v/certkey"]))
	if !bytes.Contains(identityOf(t, s), block.Bytes) {
		t.Error("the private key is not in the identity")
	}
}
