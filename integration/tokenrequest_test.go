package integration

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// basicAuth is the Authorization header of id and secret as they travel, encoded or not.
func basicAuth(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

func TestTokenRequestByDefaultIsRFC6749WithBasic(t *testing.T) {
	t.Parallel()
	eachForm(t, options{}, func(t *testing.T, w *world) {
		w.wantOK(t)
		r := w.tokens.Only(t)
		equal(t, "method", r.Method, http.MethodPost)
		equal(t, "request URI", r.RequestURI, "/oauth2/token")
		equal(t, "body", r.Body, "grant_type=client_credentials")
		equal(t, "Authorization", r.Header.Get("Authorization"), basicAuth("app", secret))
		equal(t, "Content-Type", r.Header.Get("Content-Type"), "application/x-www-form-urlencoded")
		equal(t, "Accept", r.Header.Get("Accept"), "application/json")
		equal(t, "Authorization at the API", w.api.Last(t).Header.Get("Authorization"), "Bearer token-1")
	})
}

// TestTokenRequestOptions has one case for each option that changes the token request, checked by
// what arrives at the token endpoint.
func TestTokenRequestOptions(t *testing.T) {
	t.Parallel()
	form := func(want string) func(*testing.T, *world, *harness.TokenRequest) {
		values, err := url.ParseQuery(want)
		if err != nil {
			t.Fatal(err)
		}
		return func(t *testing.T, _ *world, r *harness.TokenRequest) {
			t.Helper()
			if !reflect.DeepEqual(r.Form(), values) {
				t.Errorf("form %q, want %q", r.Body, want)
			}
		}
	}
	const grant = "grant_type=client_credentials"
	for name, c := range map[string]struct {
		options
		check func(*testing.T, *world, *harness.TokenRequest)
	}{
		"auth_method client_secret_post": {
			options{service: "auth_method client_secret_post"},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				form(grant+"&client_id=app&client_secret="+secret)(t, nil, r)
				equal(t, "Authorization", r.Header.Get("Authorization"), "")
			},
		},
		"basic_encoding form": {
			options{service: "basic_encoding form", connection: "client_id {env.ID}", env: []string{"ID=a b:c/ü", "SECRET=%&+=?~*"}},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				equal(t, "Authorization", r.Header.Get("Authorization"), basicAuth("a+b%3Ac%2F%C3%BC", "%25%26%2B%3D%3F~%2A"))
			},
		},
		"basic_encoding raw": {
			options{service: "basic_encoding raw", connection: "client_id {env.ID}", env: []string{"ID=a b/ü", "SECRET=%&+=?:~*"}},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				equal(t, "Authorization", r.Header.Get("Authorization"), basicAuth("a b/ü", "%&+=?:~*"))
			},
		},
		"token_request_param": {
			options{service: "token_request_param audience https://api.example.com/?a=b&c\ntoken_request_param resource one two"},
			form(grant + "&audience=https%3A%2F%2Fapi.example.com%2F%3Fa%3Db%26c&resource=one&resource=two"),
		},
		"token_request_header": {
			options{service: "token_request_header X-Api-Key {env.KEY}", env: []string{"KEY=k-1"}},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				equal(t, "X-Api-Key", r.Header.Get("X-Api-Key"), "k-1")
			},
		},
		"token_request_header Authorization": {
			options{service: "auth_method client_secret_post\ntoken_request_header Authorization \"Basic {env.GATEWAY}\"", env: []string{"GATEWAY=Z2F0ZXdheTprZXk="}},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				form(grant+"&client_id=app&client_secret="+secret)(t, nil, r)
				equal(t, "Authorization", strings.Join(r.Header["Authorization"], "; "), "Basic Z2F0ZXdheTprZXk=")
			},
		},
		"token_request_header User-Agent": {
			options{service: "token_request_header User-Agent one/2"},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				equal(t, "User-Agent", strings.Join(r.Header["User-Agent"], "; "), "one/2")
			},
		},
		"send_client_id": {
			options{service: "send_client_id"},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				form(grant+"&client_id=app")(t, nil, r)
				equal(t, "Authorization", r.Header.Get("Authorization"), basicAuth("app", secret))
			},
		},
		"send_client_id where it is sent anyway": {
			options{service: "send_client_id\nauth_method client_secret_post"},
			form(grant + "&client_id=app&client_secret=" + secret),
		},
		"token_request_format json": {
			options{service: "token_request_format json\nauth_method client_secret_post\ntoken_request_param audience a\ntoken_request_param list x y"},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				equal(t, "Content-Type", r.Header.Get("Content-Type"), "application/json")
				var got map[string]any
				if err := json.Unmarshal([]byte(r.Body), &got); err != nil {
					t.Fatal(err)
				}
				want := map[string]any{
					"grant_type": "client_credentials", "client_id": "app", "client_secret": secret,
					"audience": "a", "list": []any{"x", "y"},
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("body %v, want %v", got, want)
				}
			},
		},
		"token_request_format query": {
			options{service: "token_request_format query\ntoken_request_param audience a"},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				equal(t, "method", r.Method, http.MethodPost)
				equal(t, "body", r.Body, "")
				u, err := url.ParseRequestURI(r.RequestURI)
				if err != nil {
					t.Fatal(err)
				}
				want := url.Values{"grant_type": {"client_credentials"}, "audience": {"a"}}
				if !reflect.DeepEqual(u.Query(), want) {
					t.Errorf("query %q, want %v", u.RawQuery, want)
				}
			},
		},
		"grant_type": {
			options{service: "grant_type account_credentials"},
			form("grant_type=account_credentials"),
		},
		"resource": {
			options{service: "resource https://a.example https://b.example/x"},
			form(grant + "&resource=https://a.example&resource=https://b.example/x"),
		},
		"token_request_scope_separator": {
			options{service: "token_request_scope_separator ,"},
			form(grant),
		},
		"client_secret literal": {
			options{secretLine: `client_secret "a literal: secret"`},
			func(t *testing.T, _ *world, r *harness.TokenRequest) {
				equal(t, "Authorization", r.Header.Get("Authorization"), basicAuth("app", "a+literal%3A+secret"))
			},
		},
		"labels and ping change nothing": {
			options{service: "label \"A service\"\nclient_id_label Key\nclient_secret_label Password\nping GET /me 200 204\nscopes_help https://help.example"},
			form(grant),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachForm(t, c.options, func(t *testing.T, w *world) {
				w.wantOK(t)
				c.check(t, w, w.tokens.Only(t))
			})
		})
	}
}

