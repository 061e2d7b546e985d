package harness

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// TokenRequest is a request to a token endpoint, as it came in.
type TokenRequest struct {
	At         time.Time
	Method     string
	RequestURI string
	Host       string
	Header     http.Header
	Body       string
	TLS        *tls.ConnectionState

	// The token that Grant issued, if it did.
	Token string
}

// Form is the body's fields.
func (r *TokenRequest) Form() url.Values {
	form, _ := url.ParseQuery(r.Body)
	return form
}

// TokenEndpoint is a token endpoint that counts and records its requests, and responds as configured.
type TokenEndpoint struct {
	URL  string // of the token endpoint itself
	Base string // the server's root

	mu       sync.Mutex
	handler  http.Handler
	requests []*TokenRequest
	issued   map[string]time.Time // token to its expiry
	changed  chan struct{}        // closed and replaced at every request
}

// NewTokenEndpoint serves a token endpoint until the test ends; with a CA over TLS. By default it
// grants tokens of an hour.
func NewTokenEndpoint(tb testing.TB, ca *CA) *TokenEndpoint {
	tb.Helper()
	e := &TokenEndpoint{issued: map[string]time.Time{}, changed: make(chan struct{})}
	e.RespondWith(e.Grant(time.Hour))
	e.Base = serve(tb, e, ca)
	e.URL = e.Base + "/oauth2/token"
	return e
}

// serve runs a server until the test ends, and returns its URL.
func serve(tb testing.TB, handler http.Handler, ca *CA) string {
	tb.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = discardLog
	if ca == nil {
		// HTTP/2 without TLS too, for gRPC.
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetHTTP1(true)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
	} else {
		server.EnableHTTP2 = true
		server.TLS = ca.ServerConfig()
		server.StartTLS()
	}
	tb.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// ServeHTTP implements http.Handler.
func (e *TokenEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	handler, _ := e.record(&TokenRequest{
		At: time.Now(), Method: r.Method, RequestURI: r.RequestURI, Host: r.Host,
		Header: r.Header.Clone(), Body: string(body), TLS: r.TLS,
	})
	handler.ServeHTTP(w, r)
}

func (e *TokenEndpoint) record(request *TokenRequest) (handler http.Handler, number int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = append(e.requests, request)
	close(e.changed)
	e.changed = make(chan struct{})
	return e.handler, len(e.requests)
}

// RespondWith sets the handler of requests.
func (e *TokenEndpoint) RespondWith(handler http.Handler) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.handler = handler
}

// Grant responds with a new token of that lifetime.
func (e *TokenEndpoint) Grant(lifetime time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		Reply(http.StatusOK, map[string]any{
			"access_token": e.Issue(lifetime), "token_type": "Bearer", "expires_in": int(lifetime.Seconds()),
		}).ServeHTTP(w, nil)
	})
}

// Issue makes a new token of that lifetime, for responses that Grant does not make.
func (e *TokenEndpoint) Issue(lifetime time.Duration) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	token := fmt.Sprintf("token-%d", len(e.issued)+1)
	e.issued[token] = time.Now().Add(lifetime)
	return token
}

// Revoke invalidates all tokens that were issued so far.
func (e *TokenEndpoint) Revoke() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for token := range e.issued {
		e.issued[token] = time.Time{}
	}
}

// Valid reports whether a token was issued and has not expired.
func (e *TokenEndpoint) Valid(token string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	expiry, ok := e.issued[token]
	return ok && time.Now().Before(expiry)
}

// Reply responds with a status and JSON; name and value of headers follow in turn.
func Reply(status int, body any, headers ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		if text, ok := body.(string); ok {
			_, _ = io.WriteString(w, text)
			return
		}
		_ = json.NewEncoder(w).Encode(body)
	})
}

// Refuse responds with an error of RFC 6749.
func Refuse(status int, code string) http.Handler {
	return Reply(status, map[string]string{"error": code})
}

// Slow waits before it responds, unless the client leaves.
func Slow(wait time.Duration, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(wait):
			handler.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}

// Blocked responds when the channel is closed, unless the client leaves.
func Blocked(release <-chan struct{}, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
			handler.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}

// Requests returns the requests so far.
func (e *TokenEndpoint) Requests() []*TokenRequest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]*TokenRequest(nil), e.requests...)
}

// Count is the number of requests so far.
func (e *TokenEndpoint) Count() int { return len(e.Requests()) }

// Only returns the single request that there must have been.
func (e *TokenEndpoint) Only(tb testing.TB) *TokenRequest {
	tb.Helper()
	requests := e.Requests()
	if len(requests) != 1 {
		tb.Fatalf("%d token requests, want 1", len(requests))
	}
	return requests[0]
}

// Await waits until there have been so many requests.
func (e *TokenEndpoint) Await(tb testing.TB, count int) {
	tb.Helper()
	deadline := time.After(Timeout)
	for {
		e.mu.Lock()
		have, changed := len(e.requests), e.changed
		e.mu.Unlock()
		if have >= count {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			tb.Fatalf("%d token requests, waited for %d", have, count)
		}
	}
}

// Bearer is the bearer token in an Authorization header.
func Bearer(header http.Header) string {
	token, ok := strings.CutPrefix(header.Get("Authorization"), "Bearer ")
	if !ok {
		return ""
	}
	return token
}

// AccessToken is the token in an Authorization header, a bearer token or one that is bound to a key
// (RFC 9449).
func AccessToken(header http.Header) string {
	if token, ok := strings.CutPrefix(header.Get("Authorization"), "DPoP "); ok {
		return token
	}
	return Bearer(header)
}
