package forward

import (
	"context"
	"net"
	"net/http"
	"testing"
)

// TestPortOfAnotherConnectionIsNoLoop: the app may call from the port that a connection to the API has.
func TestPortOfAnotherConnectionIsNoLoop(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	own, c := new(OwnConnections), new(Connection)
	conn, err := own.dialing(new(net.Dialer).DialContext)(&Request{Context: t.Context(), Conn: c}, "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	from := func(listener net.Addr) *hop {
		r := &http.Request{RemoteAddr: conn.LocalAddr().String()}
		return own.wayOf(r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, listener)))
	}
	if !from(listener.Addr()).includes(c) {
		t.Error("a request that has come back is not found")
	}
	if from(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}) != nil {
		t.Error("a request to another listener counts as one that has come back")
	}
	_ = conn.Close()
	if from(listener.Addr()) != nil {
		t.Error("a closed connection is remembered")
	}
}
