package integration

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// corporate is a network in which servers are reached through a forward proxy only, by names that
// only the proxy knows, and have certificates of a private CA.
type corporate struct {
	*world
	ca           *harness.CA
	proxy        harness.Running
	proxyAddress string
	api, tokens  string // URLs
}

const proxyPassword = "proxy-p4ssword"

// newCorporate starts tinyproxy, which requires a name and a password.
func newCorporate(t *testing.T) *corporate {
	t.Helper()
	program := debianProgram(t, "tinyproxy", "tinyproxy-bin")
	ca := harness.NewCA(t)
	c := &corporate{world: newWorld(t, ca), ca: ca}
	c.api, c.tokens = underName(c.world.api.URL, "api.test"), underName(c.world.tokens.URL, "auth.test")
	port := harness.FreePort(t)
	c.proxyAddress = "127.0.0.1:" + port
	dir := t.TempDir()
	hosts, conf := filepath.Join(dir, "hosts"), filepath.Join(dir, "tinyproxy.conf")
	harness.WriteFile(t, hosts, "127.0.0.1 localhost api.test auth.test\n")
	harness.WriteFile(t, conf, fmt.Sprintf("Listen 127.0.0.1\nPort %s\nTimeout 600\nLogLevel Connect\nBasicAuth app %s\n", port, proxyPassword))
	enter := []string{"unshare", "--mount"}
	if os.Geteuid() != 0 {
		enter = []string{"unshare", "--user", "--map-root-user", "--mount"}
	}
	args := slices.Concat(enter, []string{"sh", "-c", `mount --bind "$1" /etc/hosts && exec "$2" -d -c "$3"`, "sh", hosts, program, conf})
	if out, err := exec.Command(enter[0], append(enter[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("this user may not make namespaces here: %s", out)
	}
	c.proxy = harness.Background(t, exec.Command(args[0], args[1:]...))
	eventually(t, "the forward proxy listens", func() bool {
		conn, err := net.Dial("tcp", c.proxyAddress)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return c
}

func underName(url, name string) string { return strings.Replace(url, "127.0.0.1", name, 1) }

// config is the sidecar's; $CA and $PROXY are understood in its pieces.
func (c *corporate) config(connection, transport string, env ...string) harness.Config {
	proxy := fmt.Sprintf("http://app:%s@%s", proxyPassword, c.proxyAddress)
	expand := strings.NewReplacer("$CA", c.ca.File, "$PROXY", proxy).Replace
	config := harness.Config{
		Site: expand(fmt.Sprintf("http_helper %s {\ntoken_url %s\nclient_id app\nclient_secret {env.SECRET}\n%s\n%s\n}", c.api, c.tokens, connection, transport)),
		Env:  []string{"SECRET=" + secret},
	}
	for _, e := range env {
		config.Env = append(config.Env, expand(e))
	}
	return config
}

// wantTunnels checks that both servers were reached through the proxy, which saw nothing but names.
func (c *corporate) wantTunnels(t *testing.T) {
	t.Helper()
	for _, url := range []string{c.api, c.tokens} {
		authority := strings.Split(url, "/")[2]
		if !strings.Contains(c.proxy.Logs(), "CONNECT "+authority) {
			t.Errorf("the forward proxy got no request for %s:\n%s", authority, c.proxy.Logs())
		}
	}
	if strings.Contains(c.Logs(), proxyPassword) {
		t.Error("the proxy's password is in the log")
	}
}

// TestForwardProxyAndPrivateCAOfTheSystem gets to the token endpoint and to the API with what the
// environment says.
func TestForwardProxyAndPrivateCAOfTheSystem(t *testing.T) {
	t.Parallel()
	c := newCorporate(t)
	c.Run(t, c.config("", "", "HTTPS_PROXY=$PROXY", "SSL_CERT_FILE=$CA"))
	c.wantOK(t)
	c.wantTunnels(t)
}

// TestForwardProxyAndPrivateCAOfAConnection gets there with what the connection says.
func TestForwardProxyAndPrivateCAOfAConnection(t *testing.T) {
	t.Parallel()
	c := newCorporate(t)
	const both = "{\nnetwork_proxy url {env.FORWARD_PROXY}\ntls_trust_pool file $CA\n}"
	config := c.config("token_transport "+both, "transport http "+both, "FORWARD_PROXY=$PROXY")
	config.Options = "debug" // the password is in no log, at no level
	c.Run(t, config)
	c.wantOK(t)
	c.wantTunnels(t)
}

// TestForwardProxyFailures has the way through the proxy fail at each end of it: the app is told where.
func TestForwardProxyFailures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		env     []string
		details string
	}{
		"private CA not trusted": {[]string{"HTTPS_PROXY=$PROXY"}, "its TLS certificate is signed by an unknown authority"},
		"no proxy":               {[]string{"SSL_CERT_FILE=$CA"}, "no such host"},
		"proxy wants a password": {[]string{"HTTPS_PROXY=http://$ADDRESS", "SSL_CERT_FILE=$CA"}, "the forward proxy refused with status 407"},
		"proxy is down":          {[]string{"HTTPS_PROXY=http://127.0.0.1:$UNUSED", "SSL_CERT_FILE=$CA"}, "the forward proxy cannot be reached: connection refused"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCorporate(t)
			expand := strings.NewReplacer("$ADDRESS", c.proxyAddress, "$UNUSED", harness.Port(t)).Replace
			for i := range test.env {
				test.env[i] = expand(test.env[i])
			}
			c.Run(t, c.config("", "", test.env...))
			response := c.Get(t, "/hello")
			wantSidecarError(t, response, http.StatusServiceUnavailable, "proxy_internal_error")
			if details := response.Header.Get("Proxy-Status"); !strings.Contains(details, "the token endpoint cannot be reached: "+test.details) {
				t.Errorf("the app is told %s", details)
			}
			equal(t, "requests that reached the API", c.world.api.Count(), 0)
			equal(t, "token requests", c.world.tokens.Count(), 0)
		})
	}
}

// TestNoForwardProxy has an environment with a proxy, and connections that say not to use it.
func TestNoForwardProxy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	none := options{service: "token_transport {\nnetwork_proxy none\n}", directive: "transport http {\nnetwork_proxy none\n}"}
	w.Run(t, w.inline(none))
	w.wantOK(t)
}

// TestNothingInTheClearPassesAForwardProxy has cleartext servers beside a forward proxy.
func TestNothingInTheClearPassesAForwardProxy(t *testing.T) {
	t.Parallel()
	c := newCorporate(t)
	c.api = strings.Replace(c.api, "https", "http", 1)
	c.Run(t, c.config("allow_insecure", "", "HTTPS_PROXY=$PROXY", "HTTP_PROXY=$PROXY", "SSL_CERT_FILE=$CA"))
	response := c.Get(t, "/hello")
	wantSidecarError(t, response, http.StatusBadGateway, "proxy_configuration_error")
	t.Log(response.Header.Get("Proxy-Status"))
	if strings.Contains(c.proxy.Logs(), "http://") {
		t.Errorf("the forward proxy has seen a request in the clear:\n%s", c.proxy.Logs())
	}
}