func TestTokenURLKeepsItsQuery(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.URL += "?tenant=a%20b&x="
	w.Run(t, w.inline(options{}))
	w.wantOK(t)
	equal(t, "request URI", w.tokens.Only(t).RequestURI, "/oauth2/token?tenant=a%20b&x=")
}

func TestClientSecretFromFile(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"client_secret_file": "client_secret_file $DIR/secret",
		"placeholder":        "client_secret {file.$DIR/secret}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.File(t, "secret", "from a file\n")
			w.Run(t, w.inline(options{secretLine: line}))
			w.wantOK(t)
			equal(t, "Authorization", w.tokens.Only(t).Header.Get("Authorization"), basicAuth("app", "from+a+file"))
		})
	}
}

// TestScopesOfAConnection has the choices that a connector leaves to its connections (rule 25).
func TestScopesOfAConnection(t *testing.T) {
	t.Parallel()
	const known = "scope read required {\ndescription \"To read\"\n}\nscope write\nscope delete\ncustomize_scopes\nadditional_scopes"
	for name, c := range map[string]struct {
		service, connection, want string
	}{
		"all by default":                   {known, "", "read write delete"},
		"without customize_scopes":         {"scope read\nscope write", "", "read write"},
		"chosen and required":              {known, "scopes delete", "read delete"},
		"only required":                    {known, "scopes", "read"},
		"additional in order, no repeats":  {known, "scopes write\nadditional_scopes \"  z.read  a write\tz.read \"", "read write z.read a"},
		"additional separated by comma":    {known + "\nscopes_delimiter comma", "scopes\nadditional_scopes \"x, y,,x\"", "read x y"},
		"other separator in the request":   {known + "\ntoken_request_scope_separator ,", "", "read,write,delete"},
		"comma inside, with space between": {known, "scopes\nadditional_scopes \"a,b c\"", "read a,b c"},
		"none at all":                      {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.Run(t, w.named(options{service: c.service, connection: c.connection}))
			w.wantOK(t)
			form := w.tokens.Only(t).Form()
			if _, sent := form["scope"]; sent != (c.want != "") {
				t.Errorf("scope sent: %v", sent)
			}
			equal(t, "scope", form.Get("scope"), c.want)
		})
	}
}

func TestInlineScopesAreTheScopesThemselves(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{connection: "scopes orders.read https://x.example/.default"})
	w.wantOK(t)
	equal(t, "scope", w.tokens.Only(t).Form().Get("scope"), "orders.read https://x.example/.default")
}

