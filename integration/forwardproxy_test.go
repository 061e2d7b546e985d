package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// serveConns serves a listener's connections until the test ends.
func serveConns(t *testing.T, l net.Listener, serve func(net.Conn)) {
	t.Helper()
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(t.Context(), func() { _ = conn.Close() })
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// join copies both ways until either side ends.
func join(a, b net.Conn) {
	go func() {
		defer a.Close()
		_, _ = io.Copy(a, b)
	}()
	defer b.Close()
	_, _ = io.Copy(b, a)
}

// wiretap is an address of a server. It records what is sent there, and passes it on.
type wiretap struct {
	net.Listener
	mu    sync.Mutex
	conns int
	sent  []byte
}

func tapped(t *testing.T, l net.Listener, server string) *wiretap {
	t.Helper()
	w := &wiretap{Listener: l}
	serveConns(t, l, func(conn net.Conn) {
		w.mu.Lock()
		w.conns++
		w.mu.Unlock()
		behind, err := net.Dial("tcp", server)
		if err != nil {
			return
		}
		join(&recorded{conn, w}, behind)
	})
	return w
}

type recorded struct {
	net.Conn
	tap *wiretap
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.tap.mu.Lock()
	defer r.tap.mu.Unlock()
	r.tap.sent = append(r.tap.sent, p[:n]...)
	return n, err
}

func (w *wiretap) reached() (conns int, sent string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conns, string(w.sent)
}

// wantNothing checks that there was no connection.
func (w *wiretap) wantNothing(t *testing.T) {
	t.Helper()
	if conns, sent := w.reached(); conns > 0 {
		t.Errorf("%d connections were made to the API's own address, and sent %q", conns, sent)
	}
}

// wantNoCredentials checks that nothing that is meant for a forward proxy was sent there.
func (w *wiretap) wantNoCredentials(t *testing.T) {
	t.Helper()
	_, sent := w.reached()
	for _, text := range []string{"CONNECT", "Proxy-Authorization", proxyPassword, proxyBasic} {
		if strings.Contains(sent, text) {
			t.Errorf("%q was sent to the API's own address", text)
		}
	}
}

var proxyBasic = base64.StdEncoding.EncodeToString([]byte("app:" + proxyPassword))

// forwardProxy is a forward proxy that requires a name and a password, and knows one server only.
type forwardProxy struct {
	url    string // with the name and the password
	known  string // host:port that clients request
	server string // host:port that the proxy dials for it

	mu        sync.Mutex
	requested []string // CONNECT host:port, or another request
	strangers int      // clients without the password
}

func startForwardProxy(t *testing.T, scheme string, ca *harness.CA, known, server string) *forwardProxy {
	t.Helper()
	p := &forwardProxy{known: known, server: server}
	l := listen(t, "tcp", "127.0.0.1:0")
	p.url = fmt.Sprintf("%s://app:%s@%s", scheme, proxyPassword, l.Addr())
	switch scheme {
	case "https":
		serveConns(t, tls.NewListener(l, ca.ServerConfig()), p.serveHTTP)
	case "http":
		serveConns(t, l, p.serveHTTP)
	default:
		serveConns(t, l, p.serveSOCKS)
	}
	return p
}

// tunnel records what a client requests, and dials it.
func (p *forwardProxy) tunnel(requested string, welcome bool) (net.Conn, error) {
	p.mu.Lock()
	p.requested = append(p.requested, requested)
	if !welcome {
		p.strangers++
	}
	p.mu.Unlock()
	if requested != "CONNECT "+p.known || !welcome {
		return nil, fmt.Errorf("%s: not allowed", requested)
	}
	return net.Dial("tcp", p.server)
}

func (p *forwardProxy) serveHTTP(conn net.Conn) {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	server, err := p.tunnel(req.Method+" "+req.RequestURI, req.Header.Get("Proxy-Authorization") == "Basic "+proxyBasic)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\n\r\n")
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
	join(conn, server)
}

// serveSOCKS speaks SOCKS5 (RFC 1928) with a name and a password (RFC 1929).
func (p *forwardProxy) serveSOCKS(conn net.Conn) {
	read := func(length int) []byte {
		b := make([]byte, length)
		_, _ = io.ReadFull(conn, b)
		return b
	}
	if methods := read(int(read(2)[1])); !slices.Contains(methods, 2) {
		_, _ = p.tunnel("SOCKS without a password", false)
		_, _ = conn.Write([]byte{5, 0xff})
		return
	}
	_, _ = conn.Write([]byte{5, 2})
	name := read(int(read(2)[1]))
	password := read(int(read(1)[0]))
	_, _ = conn.Write([]byte{1, 0})
	var host string
	if kind := read(4)[3]; kind == 1 {
		host = net.IP(read(net.IPv4len)).String()
	} else {
		host = string(read(int(read(1)[0])))
	}
	port := binary.BigEndian.Uint16(read(2))
	server, err := p.tunnel(fmt.Sprintf("CONNECT %s:%d", host, port), string(name) == "app" && string(password) == proxyPassword)
	if err != nil {
		_, _ = conn.Write([]byte{5, 2, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	join(conn, server)
}

// wantTunnels checks that the proxy got only requests for tunnels to the server that it knows, from
// clients with its password.
func (p *forwardProxy) wantTunnels(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.requested) == 0 {
		t.Error("the forward proxy got no request")
	}
	for _, requested := range p.requested {
		equal(t, "request to the forward proxy", requested, "CONNECT "+p.known)
	}
	equal(t, "clients without the forward proxy's password", p.strangers, 0)
}

// wantNothing checks that the proxy got no request.
func (p *forwardProxy) wantNothing(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.requested) > 0 {
		t.Errorf("the forward proxy got requests: %q", p.requested)
	}
}

// startResolver is a DNS server that has every name be 127.0.0.1. It returns its address.
func startResolver(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, client, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if response := resolved(buf[:n]); response != nil {
				_, _ = conn.WriteTo(response, client)
			}
		}
	}()
	return conn.LocalAddr().String()
}

