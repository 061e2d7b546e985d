package sites

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestTaken(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	// As Caddy listens: others may do so too.
	shared, err := caddy.ParseNetworkAddress("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := shared.Listen(context.Background(), 0, net.ListenConfig{})
	if err != nil {
		t.Fatal(err)
	}
	listener := l.(net.Listener)
	defer listener.Close()
	taken := listener.Addr().String()
	config := fmt.Sprintf(`{"servers": {"a": {"listen": [%q, "unix//run/x.sock"]}, "b": {"listen": [%q, "127.0.0.1:0", "fd/3"]}}}`, free.Addr(), taken)
	if got := Taken([]byte(config)); len(got) != 1 || got[0] != taken {
		t.Errorf("got %v, want %s", got, taken)
	}
	if got := Taken(nil); got != nil {
		t.Errorf("got %v of nothing", got)
	}
}
