package httptransport

import "net/http"

// WithUserAgent adds a User-Agent to requests that have none.
type WithUserAgent struct {
	http.RoundTripper
	Agent string
}

// RoundTrip implements http.RoundTripper.
func (t WithUserAgent) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, given := req.Header["User-Agent"]; !given {
		req = req.Clone(req.Context())
		req.Header.Set("User-Agent", t.Agent)
	}
	return t.RoundTripper.RoundTrip(req)
}
