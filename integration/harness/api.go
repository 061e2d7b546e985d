package harness

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"io"
	stdlog "log"
	"net/http"
	"strconv"
	"sync"
	"testing"
)

var discardLog = stdlog.New(io.Discard, "", 0)

// APIRequest is a request to an API, as it came in.
type APIRequest struct {
	Method     string
	RequestURI string
	Host       string
	Proto      string
	Header     http.Header
	Trailer    http.Header
	BodyLength int64
	BodySHA256 string
	TLS        *tls.ConnectionState
}

// API is a protected API that counts and records its requests, and responds as configured.
type API struct {
	URL  string // root, without a slash at the end
	Addr string // host:port

	mu       sync.Mutex
	handler  http.Handler
	accept   func(token string) bool
	requests []*APIRequest
}

// NewAPI serves an API until the test ends; with a CA over TLS. It responds "hello" to
// requests with a token of the token endpoint and 401 to others; without an endpoint, "hello" to all.
func NewAPI(tb testing.TB, ca *CA, tokens *TokenEndpoint) *API {
	tb.Helper()
	a := &API{}
	a.RespondWith(http.HandlerFunc(hello))
	if tokens != nil {
		a.Accept(tokens.Valid)
	}
	a.URL = serve(tb, a, ca)
	a.Addr = hostOf(a.URL)
	return a
}

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

// RespondWith sets the handler of requests with a good token.
func (a *API) RespondWith(handler http.Handler) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.handler = handler
}

// Accept sets which tokens are good; nil: all, and none is needed.
func (a *API) Accept(accept func(token string) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.accept = accept
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	request := &APIRequest{
		Method: r.Method, RequestURI: r.RequestURI, Host: r.Host, Proto: r.Proto,
		Header: r.Header.Clone(), TLS: r.TLS,
	}
	a.mu.Lock()
	a.requests = append(a.requests, request)
	handler, accept := a.handler, a.accept
	a.mu.Unlock()

	if accept != nil && !accept(AccessToken(r.Header)) {
		// Without a look at the body, as APIs do.
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	body := &hashedBody{ReadCloser: r.Body, hash: sha256.New()}
	r.Body = body
	handler.ServeHTTP(w, r)

	// What the handler left of the body is read too, so that it is recorded.
	_, _ = io.Copy(io.Discard, body)
	a.mu.Lock()
	defer a.mu.Unlock()
	request.BodyLength, request.BodySHA256 = body.length, hex.EncodeToString(body.hash.Sum(nil))
	request.Trailer = r.Trailer.Clone()
}

// Requests returns the requests so far. Their bodies are complete once the response is.
func (a *API) Requests() []APIRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	requests := make([]APIRequest, len(a.requests))
	for i, r := range a.requests {
		requests[i] = *r
	}
	return requests
}

// Count is the number of requests so far.
func (a *API) Count() int { return len(a.Requests()) }

// Last returns the newest request.
func (a *API) Last(tb testing.TB) APIRequest {
	tb.Helper()
	requests := a.Requests()
	if len(requests) == 0 {
		tb.Fatal("no request reached the API")
	}
	return requests[len(requests)-1]
}

// Port is the port that the API listens on.
func (a *API) Port() string { return portOf(a.URL) }

// SHA256 is the digest of a body in the form of APIRequest.
func SHA256(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// Status responds with a status and its number as the body.
func Status(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strconv.Itoa(status))
	})
}
