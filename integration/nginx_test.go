package integration

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// startNginx serves the world's API behind nginx, over HTTP/2, and returns its URL. nginx closes each
// connection after 100 requests, whatever is on its way then.
func startNginx(t *testing.T, w *world, ca *harness.CA) string {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			t.Skip("nginx is not installed")
		}
	}
	dir, port := t.TempDir(), harness.FreePort(t)
	cert := ca.ServerConfig().Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	harness.WriteFile(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	conf := filepath.Join(dir, "nginx.conf")
	harness.WriteFile(t, conf, strings.NewReplacer("$DIR", dir, "$PORT", port, "$API", w.api.Addr).Replace(`
daemon off;
master_process off;
pid $DIR/nginx.pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path $DIR/body;
	proxy_temp_path $DIR/proxy;
	fastcgi_temp_path $DIR/fastcgi;
	uwsgi_temp_path $DIR/uwsgi;
	scgi_temp_path $DIR/scgi;
	upstream api {
		server $API;
		keepalive 20;
	}
	server {
		listen 127.0.0.1:$PORT ssl http2;
		keepalive_requests 100;
		ssl_certificate $DIR/cert.pem;
		ssl_certificate_key $DIR/key.pem;
		location / {
			proxy_pass http://api;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
		}
	}
}
`))
	harness.Background(t, exec.Command(program, "-e", "stderr", "-c", conf, "-p", dir))
	address := net.JoinHostPort("127.0.0.1", port)
	eventually(t, "nginx listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return "https://" + address
}

func TestNoRequestIsLostWhenNginxClosesItsConnections(t *testing.T) {
	t.Parallel()
	const workers, each = 20, 100
	ca := harness.NewCA(t)
	w := newWorld(t, nil)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, _ = rw.Write(body)
	}))
	config := w.inline(options{directive: "transport http {\ntls_trust_pool file " + ca.File + "\n}"})
	config.Site = strings.Replace(config.Site, w.api.URL, startNginx(t, w, ca), 1)
	w.Run(t, config)
	var lost atomic.Int64
	var all sync.WaitGroup
	for worker := range workers {
		all.Go(func() {
			for i := range each {
				body := fmt.Sprintf("%d of %d %s", i, worker, strings.Repeat("x", 2000))
				response, err := postBody(w, body)
				if err != nil || response.StatusCode != http.StatusOK || response.Text != body {
					if lost.Add(1) == 1 {
						t.Errorf("lost: %v %+v", err, response)
					}
				}
			}
		})
	}
	all.Wait()
	equal(t, "lost", lost.Load(), 0)
	equal(t, "requests of the API", w.api.Count(), workers*each)
}

func postBody(w *world, body string) (*harness.Response, error) {
	req, err := http.NewRequest(http.MethodPost, w.URL+"/", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	return w.Do(req)
}
