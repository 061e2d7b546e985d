package httphelper

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// wireRequest is a token request as it arrived.
type wireRequest struct {
	method, path, query, body string
	header                    http.Header
	length                    int64
}

func (w wireRequest) form(t *testing.T) url.Values {
	t.Helper()
	form, err := url.ParseQuery(w.body)
	if err != nil {
		t.Fatalf("body is no form: %v", err)
	}
	return form
}

// fakeEndpoint is a token endpoint that records what arrives.
type fakeEndpoint struct {
	*httptest.Server
	mu       sync.Mutex
	requests []wireRequest
}

// newEndpoint answers every request with handler, after recording it.
func newEndpoint(t *testing.T, handler http.HandlerFunc) *fakeEndpoint {
	t.Helper()
	endpoint := new(fakeEndpoint)
	endpoint.Server = httptest.NewServer(endpoint.recording(handler))
	t.Cleanup(endpoint.Close)
	return endpoint
}

func (e *fakeEndpoint) recording(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		e.mu.Lock()
		e.requests = append(e.requests, wireRequest{
			method: req.Method, path: req.URL.Path, query: req.URL.RawQuery, body: string(body),
			header: req.Header, length: req.ContentLength,
		})
		e.mu.Unlock()
		req.Body = io.NopCloser(strings.NewReader(string(body)))
		handler(w, req)
	}
}

func (e *fakeEndpoint) all() []wireRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests
}

// only returns the one request that arrived.
func (e *fakeEndpoint) only(t *testing.T) wireRequest {
	t.Helper()
	requests := e.all()
	if len(requests) != 1 {
		t.Fatalf("%d token requests arrived, want 1", len(requests))
	}
	return requests[0]
}

