package forward

import (
	"crypto/rand"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// tunnels are the connections that have been upgraded to another protocol and are still open.
type tunnels struct {
	mu   sync.Mutex
	open map[*tunnel]struct{}
}

// tunnel is the API's side of an upgraded connection.
type tunnel struct {
	io.ReadWriteCloser
	tunnels   *tunnels
	websocket bool
	app       io.Writer // the app's side; nil: not upgraded yet. Guarded by tunnels.mu.
}

// watch replaces the body of a response to an upgrade by one that is closed with the others.
func (t *tunnels) watch(res *http.Response) *tunnel {
	conn, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return nil // the response is refused later
	}
	watched := &tunnel{ReadWriteCloser: conn, tunnels: t, websocket: strings.EqualFold(res.Header.Get("Upgrade"), "websocket")}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[*tunnel]struct{})
	}
	t.open[watched] = struct{}{}
	res.Body = watched
	return watched
}

// setApp tells the tunnel the app's side of the connection.
func (t *tunnel) setApp(conn io.Writer) {
	t.tunnels.mu.Lock()
	defer t.tunnels.mu.Unlock()
	t.app = conn
}

// Close implements io.Closer.
func (t *tunnel) Close() error {
	t.tunnels.mu.Lock()
	delete(t.tunnels.open, t)
	t.tunnels.mu.Unlock()
	return t.ReadWriteCloser.Close()
}

// CloseWrite tells the API that the app sends no more.
func (t *tunnel) CloseWrite() error {
	if conn, ok := t.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return http.ErrNotSupported
}

// close closes all tunnels. Both sides of a websocket are told before.
func (t *tunnels) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for tunnel := range t.open {
		go tunnel.leave(tunnel.app)
	}
	t.open = nil
}

// leaveTimeout is how long telling both sides of a websocket may take.
const leaveTimeout = time.Second

// leave ends the tunnel. The app's side ends with it.
func (t *tunnel) leave(app io.Writer) {
	timer := time.AfterFunc(leaveTimeout, func() { _ = t.ReadWriteCloser.Close() })
	defer timer.Stop()
	if t.websocket {
		if app != nil {
			_, _ = app.Write(goingAway)
		}
		_, _ = t.Write(maskedGoingAway())
	}
	_ = t.ReadWriteCloser.Close()
}

// goingAway is the close frame of a websocket server that stops (RFC 6455 §5.5.1, §7.4.1).
var goingAway = []byte{0x88, 2, 1001 >> 8, 1001 & 0xff}

// maskedGoingAway returns the frame as a client sends it, whose payload is masked (RFC 6455 §5.3).
func maskedGoingAway() []byte {
	frame := []byte{0x88, 0x82, 0, 0, 0, 0, 1001 >> 8, 1001 & 0xff}
	mask, payload := frame[2:6], frame[6:]
	_, _ = rand.Read(mask) // never fails; nobody can guess it
	for i := range payload {
		payload[i] ^= mask[i]
	}
	return frame
}
