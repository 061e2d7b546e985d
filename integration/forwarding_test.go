package integration

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// randomBody is the same at every run.
func randomBody(length int) []byte {
	body := make([]byte, length)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(body)
	return body
}

func TestEveryMethodWithALargeBody(t *testing.T) {
	t.Parallel()
	body := randomBody(300_000)
	eachForm(t, options{base: "/v2"}, func(t *testing.T, w *world) {
		w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			received, _ := io.ReadAll(r.Body)
			if r.Method != http.MethodHead {
				_, _ = rw.Write(received)
			}
		}))
		for _, method := range []string{
			http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
			http.MethodOptions, "PROPFIND", "PURGE", "QUERY", "x-own",
		} {
			response := w.Send(t, method, "/things", body, "Content-Type", "application/x-own")
			wantStatus(t, response, http.StatusOK)
			r := w.api.Last(t)
			equal(t, "method", r.Method, method)
			equal(t, method+" body", r.BodySHA256, harness.SHA256(body))
			equal(t, method+" Content-Type", r.Header.Get("Content-Type"), "application/x-own")
			if method != http.MethodHead && response.Text != string(body) {
				t.Errorf("%s: the response's body changed", method)
			}
		}
	})
}

func TestChunkedBodyWithTrailers(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Trailer", "X-Down")
		received, _ := io.ReadAll(r.Body)
		_, _ = rw.Write(received)
		rw.Header().Set("X-Down", "down "+r.Trailer.Get("X-Up"))
	}))
	req, err := http.NewRequest(http.MethodPost, w.URL+"/", io.MultiReader(strings.NewReader("a"), bytes.NewReader(randomBody(100_000))))
	if err != nil {
		t.Fatal(err)
	}
	req.Trailer = http.Header{"X-Up": {"up"}}
	response := w.MustDo(t, req)
	wantStatus(t, response, http.StatusOK)
	equal(t, "length", len(response.Text), 100_001)
	equal(t, "trailer up", w.api.Last(t).Trailer.Get("X-Up"), "up")
	equal(t, "trailer down", response.Trailer.Get("X-Down"), "down up")
}

func TestPathsAndQueriesArriveUnchanged(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "/", "/v2", "/v2/", "/a%2Fb/v2"} {
		t.Run("base "+base, func(t *testing.T) {
			t.Parallel()
			w := startInline(t, options{base: base})
			prefix := strings.TrimSuffix(base, "/")
			for _, target := range []string{
				"/", "/hello", "/hello/", "//double//slash", "/a%2Fb", "/a%20b%25c", "/%41%7e", "/caf%C3%A9", "/a;b=c,d@e:f!$&'()*+=",
				"/?", "/x?a=b&a=c", "/x?q=a+b%20c&d=%2F&e", "/x?a;b=c", "/x?%zz", "/...", "/.hidden", "/a..b/..c/d..", "/%2e.x",
				"/x?redirect=http://elsewhere.example/../..",
			} {
				response := w.raw(t, "GET "+target+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
				if response.StatusCode != http.StatusOK {
					t.Errorf("%s: status %d, %s", target, response.StatusCode, response.Header.Get("Proxy-Status"))
					continue
				}
				equal(t, target, w.api.Last(t).RequestURI, prefix+target)
			}
		})
	}
}

func TestPathsThatLeaveTheBaseAreRefused(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{base: "/v2"})
	for _, path := range []string{
		"/..", "/../admin", "/a/../b", "/a/..", "/.", "/a/./b", "/%2e%2e/admin", "/.%2e/x", "/%2E./x", "/%252e%252e/x", "/a/%252e/b",
		"/..%2fadmin", "/..%252fadmin", "/a%2f..%2f..%2fadmin", "/%5c..%5cadmin", "/a%5cb", "/a%255cb", "/a\\b", "/\\..\\x", "/a%00b", "/a%2500b",
		"/..;/admin", "/..?x", "/a/%2e%2e%2f",
	} {
		response := w.raw(t, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if response.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400", path, response.StatusCode)
		}
	}
	equal(t, "API requests", w.api.Count(), 0)
	equal(t, "token requests", w.tokens.Count(), 0)
}

func TestRequestLinesCannotMoveTheTarget(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{base: "/v2"})
	elsewhere := harness.NewAPI(t, nil, nil)
	response := w.raw(t, "GET "+elsewhere.URL+"/x HTTP/1.1\r\nHost: "+elsewhere.Addr+"\r\nConnection: close\r\n\r\n")
	if response.StatusCode == http.StatusOK {
		equal(t, "request URI", w.api.Last(t).RequestURI, "/v2/x")
		equal(t, "Host", w.api.Last(t).Host, w.api.Addr)
	}
	for method, target := range map[string]string{"TRACE": "/", "CONNECT": elsewhere.Addr} {
		response := w.raw(t, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", method, target, elsewhere.Addr))
		wantSidecarError(t, response, http.StatusMethodNotAllowed, "http_request_error")
	}
	equal(t, "requests elsewhere", elsewhere.Count(), 0)
}