// resolved responds to one question (RFC 1035 §4): an A record of 127.0.0.1, and none of other types.
func resolved(query []byte) []byte {
	const header = 12
	if len(query) < header {
		return nil
	}
	end := header + bytes.IndexByte(query[header:], 0) + 5 // the name's final zero, type and class
	if end > len(query) {
		return nil
	}
	response := slices.Concat(query[:2], []byte{0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}, query[header:end])
	if binary.BigEndian.Uint16(query[end-4:]) == 1 {
		response[7] = 1
		response = append(response, 0xc0, header, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1)
	}
	return response
}

// proxied is a world with a forward proxy in front of the API. The API's own address is tapped.
type proxied struct {
	*world
	proxy *forwardProxy
	tap   *wiretap
	ca    *harness.CA
	base  string // the API's host:port as the configuration has it
}

// newProxied makes an API that is known to the forward proxy as host, at the port of the API's own
// address.
func newProxied(t *testing.T, scheme, host string) *proxied {
	t.Helper()
	ca := harness.NewCA(t)
	p := &proxied{world: newWorld(t, ca), ca: ca}
	p.tap = tapped(t, listen(t, "tcp", "127.0.0.1:0"), p.api.Addr)
	_, port, _ := net.SplitHostPort(p.tap.Addr().String())
	p.base = net.JoinHostPort(host, port)
	p.proxy = startForwardProxy(t, scheme, ca, p.base, p.api.Addr)
	return p
}

// run runs a sidecar with options of the directive and of its `transport http`.
func (p *proxied) run(t *testing.T, directive, transport string, env ...string) {
	t.Helper()
	p.Run(t, harness.Config{
		Site: fmt.Sprintf("http_helper https://%s {\nname billing\ntoken_url %s\nclient_id app\nclient_secret {env.SECRET}\nping /me\n%s\ntransport http {\n%s\n}\n}",
			p.base, p.tokens.URL, directive, transport),
		Env: append([]string{"SECRET=" + secret, "SSL_CERT_FILE=" + p.ca.File, "FORWARD_PROXY=" + p.proxy.url}, env...),
	})
}

const checked = "health_uri /health\nhealth_interval 100ms"

// checkRequests has each kind of request reach the API, beginning with the one that the
// configuration is about: a ping or, with health checks, a check.
func (p *proxied) checkRequests(t *testing.T, directive string) {
	t.Helper()
	requested := func(path string) int {
		return len(slices.DeleteFunc(p.api.Requests(), func(r harness.APIRequest) bool { return r.RequestURI != path }))
	}
	if strings.Contains(directive, checked) && !soon(func() bool {
		_, sent := p.tap.reached()
		return requested("/health") > 2 || strings.Contains(sent, "CONNECT")
	}) {
		t.Error("no health check has reached the API")
	}
	printed := harness.NewUser(t).Run(t, "ping", "billing", "--address", "unix/"+p.AdminSocket())
	want(t, printed, 0, "billing works")
	status, body, err := p.Admin(http.MethodPost, "/http_helper/connections/billing/ping", "", "")
	if err != nil || status != http.StatusOK || !strings.Contains(body, `"working":true`) {
		t.Errorf("the admin endpoint's ping: %d %v %s", status, err, body)
	}
	equal(t, "status of a request", p.Get(t, "/hello").StatusCode, http.StatusOK)
	equal(t, "pings that reached the API", requested("/me"), 2)
	equal(t, "requests that reached the API", requested("/hello"), 1)
	if strings.Contains(p.Logs(), proxyPassword) {
		t.Error("the forward proxy's password is in the log")
	}
}

