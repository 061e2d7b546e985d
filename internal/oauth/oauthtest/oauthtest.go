// Package oauthtest has token endpoints and issuers for tests. It must not be imported outside of them.
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

// Secret is a client secret, long enough for every HMAC.
var Secret = strings.Repeat("0123456789abcdef", 4)

// Request is a token request as it arrived.
type Request struct {
	Method, Path, Query, Body string
	Header                    http.Header
	Length                    int64
}

// Form returns the fields in the body.
func (r Request) Form(t *testing.T) url.Values {
	t.Helper()
	form, err := url.ParseQuery(r.Body)
	if err != nil {
		t.Fatalf("the body is not a form: %v", err)
	}
	return form
}

// Endpoint is a token endpoint that records what arrives.
type Endpoint struct {
	*httptest.Server
	mu       sync.Mutex
	requests []Request
}

// NewEndpoint starts an endpoint that records every request and then has handler respond.
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

// All returns the requests that have arrived.
func (e *Endpoint) All() []Request {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests
}

// Only returns the only request that has arrived.
func (e *Endpoint) Only(t *testing.T) Request {
	t.Helper()
	requests := e.All()
	if len(requests) != 1 {
		t.Fatalf("%d token requests arrived, want 1", len(requests))
	}
	return requests[0]
}

// Responds returns a handler with a fixed response. header has names and values of fields.
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

// GoodResponse is the body of a response with a token.
const GoodResponse = `{"access_token":"tok-1","token_type":"Bearer","expires_in":3600}`
