package forward

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TestAPIIsToldThoughTheAppDoesNotRead: an app that does not read must not keep the API from learning that
// the server goes away.
func TestAPIIsToldThoughTheAppDoesNotRead(t *testing.T) {
	app, _ := net.Pipe()
	api, atTheAPI := net.Pipe()
	var open tunnels
	open.add(app, api, true)
	go open.close()
	frame := make([]byte, 8)
	if _, err := io.ReadFull(atTheAPI, frame); err != nil || !bytes.HasPrefix(frame, []byte{0x88, 0x82}) {
		t.Errorf("the API got %x, %v", frame, err)
	}
}

// TestTunnelsAddedLaterAreClosed: the handshake may end after the config.
func TestTunnelsAddedLaterAreClosed(t *testing.T) {
	app, atTheApp := net.Pipe()
	api, atTheAPI := net.Pipe()
	var open tunnels
	open.close()
	open.add(app, api, false)
	for _, conn := range []net.Conn{atTheApp, atTheAPI} {
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("got %v", err)
		}
	}
}

// TestSwitchedProtocolsOfNoResponse: an API over HTTP/2 cannot switch protocols, and net/http takes its 101
// for an informational response.
func TestSwitchedProtocolsOfNoResponse(t *testing.T) {
	recorder := httptest.NewRecorder()
	w := responseWriter{caddyhttp.ResponseWriterWrapper{ResponseWriter: recorder}, &Request{Conn: new(Connection)}}
	w.WriteHeader(http.StatusSwitchingProtocols)
	w.request.responded = true
	w.WriteHeader(http.StatusTeapot)
	if recorder.Code != http.StatusTeapot {
		t.Errorf("the app got %d", recorder.Code)
	}
}
