package httptransport

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// hidingTransport fails like Caddy's http transport: the cause of a failed dial is not in the error.
type hidingTransport struct{ hidden error }

func (t hidingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := new(http.Transport).RoundTrip(req)
	if err != nil {
		return nil, t.hidden
	}
	return resp, nil
}

func TestErrorOfAFailedDialHasItsCause(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	for name, test := range map[string]struct {
		hidden error
		want   bool
	}{
		"dial error":  {reverseproxy.DialError{}, true},
		"other error": {errors.New("not of a dial"), false},
	} {
		req := httptest.NewRequest(http.MethodGet, server.URL, nil)
		resp, err := WithDialCause(hidingTransport{test.hidden}.RoundTrip).RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if !errors.Is(err, test.hidden) || errors.Is(err, syscall.ECONNREFUSED) != test.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
