package forward

import (
	"crypto/rand"
	"io"
	"net"
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
)

// tunnels are the pairs of connections that have been upgraded to another protocol and are open.
type tunnels struct {
	mu     sync.Mutex
	open   map[*tunnel]struct{}
	closed bool
}

// tunnel is the app's and the API's connection, upgraded to the same protocol.
type tunnel struct {
	app       net.Conn
	api       io.ReadWriteCloser
	websocket bool
}

// add returns a tunnel that is closed with the others.
func (t *tunnels) add(app net.Conn, api io.ReadWriteCloser, websocket bool) *tunnel {
	added := &tunnel{app: app, api: api, websocket: websocket}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		go added.leave()
		return added
	}
	if t.open == nil {
		t.open = make(map[*tunnel]struct{})
	}
	t.open[added] = struct{}{}
	return added
}

func (t *tunnels) remove(removed *tunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, removed)
}

// close closes all tunnels, also those that are added later. Both sides of a websocket are told before.
func (t *tunnels) close() {
	t.mu.Lock()
	open := t.open
	t.open, t.closed = nil, true
	t.mu.Unlock()
	var leaving sync.WaitGroup
	for tunnel := range open {
		leaving.Go(tunnel.leave)
	}
	leaving.Wait()
}

// copy copies in both directions, until both sides have ended or the tunnel ends. fromApp reads what the
// app sends.
func (t *tunnel) copy(fromApp io.Reader) {
	var copying sync.WaitGroup
	copying.Go(func() { t.copyTo(t.api, fromApp) })
	copying.Go(func() { t.copyTo(t.app, t.api) })
	copying.Wait()
	t.end()
}

// copyTo copies in one direction. When src ends, dst is told so, and the other direction continues.
func (t *tunnel) copyTo(dst io.Writer, src io.Reader) {
	_, err := httptransport.Copy(dst, src)
	half, ok := dst.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		t.end()
	}
}

// end closes both connections.
func (t *tunnel) end() {
	_ = t.app.Close()
	_ = t.api.Close()
}

// leaveTimeout is how long telling both sides of a websocket may take.
const leaveTimeout = time.Second

// leave ends the tunnel. Both sides of a websocket are told before.
func (t *tunnel) leave() {
	defer t.end()
	if !t.websocket {
		return
	}
	timer := time.AfterFunc(leaveTimeout, t.end)
	defer timer.Stop()
	var telling sync.WaitGroup // each side may read slowly
	telling.Go(func() { _, _ = t.app.Write(goingAway) })
	telling.Go(func() { _, _ = t.api.Write(maskedGoingAway()) })
	telling.Wait()
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