// answering returns a handler that gives one fixed answer.
func answering(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const goodAnswer = `{"access_token":"tok-1","token_type":"Bearer","expires_in":3600}`

// basicRequest is a plain token request to endpoint.
func basicRequest(endpoint string) *tokenRequest {
	return &tokenRequest{tokenURL: endpoint, auth: basicAuth{secret: "s3cret"}, clientID: "app"}
}

// fetchOnce makes the request and expects a token.
func fetchOnce(t *testing.T, r *tokenRequest) *grantedToken {
	t.Helper()
	granted, err := r.do(t.Context(), newTokenClient(http.DefaultTransport))
	if err != nil {
		t.Fatalf("no token: %v", err)
	}
	return granted
}

// failOnce makes the request and expects a tokenError.
func failOnce(t *testing.T, r *tokenRequest) *tokenError {
	t.Helper()
	granted, err := r.do(t.Context(), newTokenClient(http.DefaultTransport))
	if err == nil {
		t.Fatalf("got token %+v, want an error", granted)
	}
	failure, ok := err.(*tokenError)
	if !ok {
		t.Fatalf("error is a %T: %v", err, err)
	}
	return failure
}

func TestPlainTokenRequest(t *testing.T) {
	endpoint := newEndpoint(t, answering(200, goodAnswer))
	before := time.Now()
	granted := fetchOnce(t, basicRequest(endpoint.URL+"/token"))
	got := endpoint.only(t)
	if got.method != "POST" || got.path != "/token" || got.query != "" {
		t.Errorf("%s %s?%s", got.method, got.path, got.query)
	}
	if got.body != "grant_type=client_credentials" {
		t.Errorf("body %q", got.body)
	}
	if typ := got.header.Get("Content-Type"); typ != "application/x-www-form-urlencoded" {
		t.Errorf("Content-Type %q", typ)
	}
	if accept := got.header.Get("Accept"); accept != "application/json" {
		t.Errorf("Accept %q", accept)
	}
	if granted.value != "tok-1" || granted.kind != "Bearer" || granted.lifetime != time.Hour || !granted.hasExpiresIn {
		t.Errorf("granted %+v", granted)
	}
	if granted.sent.Before(before) || granted.sent.After(time.Now()) {
		t.Errorf("sent %v", granted.sent)
	}
}

// TestExpiryCountsFromSending proves that a slow answer does not make a token live longer.
func TestExpiryCountsFromSending(t *testing.T) {
	var arrived time.Time
	endpoint := newEndpoint(t, func(w http.ResponseWriter, r *http.Request) {
		arrived = time.Now()
		answering(200, goodAnswer)(w, r)
	})
	if granted := fetchOnce(t, basicRequest(endpoint.URL)); granted.sent.After(arrived) {
		t.Errorf("sent is %v after the request arrived", granted.sent.Sub(arrived))
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
		auth          clientAuth
		id            string
		authorization string
		fields        url.Values
	}{
		"basic": {
			basicAuth{secret: secret},
			id,
			basic("a+b%3Ac%2Bd%25%26%3D%C3%BC%2A~", "p%3Aq+r%2F%C3%9F%2B%2520%26x%3D%22y%27%5C+%21%2A~"),
			url.Values{},
		},
		"basic raw": {
			basicAuth{secret: secret, raw: true},
			"a b+d%",
			basic("a b+d%", secret),
			url.Values{},
		},
		"post": {
			postAuth{secret: secret},
			id, "",
			url.Values{"client_id": {id}, "client_secret": {secret}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			endpoint := newEndpoint(t, answering(200, goodAnswer))
			r := basicRequest(endpoint.URL)
			r.auth, r.clientID = test.auth, test.id
			fetchOnce(t, r)
			got := endpoint.only(t)
			if auth := got.header.Get("Authorization"); auth != test.authorization {
				t.Errorf("Authorization %q, want %q", auth, test.authorization)
			}
			test.fields.Set("grant_type", "client_credentials")
			if form := got.form(t); !reflect.DeepEqual(form, test.fields) {
				t.Errorf("fields %v, want %v", form, test.fields)
			}
		})
	}
}

// TestOneAuthenticationIsNeverProbed: x/oauth2 would try another style on its own.
func TestOneAuthenticationIsNeverProbed(t *testing.T) {
	for name, auth := range map[string]clientAuth{"basic": basicAuth{secret: "s"}, "post": postAuth{secret: "s"}} {
		t.Run(name, func(t *testing.T) {
			endpoint := newEndpoint(t, answering(401, `{"error":"invalid_client"}`))
			r := basicRequest(endpoint.URL)
			r.auth = auth
			failOnce(t, r)
			endpoint.only(t)
		})
	}
}

func TestTokenRequestFields(t *testing.T) {
	tests := map[string]struct {
		change func(*tokenRequest)
		want   url.Values
	}{
		"scopes": {
			func(r *tokenRequest) { r.scopes = []string{"b", "a", "c,d"} },
			url.Values{"scope": {"b a c,d"}},
		},
		"separator": {
			func(r *tokenRequest) { r.scopes, r.separator = []string{"b", "a"}, "," },
			url.Values{"scope": {"b,a"}},
		},
		"one scope": {
			func(r *tokenRequest) { r.scopes, r.separator = []string{"b"}, "," },
			url.Values{"scope": {"b"}},
		},
		"grant type": {
			func(r *tokenRequest) { r.grantType = "account_credentials" },
			url.Values{"grant_type": {"account_credentials"}},
		},
		"parameters": {
			func(r *tokenRequest) { r.params = url.Values{"audience": {"one", "two &="}, "empty": {""}, "none": {}} },
			url.Values{"audience": {"one", "two &="}, "empty": {""}},
		},
		"resources": {
			func(r *tokenRequest) {
				r.resources = []string{"https://a.example/", "https://b.example/x"}
			},
			url.Values{"resource": {"https://a.example/", "https://b.example/x"}},
		},
		"a parameter besides resources": {
			func(r *tokenRequest) {
				r.params, r.resources = url.Values{"resource": {"https://a.example/"}}, []string{"https://b.example/"}
			},
			url.Values{"resource": {"https://a.example/", "https://b.example/"}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			endpoint := newEndpoint(t, answering(200, goodAnswer))
			r := basicRequest(endpoint.URL)
			test.change(r)
			fetchOnce(t, r)
			if test.want.Get("grant_type") == "" {
				test.want.Set("grant_type", "client_credentials")
			}
			if form := endpoint.only(t).form(t); !reflect.DeepEqual(form, test.want) {
				t.Errorf("fields %v, want %v", form, test.want)
			}
		})
	}
}

// TestRepeatedRequestsAreEqual guards the request's own values against being changed by a use.
func TestRepeatedRequestsAreEqual(t *testing.T) {
	endpoint := newEndpoint(t, answering(200, goodAnswer))
	r := basicRequest(endpoint.URL)
	r.params, r.resources = url.Values{"resource": {"x"}}, []string{"y"}
	fetchOnce(t, r)
	fetchOnce(t, r)
	if requests := endpoint.all(); requests[0].body != requests[1].body {
		t.Errorf("first %q, then %q", requests[0].body, requests[1].body)
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
			endpoint := newEndpoint(t, answering(200, goodAnswer))
			r := basicRequest(endpoint.URL + test.url)
			r.auth, r.format = postAuth{secret: "s3cret"}, test.format
			r.params = url.Values{"audience": {"1", "<2>"}}
			fetchOnce(t, r)
			got := endpoint.only(t)
			if got.method != "POST" || got.query != test.query || got.body != test.body || got.length != int64(len(test.body)) {
				t.Errorf("%s ?%s %q (%d)", got.method, got.query, got.body, got.length)
			}
			if typ := got.header.Get("Content-Type"); typ != test.contentType {
				t.Errorf("Content-Type %q, want %q", typ, test.contentType)
			}
		})
	}
}

