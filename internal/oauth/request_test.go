package oauth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

// basicRequest is a plain token request to endpoint.
func basicRequest(endpoint string) *Request {
	return &Request{TokenURL: endpoint, Auth: basicAuth("s3cret"), ClientID: "app"}
}

// fetchOnce makes the request and expects a token.
func fetchOnce(t *testing.T, r *Request) *Token {
	t.Helper()
	granted, err := r.Do(t.Context(), NewClient(http.DefaultTransport))
	if err != nil {
		t.Fatalf("no token: %v", err)
	}
	return granted
}

// failOnce makes the request and expects an *Error.
func failOnce(t *testing.T, r *Request) *Error {
	t.Helper()
	granted, err := r.Do(t.Context(), NewClient(http.DefaultTransport))
	if err == nil {
		t.Fatalf("got token %+v, want an error", granted)
	}
	failure, ok := err.(*Error)
	if !ok {
		t.Fatalf("error is a %T: %v", err, err)
	}
	return failure
}

func TestPlainTokenRequest(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	before := time.Now()
	granted := fetchOnce(t, basicRequest(endpoint.URL+"/token"))
	got := endpoint.Only(t)
	if got.Method != "POST" || got.Path != "/token" || got.Query != "" {
		t.Errorf("%s %s?%s", got.Method, got.Path, got.Query)
	}
	if got.Body != "grant_type=client_credentials" {
		t.Errorf("body %q", got.Body)
	}
	if typ := got.Header.Get("Content-Type"); typ != "application/x-www-form-urlencoded" {
		t.Errorf("Content-Type %q", typ)
	}
	if accept := got.Header.Get("Accept"); accept != "application/json" {
		t.Errorf("Accept %q", accept)
	}
	if granted.Value != "tok-1" || granted.HeaderPrefix() != "Bearer " || granted.Lifetime != time.Hour || !granted.HasExpiresIn {
		t.Errorf("granted %+v", granted)
	}
	if granted.Sent.Before(before) || granted.Sent.After(time.Now()) {
		t.Errorf("sent %v", granted.Sent)
	}
}

// TestExpiryCountsFromSending proves that a slow response does not make a token live longer.
func TestExpiryCountsFromSending(t *testing.T) {
	var arrived time.Time
	endpoint := oauthtest.NewEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		arrived = time.Now()
		oauthtest.Responds(200, oauthtest.GoodResponse)(w, r)
	})
	if granted := fetchOnce(t, basicRequest(endpoint.URL)); granted.Sent.After(arrived) {
		t.Errorf("sent is %v after the request arrived", granted.Sent.Sub(arrived))
	}
}

func TestClientSecretOnTheWire(t *testing.T) {
	const (
		id     = "a b:c+d%&=ü*~"
		secret = "p:q r/ß+%20&x=\"y'\\ !*~"
	)
	basic := func(user, password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	tests := map[string]struct {
		auth          ClientAuth
		id            string
		authorization string
		fields        url.Values
	}{
		"basic": {
			basicAuth(secret),
			id,
			basic("a+b%3Ac%2Bd%25%26%3D%C3%BC%2A~", "p%3Aq+r%2F%C3%9F%2B%2520%26x%3D%22y%27%5C+%21%2A~"),
			url.Values{},
		},
		"basic raw": {
			always(AuthParams{Style: oauth2.AuthStyleInHeader, raw: true, Secret: secret}),
			"a b+d%",
			basic("a b+d%", secret),
			url.Values{},
		},
		"post": {
			postAuth(secret),
			id, "",
			url.Values{"client_id": {id}, "client_secret": {secret}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
			r := basicRequest(endpoint.URL)
			r.Auth, r.ClientID = test.auth, test.id
			fetchOnce(t, r)
			got := endpoint.Only(t)
			if auth := got.Header.Get("Authorization"); auth != test.authorization {
				t.Errorf("Authorization %q, want %q", auth, test.authorization)
			}
			test.fields.Set("grant_type", "client_credentials")
			if form := got.Form(t); !reflect.DeepEqual(form, test.fields) {
				t.Errorf("fields %v, want %v", form, test.fields)
			}
		})
	}
}

// TestOneAuthenticationIsNeverProbed: x/oauth2 would try another style on its own.
func TestOneAuthenticationIsNeverProbed(t *testing.T) {
	for name, auth := range map[string]ClientAuth{"basic": basicAuth("s"), "post": postAuth("s")} {
		t.Run(name, func(t *testing.T) {
			endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(401, `{"error":"invalid_client"}`))
			r := basicRequest(endpoint.URL)
			r.Auth = auth
			failOnce(t, r)
			endpoint.Only(t)
		})
	}
}

