package httptransport

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
)

// foreignConn is a connection that says that it leads elsewhere.
type foreignConn struct {
	net.Conn
	remote net.Addr
	closed *atomic.Bool
}

func (c foreignConn) RemoteAddr() net.Addr { return c.remote }

func (c foreignConn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// TestLocalhostInTheClearMustBeLoopback has a resolver that leads localhost to other addresses (rule 2).
func TestLocalhostInTheClearMustBeLoopback(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	t.Cleanup(server.Close)
	away := &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 80}
	for name, test := range map[string]struct {
		url    string
		remote net.Addr
		marked bool
		sent   bool
	}{
		"elsewhere":             {"http://localhost:80/", away, true, false},
		"elsewhere, capitals":   {"http://LocalHost/", away, true, false},
		"elsewhere, IPv6":       {"http://localhost/", &net.TCPAddr{IP: net.ParseIP("fd00::7")}, true, false},
		"an unknown kind":       {"http://localhost/", &net.IPAddr{IP: net.IPv4(127, 0, 0, 1)}, true, false},
		"loopback":              {"http://localhost/", &net.TCPAddr{IP: net.IPv4(127, 9, 0, 1)}, true, true},
		"loopback, IPv6":        {"http://localhost/", &net.TCPAddr{IP: net.IPv6loopback}, true, true},
		"loopback, mapped":      {"http://localhost/", &net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1")}, true, true},
		"a unix socket":         {"http://localhost/", &net.UnixAddr{Net: "unix", Name: "@"}, true, true},
		"another host":          {"http://api.example/", away, true, true},
		"allowed in the clear":  {"http://localhost/", away, false, true},
		"a name that ends like": {"http://notlocalhost/", away, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			requests.Store(0)
			var closed atomic.Bool
			transport := &http.Transport{DialContext: guardLocalhost(func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
				return foreignConn{conn, test.remote, &closed}, err
			})}
			t.Cleanup(transport.CloseIdleConnections)
			var guarded http.RoundTripper = transport
			if test.marked {
				guarded = WithOnlyLoopback{transport}
			}
			res, err := guarded.RoundTrip(httptest.NewRequest(http.MethodGet, test.url, nil))
			if err == nil {
				res.Body.Close()
			}
			if (err == nil) != test.sent || !test.sent && !errors.Is(err, neterror.ErrNotLoopback) {
				t.Errorf("error %v", err)
			}
			if got := requests.Load() == 1; got != test.sent || !test.sent && !closed.Load() {
				t.Errorf("%d requests arrived; connection closed: %t", requests.Load(), closed.Load())
			}
		})
	}
}
