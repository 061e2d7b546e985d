package oauthtest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Secret is long enough for every HMAC.
var Secret = strings.Repeat("0123456789abcdef", 4)

// Request is a token request as it arrived.
type Request struct {
	Method, Path, Query, Body string
	Header                    http.Header
	Length                    int64
}

func (w Request) Form(t *testing.T) url.Values {
	t.Helper()
	form, err := url.ParseQuery(w.Body)
	if err != nil {
		t.Fatalf("body is no form: %v", err)
	}
	return form
}

// Endpoint is a token endpoint that records what arrives.
type Endpoint struct {
	*httptest.Server
	mu       sync.Mutex
	requests []Request
}

// NewEndpoint answers every request with handler, after recording it.
func NewEndpoint(t *testing.T, handler http.HandlerFunc) *Endpoint {
	t.Helper()
	endpoint := new(Endpoint)
	endpoint.Server = httptest.NewServer(endpoint.recording(handler))
	t.Cleanup(endpoint.Close)
	return endpoint
}

func (e *Endpoint) recording(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		e.mu.Lock()
		e.requests = append(e.requests, Request{
			Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery, Body: string(body),
			Header: req.Header, Length: req.ContentLength,
		})
		e.mu.Unlock()
		req.Body = io.NopCloser(strings.NewReader(string(body)))
		handler(w, req)
	}
}

func (e *Endpoint) All() []Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests
}

// Only returns the one request that arrived.
func (e *Endpoint) Only(t *testing.T) Request {
	t.Helper()
	requests := e.All()
	if len(requests) != 1 {
		t.Fatalf("%d token requests arrived, want 1", len(requests))
	}
	return requests[0]
}

// Responds returns a handler that gives one fixed answer.
func Responds(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

const GoodResponse = `{"access_token":"tok-1","token_type":"Bearer","expires_in":3600}`
