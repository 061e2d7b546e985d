package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"slices"
)

// contestant is a running proxy.
type contestant struct {
	name       string
	plain, tls string // ports: to the API in the clear, and over TLS
	caddyfile  string
	wrapper    []string // command and arguments that the proxy is started with, such as valgrind
	world      *world
	proc       *proc
}

// startAll runs all proxies that are installed on this machine. They stay up, idle, while others are
// measured.
func (w *world) startAll(s *settings) ([]*contestant, error) {
	var all []*contestant
	for _, c := range []struct {
		name  string
		start func(c *contestant) error
	}{
		{"sidecar", s.caddy("sidecar", sidecarConfig("token", ""))},
		{throughReverseProxy, s.caddy("sidecar", sidecarConfig("token", "use_reverse_proxy"))},
		{"sidecar-gogc200", s.caddy("sidecar", sidecarConfig("token", ""), "GOGC=200")},
		{"caddy", s.caddy("caddy", stockConfig)},
		{"nginx", startNginx},
		{"haproxy", startHAProxy},
		{"bare", startBare},
		{refreshing, s.caddy("sidecar", sidecarConfig("short", ""))},
	} {
		if !s.proxies.MatchString(c.name) {
			continue
		}
		contestant := &contestant{name: c.name, plain: freePort(), tls: freePort(), world: w}
		if err := c.start(contestant); err != nil {
			return nil, fmt.Errorf("starting %s: %w", c.name, err)
		}
		if contestant.proc == nil {
			log.Printf("skipped: there is no %s", c.name)
			continue
		}
		all = append(all, contestant)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("-proxies matches none that is here: %v", s.proxies)
	}
	log.Printf("contestants: %s", names(all, func(c *contestant) string { return c.name }))
	return all, nil
}

// caddy starts a Caddy, if its binary was given. The environment is in addition to the usual one.
func (s *settings) caddy(binary string, config func(*contestant) string, env ...string) func(*contestant) error {
	return func(c *contestant) (err error) {
		if s.binaries[binary] == "" {
			return nil
		}
		// How much of a file becomes resident depends on how it came into the page cache: so each is a new copy.
		path := c.world.file(c.name)
		if err := copyFile(path, s.binaries[binary]); err != nil {
			return err
		}
		file := c.name + ".Caddyfile"
		site := fmt.Sprintf("{\n\tadmin unix/%s\n\tpersist_config off\n\tauto_https off\n}\n", c.adminSocket()) + config(c)
		if err := c.world.write(file, site); err != nil {
			return err
		}
		command := append(slices.Clone(c.wrapper), path, "run", "--config", file, "--adapter", "caddyfile")
		c.proc, err = c.world.run(c.tls, append(env, "SECRET=secret"), command[0], command[1:]...)
		return err
	}
}

// copyFile copies a program to a new file.
func copyFile(to, from string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755) //nolint:gosec // a program
}

func (c *contestant) adminSocket() string { return c.world.file(c.name + ".sock") }

// throughReverseProxy is the sidecar that forwards by reverse_proxy.
const throughReverseProxy = "sidecar-reverse-proxy"

func sidecarConfig(tokenPath, option string) func(*contestant) string {
	return func(c *contestant) string {
		const site = `
:%s {
	bind 127.0.0.1
	http_helper %s {
		token_url %s/%s
		client_id app
		client_secret {env.SECRET}
		%s
		%s
	}
}
`
		w := c.world
		return fmt.Sprintf(site, c.plain, "http://127.0.0.1:"+w.apiPlain, w.tokens.URL, tokenPath, option, "") +
			fmt.Sprintf(site, c.tls, "https://localhost:"+w.apiTLS, w.tokens.URL, tokenPath, option, w.trust())
	}
}

func stockConfig(c *contestant) string {
	const site = `
:%s {
	bind 127.0.0.1
	reverse_proxy %s {
		header_up Authorization "Bearer %s"
		%s
	}
}
`
	w := c.world
	return fmt.Sprintf(site, c.plain, "http://127.0.0.1:"+w.apiPlain, accessToken, "") +
		fmt.Sprintf(site, c.tls, "https://localhost:"+w.apiTLS, accessToken, w.trust())
}

// trust makes a Caddy accept the API's certificate.
func (w *world) trust() string {
	return "transport http {\n\t\t\ttls_trust_pool file " + w.file("cert.pem") + "\n\t\t}"
}

// startNginx runs nginx as a proxy. It cannot speak HTTP/2 to an API.
func startNginx(c *contestant) (err error) {
	const server = `
	upstream %[1]s { server 127.0.0.1:%[2]s; keepalive 64; }
	server {
		listen 127.0.0.1:%[3]s;
		location / {
			proxy_pass %[1]s://%[1]s;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Authorization "Bearer %[4]s";
			proxy_ssl_name localhost;
			proxy_ssl_verify on;
			proxy_ssl_trusted_certificate cert.pem;
			proxy_request_buffering off;
		}
	}`
	w := c.world
	config := w.nginx(fmt.Sprintf(server, "http", w.apiPlain, c.plain, accessToken) +
		fmt.Sprintf(server, "https", w.apiTLS, c.tls, accessToken))
	if err := w.write("nginx.conf", config); err != nil {
		return err
	}
	c.proc, err = w.run(c.tls, nil, "nginx", "-p", w.dir, "-c", w.file("nginx.conf"))
	return err
}

func startHAProxy(c *contestant) (err error) {
	if _, err := exec.LookPath("haproxy"); err != nil {
		return nil //nolint:nilerr // it is left out
	}
	w := c.world
	config := fmt.Sprintf(`
global
	nbthread 2
	maxconn 4096
defaults
	mode http
	timeout client 60s
	timeout server 60s
	timeout connect 5s
	http-reuse always
listen plain
	http-request set-header Authorization "Bearer %[1]s"
	bind 127.0.0.1:%[2]s
	server api 127.0.0.1:%[3]s
listen tls
	http-request set-header Authorization "Bearer %[1]s"
	bind 127.0.0.1:%[4]s
	server api 127.0.0.1:%[5]s ssl verify required ca-file %[6]s sni str(localhost) alpn h2
`, accessToken, c.plain, w.apiPlain, c.tls, w.apiTLS, w.file("cert.pem"))
	if err := w.write("haproxy.cfg", config); err != nil {
		return err
	}
	c.proc, err = w.run(c.tls, nil, "haproxy", "-db", "-f", w.file("haproxy.cfg"))
	return err
}

// startBare runs this command again, as a proxy that is nothing but net/http/httputil's.
func startBare(c *contestant) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	w := c.world
	c.proc, err = w.run(c.tls, nil, self, "bare",
		"127.0.0.1:"+c.plain+"=http://127.0.0.1:"+w.apiPlain, "127.0.0.1:"+c.tls+"=https://localhost:"+w.apiTLS, w.file("cert.pem"))
	return err
}