func TestBasicGoesWithEveryFormat(t *testing.T) {
	for _, format := range []string{"form", "json", "query"} {
		endpoint := newEndpoint(t, answering(200, goodAnswer))
		r := basicRequest(endpoint.URL)
		r.format = format
		fetchOnce(t, r)
		got := endpoint.only(t)
		if got.header.Get("Authorization") == "" || strings.Contains(got.body+got.query, "s3cret") || strings.Contains(got.body+got.query, "client_id") {
			t.Errorf("%s: %+v", format, got)
		}
	}
}

func TestTokenRequestHeaders(t *testing.T) {
	endpoint := newEndpoint(t, answering(200, goodAnswer))
	r := basicRequest(endpoint.URL)
	r.headers = http.Header{"x-tenant": {"t1", "t2"}, "Accept": {"application/vnd.example+json"}}
	fetchOnce(t, r)
	got := endpoint.only(t).header
	if !reflect.DeepEqual(got["X-Tenant"], []string{"t1", "t2"}) || got.Get("Accept") != "application/vnd.example+json" {
		t.Errorf("headers %v", got)
	}
	if !reflect.DeepEqual(r.headers, http.Header{"x-tenant": {"t1", "t2"}, "Accept": {"application/vnd.example+json"}}) {
		t.Errorf("the request's headers changed: %v", r.headers)
	}
}

// TestRedirectGetsNoSecret: a 307 would re-post the secret to another host.
func TestRedirectGetsNoSecret(t *testing.T) {
	elsewhere := newEndpoint(t, answering(200, goodAnswer))
	for _, status := range []int{300, 301, 302, 303, 304, 307, 308} {
		for _, location := range []string{elsewhere.URL, "http://[::1", ""} {
			endpoint := newEndpoint(t, answering(status, "", "Location", location))
			failure := failOnce(t, basicRequest(endpoint.URL))
			if failure.class != classConfiguration || failure.status != 502 || !strings.Contains(failure.message, "redirect") || failure.transient {
				t.Errorf("%d to %q: %+v", status, location, failure)
			}
		}
	}
	if got := elsewhere.all(); len(got) > 0 {
		t.Errorf("the redirect was followed: %+v", got)
	}
}

func TestWaiterLeaves(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{})
	endpoint := newEndpoint(t, func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := basicRequest(endpoint.URL).do(ctx, newTokenClient(http.DefaultTransport))
	if err != context.Canceled { //nolint:errorlint // the very error is promised
		t.Errorf("error %v", err)
	}
}

func TestDeadlineIsATimeout(t *testing.T) {
	release := make(chan struct{})
	endpoint := newEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		<-release
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := basicRequest(endpoint.URL).do(ctx, newTokenClient(http.DefaultTransport))
	failure := asTokenError(err)
	if failure.status != 504 || failure.class != classOutage || failure.transient {
		t.Errorf("failure %+v", failure)
	}
}

// TestLibraryErrorsAreNotPassedOn: those of net/url quote the URL.
func TestLibraryErrorsAreNotPassedOn(t *testing.T) {
	failure := failOnce(t, basicRequest("https://auth.example/%zz?key=hunter2"))
	if failure.class != classConfiguration || strings.Contains(failure.Error(), "hunter2") {
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