// eachStart runs a test with a ping before anything else, and with health checks.
func eachStart(t *testing.T, test func(t *testing.T, directive string)) {
	t.Helper()
	for name, directive := range map[string]string{"ping first": "", "health checks": checked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, directive)
		})
	}
}

// TestForwardProxyOfTokenRequests has a forward proxy between the sidecar and the token endpoint only,
// and token requests that begin in each way.
func TestForwardProxyOfTokenRequests(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"http", "socks5"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			eachStart(t, func(t *testing.T, directive string) {
				p := newProxied(t, scheme, "api.test")
				p.base = p.api.Addr
				tokens := strings.TrimPrefix(p.tokens.Base, "https://")
				tap := tapped(t, listen(t, "tcp", "127.0.0.1:0"), tokens)
				p.proxy.known, p.proxy.server = tap.Addr().String(), tokens
				p.tokens.URL = strings.Replace(p.tokens.URL, tokens, p.proxy.known, 1)
				p.run(t, directive+"\ntoken_transport {\n"+explicitProxy+"}", "")
				p.checkRequests(t, directive)
				p.proxy.wantTunnels(t)
				tap.wantNothing(t)
			})
		})
	}
}

const explicitProxy = "network_proxy url {env.FORWARD_PROXY}\n"

// TestForwardProxyIsTheOnlyWay gives the sidecar the API's own address too: nothing is sent there, in
// particular not the forward proxy's password.
func TestForwardProxyIsTheOnlyWay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ scheme, transport, variable string }{
		"http":                      {"http", explicitProxy, "UNUSED"},
		"https":                     {"https", explicitProxy, "UNUSED"},
		"socks5":                    {"socks5", explicitProxy, "UNUSED"},
		"socks5h":                   {"socks5h", explicitProxy, "UNUSED"},
		"http of the environment":   {"http", "", "HTTPS_PROXY"},
		"socks5 of the environment": {"socks5", "", "https_proxy"},
		"Caddy's own module":        {"http", "network_proxy url {env.FORWARD_PROXY}{http.unknown}\n", "UNUSED"},
		"forward_proxy_url":         {"http", "forward_proxy_url $PROXY\n", "UNUSED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachStart(t, func(t *testing.T, directive string) {
				p := newProxied(t, test.scheme, "api.test")
				transport := strings.ReplaceAll(test.transport, "$PROXY", p.proxy.url)
				p.run(t, directive, transport+"resolvers "+startResolver(t), test.variable+"="+p.proxy.url)
				p.checkRequests(t, directive)
				p.proxy.wantTunnels(t)
				p.tap.wantNoCredentials(t)
				p.tap.wantNothing(t)
			})
		})
	}
}

// TestForwardProxyAloneKnowsTheName has an API whose name only the forward proxy can resolve.
func TestForwardProxyAloneKnowsTheName(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ scheme, transport, variable string }{
		"http":            {"http", explicitProxy, "UNUSED"},
		"socks5":          {"socks5", explicitProxy, "UNUSED"},
		"the environment": {"http", "", "HTTPS_PROXY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachStart(t, func(t *testing.T, directive string) {
				p := newProxied(t, test.scheme, "api.test")
				p.run(t, directive, test.transport, test.variable+"="+p.proxy.url)
				p.checkRequests(t, directive)
				p.proxy.wantTunnels(t)
			})
		})
	}
}

// TestForwardProxyDialsUpstreams has the configuration say what to dial instead of the base URL's
// host: that is what the sidecar requests of the forward proxy, for pings too.
func TestForwardProxyDialsUpstreams(t *testing.T) {
	t.Parallel()
	eachStart(t, func(t *testing.T, directive string) {
		p := newProxied(t, "http", "127.0.0.1")
		directive += "\nto " + p.base
		p.base = "api.test"
		p.run(t, directive, explicitProxy)
		p.checkRequests(t, directive)
		p.proxy.wantTunnels(t)
		p.tap.wantNoCredentials(t)
		p.tap.wantNothing(t)
	})
}