// TestParametersAndConfigValues follows parameter and config values into every place where they are allowed.
func TestParametersAndConfigValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.File(t, "tenant", "t&1 x\n")
	config := w.named(options{
		base: "/{param.region}/{param.tenant}",
		service: `
			parameter region dropdown {
				label "Region"
				option eu "Europe"
				option us
				default eu
			}
			parameter tenant text
			parameter pass-word password {
				label "Password"
			}
			config_value audience text {
				label "Audience"
				value https://{param.region}.example/{param.tenant}
			}
			config_value hush password {
				value {param.pass-word}!
				hidden
			}
			token_request_param audience {config.audience}
			token_request_param pass {config.hush}
			token_request_header X-Tenant {param.tenant}
			api_header X-Region {param.region}
			api_query tenant {param.tenant}`,
		connection: "parameter_file tenant $DIR/tenant\nparameter pass-word {env.PASS}",
		env:        []string{"PASS=p{param.region}w"},
	})
	w.Run(t, config)
	wantStatus(t, w.Get(t, "/a?tenant=mine&b=c", "X-Region", "mine"), http.StatusOK)

	token := w.tokens.Only(t)
	equal(t, "audience", token.Form().Get("audience"), "https://eu.example/t&1 x")
	equal(t, "pass", token.Form().Get("pass"), "p{param.region}w!")
	equal(t, "X-Tenant", token.Header.Get("X-Tenant"), "t&1 x")
	api := w.api.Last(t)
	if want := []string{"eu"}; !reflect.DeepEqual(api.Header["X-Region"], want) {
		t.Errorf("X-Region %q, want %q", api.Header["X-Region"], want)
	}
	path, query, _ := strings.Cut(api.RequestURI, "?")
	equal(t, "path", path, "/eu/t&1%20x/a")
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	if want := (url.Values{"tenant": {"t&1 x"}, "b": {"c"}}); !reflect.DeepEqual(values, want) {
		t.Errorf("query %q, want %v", query, want)
	}
}

func TestDropdownValueOfTheConnection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.Run(t, w.named(options{
		service:    "parameter region dropdown {\noption eu\noption us\ndefault eu\n}\ntoken_request_param region {param.region}",
		connection: "parameter region us",
	}))
	w.wantOK(t)
	equal(t, "region", w.tokens.Only(t).Form().Get("region"), "us")
}

func TestAPIHeaderAndQueryReplaceTheApps(t *testing.T) {
	t.Parallel()
	eachForm(t, options{service: "api_header X-Api-Key {env.KEY}\napi_query tenant a&b", env: []string{"KEY=k"}}, func(t *testing.T, w *world) {
		wantStatus(t, w.Get(t, "/x?tenant=evil&q=1&tenant=more", "X-Api-Key", "evil", "x-api-key", "more"), http.StatusOK)
		r := w.api.Last(t)
		if want := []string{"k"}; !reflect.DeepEqual(r.Header["X-Api-Key"], want) {
			t.Errorf("X-Api-Key %q, want %q", r.Header["X-Api-Key"], want)
		}
		u, err := url.ParseRequestURI(r.RequestURI)
		if err != nil {
			t.Fatal(err)
		}
		if want := (url.Values{"tenant": {"a&b"}, "q": {"1"}}); !reflect.DeepEqual(u.Query(), want) {
			t.Errorf("query %q, want %v", u.RawQuery, want)
		}
	})
}

func TestTokenTransportAndClientCertificate(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	w := newWorld(t, ca)
	ca.Client(t, "the sidecar", w.Dir+"/client.pem", w.Dir+"/client.key")
	w.Run(t, w.inline(options{
		service:    "token_transport {\ntls_trust_pool file " + ca.File + "\n}",
		connection: "client_certificate $DIR/client.pem $DIR/client.key",
		directive:  "transport http {\ntls_trust_pool file " + ca.File + "\n}",
	}))
	w.wantOK(t)
	certificates := w.tokens.Only(t).TLS.PeerCertificates
	if len(certificates) != 1 || certificates[0].Subject.CommonName != "the sidecar" {
		t.Errorf("client certificates at the token endpoint: %v", certificates)
	}
	if shown := w.api.Last(t).TLS.PeerCertificates; len(shown) != 0 {
		t.Error("the client certificate was shown to the API although the token is not bound to it")
	}
}

func TestUntrustedTokenEndpointGetsNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t, harness.NewCA(t))
	w.Run(t, w.inline(options{}))
	wantSidecarError(t, w.Get(t, "/"), http.StatusServiceUnavailable, "proxy_internal_error")
	equal(t, "token requests", w.tokens.Count(), 0)
	equal(t, "API requests", w.api.Count(), 0)
}