func TestTokenRequestFields(t *testing.T) {
	tests := map[string]struct {
		change func(*Request)
		want   url.Values
	}{
		"scopes": {
			func(r *Request) { r.Scopes = []string{"b", "a", "c,d"} },
			url.Values{"scope": {"b a c,d"}},
		},
		"separator": {
			func(r *Request) { r.Scopes, r.Separator = []string{"b", "a"}, "," },
			url.Values{"scope": {"b,a"}},
		},
		"one scope": {
			func(r *Request) { r.Scopes, r.Separator = []string{"b"}, "," },
			url.Values{"scope": {"b"}},
		},
		"grant type": {
			func(r *Request) { r.GrantType = "account_credentials" },
			url.Values{"grant_type": {"account_credentials"}},
		},
		"parameters": {
			func(r *Request) { r.Params = url.Values{"audience": {"one", "two &="}, "empty": {""}, "none": {}} },
			url.Values{"audience": {"one", "two &="}, "empty": {""}},
		},
		"resources": {
			func(r *Request) {
				r.Resources = []string{"https://a.example/", "https://b.example/x"}
			},
			url.Values{"resource": {"https://a.example/", "https://b.example/x"}},
		},
		"a parameter besides resources": {
			func(r *Request) {
				r.Params, r.Resources = url.Values{"resource": {"https://a.example/"}}, []string{"https://b.example/"}
			},
			url.Values{"resource": {"https://a.example/", "https://b.example/"}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
			r := basicRequest(endpoint.URL)
			test.change(r)
			fetchOnce(t, r)
			if test.want.Get("grant_type") == "" {
				test.want.Set("grant_type", "client_credentials")
			}
			if form := endpoint.Only(t).Form(t); !reflect.DeepEqual(form, test.want) {
				t.Errorf("fields %v, want %v", form, test.want)
			}
		})
	}
}

// TestRepeatedRequestsAreEqual guards the request's own values against being changed by a use.
func TestRepeatedRequestsAreEqual(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	r := basicRequest(endpoint.URL)
	r.Params, r.Resources = url.Values{"resource": {"x"}}, []string{"y"}
	fetchOnce(t, r)
	fetchOnce(t, r)
	if requests := endpoint.All(); requests[0].Body != requests[1].Body {
		t.Errorf("first %q, then %q", requests[0].Body, requests[1].Body)
	}
}

func TestTokenRequestFormats(t *testing.T) {
	tests := map[string]struct {
		format, url string
		query, body string
		contentType string
	}{
		"form keeps the URL's query": {
			"form", "/t?tenant=a%20b&x", "tenant=a%20b&x",
			"audience=1&audience=%3C2%3E&client_id=app&client_secret=s3cret&grant_type=client_credentials", "application/x-www-form-urlencoded",
		},
		"json": {
			"json", "/t?tenant=a", "tenant=a",
			`{"audience":["1","<2>"],"client_id":"app","client_secret":"s3cret","grant_type":"client_credentials"}`, "application/json",
		},
		"query": {
			"query", "/t", "audience=1&audience=%3C2%3E&client_id=app&client_secret=s3cret&grant_type=client_credentials", "", "",
		},
		"query after the URL's query": {
			"query", "/t?tenant=a%20b", "tenant=a%20b&audience=1&audience=%3C2%3E&client_id=app&client_secret=s3cret&grant_type=client_credentials", "", "",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
			r := basicRequest(endpoint.URL + test.url)
			r.Auth, r.Format = postAuth("s3cret"), test.format
			r.Params = url.Values{"audience": {"1", "<2>"}}
			fetchOnce(t, r)
			got := endpoint.Only(t)
			if got.Method != "POST" || got.Query != test.query || got.Body != test.body || got.Length != int64(len(test.body)) {
				t.Errorf("%s ?%s %q (%d)", got.Method, got.Query, got.Body, got.Length)
			}
			if typ := got.Header.Get("Content-Type"); typ != test.contentType {
				t.Errorf("Content-Type %q, want %q", typ, test.contentType)
			}
		})
	}
}

