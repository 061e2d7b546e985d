package integration

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// overTLS is a world whose app speaks TLS to the sidecar, as the configuration returned.
func overTLS(t *testing.T) (*world, *tls.Config) {
	t.Helper()
	ca, w := harness.NewCA(t), newWorld(t, nil)
	cert, key := ca.ServerPEM(t)
	harness.WriteFile(t, filepath.Join(w.Dir, "cert.pem"), cert)
	harness.WriteFile(t, filepath.Join(w.Dir, "key.pem"), key)
	config := w.inline(options{})
	config.Options += "\nauto_https disable_redirects"
	config.Site += "\ntls " + filepath.Join(w.Dir, "cert.pem") + " " + filepath.Join(w.Dir, "key.pem")
	w.Run(t, config)
	w.URL = strings.Replace(w.URL, "http://", "https://", 1)
	return w, &tls.Config{RootCAs: ca.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS13}
}

// TestBrokenResponseOverHTTP3: a response that breaks off must not look complete.
func TestBrokenResponseOverHTTP3(t *testing.T) {
	t.Parallel()
	w, config := overTLS(t)
	transport := &http3.Transport{TLSClientConfig: config}
	defer transport.Close()
	w.Client.Transport = transport
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			rw.Header().Set("Content-Length", "100")
		}
		_, _ = io.WriteString(rw, "part")
		_ = http.NewResponseController(rw).Flush()
		panic(http.ErrAbortHandler)
	}))
	for _, path := range []string{"/length", "/chunked"} {
		var body []byte
		res, err := w.Client.Get(w.URL + path) // which may not wait for the body
		if err == nil {
			body, err = io.ReadAll(res.Body)
			_ = res.Body.Close()
		}
		if failed, ok := errors.AsType[*http3.Error](err); !ok || failed.ErrorCode == http3.ErrCodeNoError {
			t.Errorf("%s: the app got %q, %v", path, body, err)
		}
	}
	eventually(t, "the break was logged", func() bool {
		return strings.Contains(w.Logs(), "broke off") || strings.Contains(w.Logs(), "aborting with incomplete response")
	})
}

// TestTrailersOfARequestWithALength: to an API over HTTP/1.1 only a chunked request has trailers.
func TestTrailersOfARequestWithALength(t *testing.T) {
	t.Parallel()
	w, config := overTLS(t)
	w.Client.Transport = &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	defer w.Client.CloseIdleConnections()
	got := make(chan string, 1)
	w.api.RespondWith(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- string(body) + " " + r.Trailer.Get("X-T")
	}))
	req, _ := http.NewRequest(http.MethodPost, w.URL+"/", strings.NewReader("body"))
	req.Trailer = http.Header{"X-T": {"value"}}
	res, err := w.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	equal(t, "version", res.ProtoMajor, 2)
	equal(t, "body and trailer", <-got, "body value")
}
