package integration

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestLocalhostThatIsAnotherMachine has a hosts file that leads localhost elsewhere. Nothing is sent there in
// the clear, unless that is allowed (rule 2).
func TestLocalhostThatIsAnotherMachine(t *testing.T) {
	t.Parallel()
	address := foreignAddress(t)
	if os.Geteuid() != 0 || exec.Command("unshare", "--mount", "true").Run() != nil {
		t.Skip("a hosts file of its own needs root and a namespace")
	}
	for name, c := range map[string]struct {
		options string // of the service
		flow    bool
		status  int
	}{
		"token endpoint":          {"base_url $API\ntoken_url $AWAY", false, http.StatusBadGateway},
		"issuer":                  {"base_url $API\nissuer $AWAY", false, http.StatusBadGateway},
		"flow":                    {"base_url $API\ntoken_url $TOKENS\ntoken_request_param x {config.x}", true, http.StatusBadGateway},
		"API":                     {"base_url $AWAY\ntoken_url $TOKENS", false, http.StatusBadGateway},
		"token endpoint, allowed": {"base_url $API\ntoken_url $AWAY\nallow_insecure token_url", false, http.StatusOK},
		"API, allowed":            {"base_url $AWAY\ntoken_url $TOKENS\nallow_insecure base_url", false, http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.api.Accept(nil)
			var requests atomic.Int32
			away := startAway(t, address, func(rw http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				harness.Reply(http.StatusOK, `{"access_token":"t","expires_in":60,"x":"y"}`).ServeHTTP(rw, nil)
			})
			service := c.options
			if c.flow {
				service += "\nparameter p text\nconfig_value x text {\nflow f\n}\nflow f request GET $AWAY/ {\npointer /x\n}"
			}
			connection := "client_id app\nclient_secret {env.SECRET}\n"
			if c.flow {
				connection += "parameter p 1\n"
			}
			config := w.expand(options{}, harness.Config{
				Options: strings.ReplaceAll("http_helper {\nconnector service {\n"+service+"\n}\nconnection billing service {\n"+connection+"}\n}", "$AWAY", away),
				Site:    "http_helper billing",
			})
			config.Hosts = address + " localhost\n127.0.0.1 elsewhere\n"
			w.Run(t, config)
			response := w.Get(t, "/")
			wantStatus(t, response, c.status)
			if c.status == http.StatusOK {
				equal(t, "requests", requests.Load(), 1)
				return
			}
			equal(t, "requests", requests.Load(), 0)
			if got := response.Header.Get("Proxy-Status"); !strings.Contains(got, "localhost leads to an address that is not loopback") {
				t.Errorf("Proxy-Status %q", got)
			}
		})
	}
}

// foreignAddress returns an address of this machine that is not loopback.
func foreignAddress(t *testing.T) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String()
		}
	}
	t.Skip("this machine has only loopback addresses")
	return ""
}

// startAway serves at an address, and returns the URL by the name localhost.
func startAway(t *testing.T, address string, handler http.HandlerFunc) string {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	t.Cleanup(server.Close)
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return "http://localhost:" + port
}