func TestBasicGoesWithEveryFormat(t *testing.T) {
	for _, format := range []string{"form", "json", "query"} {
		endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
		r := basicRequest(endpoint.URL)
		r.Format = format
		fetchOnce(t, r)
		got := endpoint.Only(t)
		if got.Header.Get("Authorization") == "" || strings.Contains(got.Body+got.Query, "s3cret") || strings.Contains(got.Body+got.Query, "client_id") {
			t.Errorf("%s: %+v", format, got)
		}
	}
}

func TestTokenRequestHeaders(t *testing.T) {
	endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	r := basicRequest(endpoint.URL)
	r.Headers = http.Header{"x-tenant": {"t1", "t2"}, "Accept": {"application/vnd.example+json"}}
	fetchOnce(t, r)
	got := endpoint.Only(t).Header
	if !reflect.DeepEqual(got["X-Tenant"], []string{"t1", "t2"}) || got.Get("Accept") != "application/vnd.example+json" {
		t.Errorf("headers %v", got)
	}
	if !reflect.DeepEqual(r.Headers, http.Header{"x-tenant": {"t1", "t2"}, "Accept": {"application/vnd.example+json"}}) {
		t.Errorf("the request's headers changed: %v", r.Headers)
	}
}

// TestRedirectGetsNoSecret: a 307 would re-post the secret to another host.
func TestRedirectGetsNoSecret(t *testing.T) {
	elsewhere := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308} {
		for _, location := range []string{elsewhere.URL, "http://[::1", ""} {
			endpoint := oauthtest.NewEndpoint(t, oauthtest.Responds(status, "", "Location", location))
			failure := failOnce(t, basicRequest(endpoint.URL))
			if failure.Class != ClassConfiguration || failure.Status != 502 || !strings.Contains(failure.Message, "redirect") || failure.Transient || !failure.Responded || failure.ServerStatus != status {
				t.Errorf("%d to %q: %+v", status, location, failure)
			}
		}
	}
	if got := elsewhere.All(); len(got) > 0 {
		t.Errorf("the redirect was followed: %+v", got)
	}
}

func TestWaiterLeaves(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{})
	endpoint := oauthtest.NewEndpoint(t, func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := basicRequest(endpoint.URL).Do(ctx, NewClient(http.DefaultTransport))
	if err != context.Canceled { //nolint:errorlint // the very error is promised
		t.Errorf("error %v", err)
	}
}

func TestDeadlineIsATimeout(t *testing.T) {
	release := make(chan struct{})
	endpoint := oauthtest.NewEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := basicRequest(endpoint.URL).Do(ctx, NewClient(http.DefaultTransport))
	failure := AsError(err)
	if failure.Status != 504 || failure.Class != ClassOutage || failure.Transient || failure.Responded {
		t.Errorf("failure %+v", failure)
	}
}

// TestLibraryErrorsAreNotPassedOn: those of net/url quote the URL.
func TestLibraryErrorsAreNotPassedOn(t *testing.T) {
	failure := failOnce(t, basicRequest("https://auth.example/%zz?key=hunter2"))
	if failure.Class != ClassConfiguration || strings.Contains(failure.Error(), "hunter2") {
		t.Errorf("failure %+v", failure)
	}
}

func jsonText(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