// TestNoForwardProxyOnTheWay has addresses that are not for the forward proxy to dial: they are
// dialed directly, and get none of its credentials.
func TestNoForwardProxyOnTheWay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ to, transport, env string }{
		"a unix socket":                      {"unix/$SOCKET", explicitProxy, ""},
		"a unix socket, and the environment": {"unix/$SOCKET", "", ""},
		"network_proxy none":                 {"$TAP", "network_proxy none", ""},
		"NO_PROXY":                           {"$TAP", "", "NO_PROXY=127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachStart(t, func(t *testing.T, directive string) {
				p := newProxied(t, "http", "api.test")
				socket := filepath.Join(p.Dir, "api.sock")
				onSocket := tapped(t, listen(t, "unix", socket), p.api.Addr)
				p.base = "api.test"
				directive += "\nto " + strings.NewReplacer("$SOCKET", socket, "$TAP", p.tap.Addr().String()).Replace(test.to)
				p.run(t, directive, test.transport, "HTTPS_PROXY="+p.proxy.url, test.env)
				p.checkRequests(t, directive)
				p.proxy.wantNothing(t)
				for _, tap := range []*wiretap{p.tap, onSocket} {
					tap.wantNoCredentials(t)
				}
			})
		})
	}
}

// TestPingInTheClearPassesNoForwardProxy has an API without TLS beside a forward proxy.
func TestPingInTheClearPassesNoForwardProxy(t *testing.T) {
	t.Parallel()
	p := newProxied(t, "http", "api.test")
	p.Run(t, harness.Config{
		Site: fmt.Sprintf("http_helper http://%s {\nname billing\ntoken_url %s\nclient_id app\nclient_secret {env.SECRET}\nping /me\nallow_insecure base_url\n}", p.base, p.tokens.URL),
		Env:  []string{"SECRET=" + secret, "SSL_CERT_FILE=" + p.ca.File, "HTTP_PROXY=" + p.proxy.url},
	})
	printed := harness.NewUser(t).Run(t, "ping", "billing", "--address", "unix/"+p.AdminSocket())
	want(t, printed, 1, "a request in the clear must not pass a forward proxy")
	p.proxy.wantNothing(t)
	p.tap.wantNothing(t)
}

// TestTokenRequestInTheClearPassesNoForwardProxy has a token endpoint without TLS behind a forward
// proxy: a mistake in the configuration, which no retry corrects, so the request is attempted once.
func TestTokenRequestInTheClearPassesNoForwardProxy(t *testing.T) {
	t.Parallel()
	const sentence = "the request to the token endpoint was not sent: a request in the clear must not pass a forward proxy: use https, or except the host in NO_PROXY"
	for name, test := range map[string]struct{ host, connection, variable string }{
		"the environment":   {"auth.test", "allow_insecure token_url", "HTTP_PROXY"},
		"network_proxy url": {"127.0.0.1", "token_transport {\n" + explicitProxy + "}", "FORWARD_PROXY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			endpoint := strings.TrimPrefix(w.tokens.Base, "http://")
			tap := tapped(t, listen(t, "tcp", "127.0.0.1:0"), endpoint)
			_, port, _ := net.SplitHostPort(tap.Addr().String())
			address := net.JoinHostPort(test.host, port)
			w.tokens.URL = strings.Replace(w.tokens.URL, endpoint, address, 1)
			proxy := startForwardProxy(t, "http", nil, address, endpoint)
			w.Run(t, w.inline(options{
				connection: "name billing\n" + test.connection, env: []string{test.variable + "=" + proxy.url},
			}))
			res := w.Get(t, "/hello")
			wantSidecarError(t, res, http.StatusBadGateway, "proxy_configuration_error")
			if got := res.Header.Get("Proxy-Status"); !strings.Contains(got, `details="connection billing: `+sentence+`"`) {
				t.Errorf("Proxy-Status %q lacks %q", got, sentence)
			}
			_, state, err := w.Admin(http.MethodGet, "/http_helper/connections/billing", "", "")
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`"token_requests":1,"token_failures":1`, `"class":"configuration","code":null,"message":"` + sentence + `"`} {
				if !strings.Contains(state, want) {
					t.Errorf("the admin endpoint does not say %s:\n%s", want, state)
				}
			}
			equal(t, "token requests that arrived", w.tokens.Count(), 0)
			proxy.wantNothing(t)
			tap.wantNothing(t)
		})
	}
}