func TestTheAPISeesNothingOfTheProxy(t *testing.T) {
	t.Parallel()
	for name, directive := range map[string]string{"plain": "", "with header_up of another name": "header_up X-Extra y"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startInline(t, options{directive: directive})
			wantStatus(t, w.Get(t, "/", "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Host", "h", "X-Forwarded-Proto", "https",
				"X-Forwarded-Own", "o", "Forwarded", "for=1.2.3.4", "Via", "1.1 x"), http.StatusOK)
			r := w.api.Last(t)
			equal(t, "Host", r.Host, w.api.Addr)
			for name := range r.Header {
				if strings.HasPrefix(name, "X-Forwarded") || name == "Forwarded" || name == "Via" {
					t.Errorf("%s at the API: %q", name, r.Header[name])
				}
			}
		})
	}
}

// TestNoHeaderIsAdded has an app that says next to nothing: Go's http client would ask for a
// compressed response on its own, and decompress it silently.
func TestNoHeaderIsAdded(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	wantStatus(t, w.raw(t, "GET / HTTP/1.1\r\nHost: localhost\r\nX-One: 1\r\nConnection: close\r\n\r\n"), http.StatusOK)
	header := w.api.Last(t).Header
	equal(t, "X-One", header.Get("X-One"), "1")
	if len(header) != 2 || header.Get("Authorization") == "" {
		t.Errorf("at the API: %q, want X-One and Authorization only", slices.Sorted(maps.Keys(header)))
	}
}

// TestCompressedResponseStaysAsItIs has an API that compresses without and with a request for it.
func TestCompressedResponseStaysAsItIs(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	w.api.RespondWith(harness.Reply(http.StatusOK, "no gzip at all", "Content-Encoding", "gzip"))
	for _, accept := range []string{"", "Accept-Encoding: gzip\r\n"} {
		response := w.raw(t, "GET / HTTP/1.1\r\nHost: localhost\r\n"+accept+"Connection: close\r\n\r\n")
		wantStatus(t, response, http.StatusOK)
		equal(t, "Content-Encoding", response.Header.Get("Content-Encoding"), "gzip")
		equal(t, "Content-Length", response.Header.Get("Content-Length"), "14")
		equal(t, "body", response.Text, "no gzip at all")
	}
}

func TestOverTLSHostNameAndCertificateAreTheBaseURLs(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	w := newWorld(t, ca)
	// The address to dial is given; the name is one that no resolver knows.
	w.Run(t, w.expand(options{env: []string{"SSL_CERT_FILE=" + ca.File}}, harness.Config{
		Site: "http_helper https://api.test/v2 {\ntoken_url $TOKENS\nclient_id app\nclient_secret {env.SECRET}\nto " + w.api.Addr + "\n}",
	}))
	wantStatus(t, w.Get(t, "/x"), http.StatusOK)
	r := w.api.Last(t)
	equal(t, "Host", r.Host, "api.test")
	equal(t, "server name", r.TLS.ServerName, "api.test")
	equal(t, "request URI", r.RequestURI, "/v2/x")
	equal(t, "protocol", r.Proto, "HTTP/2.0")
}

func TestWrongCertificateGetsNoToken(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	w := newWorld(t, ca)
	w.Run(t, w.expand(options{env: []string{"SSL_CERT_FILE=" + ca.File}}, harness.Config{
		Site: "http_helper https://api.example.com {\ntoken_url $TOKENS\nclient_id app\nclient_secret {env.SECRET}\nto " + w.api.Addr + "\n}",
	}))
	wantStatus(t, w.Get(t, "/x"), http.StatusBadGateway)
	equal(t, "API requests", w.api.Count(), 0)
}

func TestCleartextGoesOnlyToTheBaseURLsOwnAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	elsewhere := harness.NewAPI(t, nil, nil)
	w.Run(t, w.inline(options{directive: "to " + elsewhere.Addr}))
	wantSidecarError(t, w.Get(t, "/"), http.StatusBadGateway, "proxy_configuration_error")
	equal(t, "requests elsewhere", elsewhere.Count(), 0)
}

func TestRedirectsAreHandedToTheApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	config := w.inline(options{base: "/v2"})
	plain := config.Site
	config.Site = "handle_path /svc/* {\n" + plain + "\n}\nhandle {\n" + plain + "\n}"
	w.Run(t, config)
	for _, c := range []struct{ location, plain, prefixed string }{
		{w.api.URL + "/v2/next?x=1#f", "/next?x=1#f", "/svc/next?x=1#f"},
		{"/v2/next", "/next", "/svc/next"},
		{"next", "/a/next", "/svc/a/next"},
		{w.api.URL + "/v2", "/", "/svc/"},
		{"/login", w.api.URL + "/login", w.api.URL + "/login"},
		{w.api.URL + "/v20/x", w.api.URL + "/v20/x", w.api.URL + "/v20/x"},
		{"https://login.example.com/v2/x", "https://login.example.com/v2/x", "https://login.example.com/v2/x"},
	} {
		w.api.RespondWith(harness.Reply(http.StatusFound, "{}", "Location", c.location, "Content-Location", c.location))
		for path, want := range map[string]string{"/a/b": c.plain, "/svc/a/b": c.prefixed} {
			response := w.Get(t, path)
			wantStatus(t, response, http.StatusFound)
			for _, name := range []string{"Location", "Content-Location"} {
				got := response.Header.Get(name)
				if got != want && !(strings.HasSuffix(want, "/") && got == strings.TrimSuffix(want, "/")) {
					t.Errorf("%s %q requested as %s: got %q, want %q", name, c.location, path, got, want)
				}
			}
		}
	}
}
