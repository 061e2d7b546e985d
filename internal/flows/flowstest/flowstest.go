// Package flowstest has servers that helper flows send their requests to in tests.
package flowstest

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// NewServer starts a server and returns its URL.
func NewServer(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// NewHangingServer starts a server that never responds, and returns its URL and a channel that reports
// the arrival of a request.
func NewHangingServer(t *testing.T) (url string, arrived <-chan struct{}) {
	t.Helper()
	arrivals := make(chan struct{}, 1)
	return NewServer(t, func(_ http.ResponseWriter, r *http.Request) {
		arrivals <- struct{}{}
		<-r.Context().Done()
	}), arrivals
}
