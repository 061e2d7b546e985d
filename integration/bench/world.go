package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// accessToken is as long as many JWTs are.
var accessToken = strings.Repeat("0123456789abcdef", 40)

// world is what the contestants need: an API, which is an nginx, and a token endpoint.
type world struct {
	dir              string
	apiPlain, apiTLS string // ports
	tokens           *httptest.Server
	granted          atomic.Int64 // tokens
	procs            []*proc
}

func newWorld(dir string) (*world, error) {
	for _, program := range []string{"wrk", "nginx"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("%s is needed: run.sh installs it on Debian", program)
		}
	}
	w := &world{dir: dir, apiPlain: freePort(), apiTLS: freePort()}
	w.tokens = httptest.NewServer(http.HandlerFunc(w.grant))
	err := errors.Join(w.writeCertificate(), w.write("wrk.lua", wrkScript), w.write("1k", strings.Repeat("x", 1<<10)),
		w.write("100k", strings.Repeat("x", 100<<10)), w.startAPI())
	if err != nil {
		w.stop()
	}
	return w, err
}

func (w *world) stop() {
	for _, p := range w.procs {
		p.stop()
	}
	w.tokens.Close()
}

// grant serves the token endpoint: /short grants tokens that are refreshed after 2 s.
func (w *world) grant(rw http.ResponseWriter, r *http.Request) {
	lifetime := "3600"
	if r.URL.Path == "/short" {
		lifetime = "2.5"
	}
	rw.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(rw, `{"access_token":"%s%d","token_type":"Bearer","expires_in":%s}`, accessToken, w.granted.Add(1), lifetime)
}

// end stops one server.
func (w *world) end(p *proc) {
	p.stop()
	w.procs = slices.DeleteFunc(w.procs, func(other *proc) bool { return other == p })
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, content string) error {
	return os.WriteFile(w.file(name), []byte(content), 0o644) //nolint:gosec // nginx's workers have a user of their own
}

// run starts a server and waits until it listens.
func (w *world) run(port string, env []string, program string, args ...string) (*proc, error) {
	p, err := startProc(w.dir, env, program, args...)
	if err != nil {
		return nil, err
	}
	w.procs = append(w.procs, p)
	if err := await(port); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, p.log.String())
	}
	return p, nil
}

// await waits until a server listens on a port.
func await(port string) error {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			return conn.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("no server listens on port %s", port)
}

// startAPI runs the API. Requests without a token get status 403.
func (w *world) startAPI() error {
	err := w.write("api.conf", w.nginx(fmt.Sprintf(`
	root %s;
	server {
		listen 127.0.0.1:%s;
		listen 127.0.0.1:%s ssl http2;
		ssl_certificate cert.pem;
		ssl_certificate_key key.pem;
		if ($http_authorization !~ "^Bearer %s") { return 403; }
		location /upload { return 200 "ok"; }
	}`, w.dir, w.apiPlain, w.apiTLS, accessToken[:16])))
	if err != nil {
		return err
	}
	_, err = w.run(w.apiPlain, nil, "nginx", "-p", w.dir, "-c", w.file("api.conf"))
	return err
}

// nginx returns a whole configuration for the servers in it. It writes only into the benchmark's directory.
func (w *world) nginx(http string) string {
	return fmt.Sprintf(`
daemon off;
worker_processes 2;
error_log stderr crit;
pid %[1]s/nginx-%[2]s.pid;
events { worker_connections 4096; }
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	keepalive_requests 1000000000;
	open_file_cache max=10;
	large_client_header_buffers 4 16k;
	client_max_body_size 1m;
	client_body_buffer_size 128k;
	client_body_temp_path %[1]s;
	proxy_temp_path %[1]s;
	fastcgi_temp_path %[1]s;
	uwsgi_temp_path %[1]s;
	scgi_temp_path %[1]s;
%[3]s
}`, w.dir, freePort(), http)
}

// writeCertificate makes the API's certificate, which is its own authority.
func (w *world) writeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	keyPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	return errors.Join(w.write("cert.pem", cert), w.write("key.pem", keyPEM), w.write("both.pem", cert+keyPEM))
}

// freePort returns a port that no server listens on.
func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
