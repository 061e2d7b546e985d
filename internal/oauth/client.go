package oauth

import "net/http"

// NewClient returns a client for requests that carry credentials. It follows no redirects, because the
// credentials are for the configured host only.
func NewClient(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: noRedirects{transport}}
}

// noRedirects turns every redirect into an error, before net/http reads where it leads.
type noRedirects struct {
	http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t noRedirects) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 || resp.StatusCode > 399 {
		return resp, nil
	}
	resp.Body.Close()
	failure := ConfigurationErrorf("the server responded with a redirect (status %d), which is not followed: check the URL", resp.StatusCode)
	failure.Responded, failure.ServerStatus = true, resp.StatusCode
	return nil, failure
}
