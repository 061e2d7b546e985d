package adminapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
)

func TestRequestCounts(t *testing.T) {
	text := "# TYPE other counter\nother{connection=\"a\",outcome=\"sent\"} 9\n" +
		"# TYPE caddy_http_helper_requests_total counter\n" +
		"caddy_http_helper_requests_total{connection=\"a\",outcome=\"sent\"} 40\n" +
		"caddy_http_helper_requests_total{connection=\"a\",outcome=\"kept\"} 2\n" +
		"caddy_http_helper_requests_total{connection=\"a\",outcome=\"no_token\"} 3\n" +
		"caddy_http_helper_requests_total{connection=\"b\\\"\",outcome=\"refused\"} 5\n" +
		"# TYPE caddy_http_helper_responses_total counter\n" +
		"caddy_http_helper_responses_total{connection=\"a\",code=\"2xx\"} 33\n" +
		"caddy_http_helper_responses_total{connection=\"a\",code=\"5xx\"} 6\n" +
		"caddy_http_helper_responses_total{connection=\"a\",code=\"error\"} 1\n"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(server.Close)
	client, err := New(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	counts, err := client.RequestCounts(t.Context())
	want := map[string]RequestCounts{"a": {Requests: 45, NoToken: 3, Failed: 7}, `b"`: {Requests: 5, Refused: 5}}
	if err != nil || !reflect.DeepEqual(counts, want) {
		t.Errorf("%+v %v, want %+v", counts, err, want)
	}
	if got := counts["a"].Errors(); got != 10 {
		t.Errorf("%d errors", got)
	}
	text = "{}"
	if counts, err := client.RequestCounts(t.Context()); err == nil {
		t.Errorf("%v without metrics", counts)
	}
}
