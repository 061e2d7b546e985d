package forward

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
)

// OwnConnections are the open connections from this process to this machine. A request that comes in on one
// of them is one that this process has sent, so a loop is found without a field that the API would see.
type OwnConnections struct {
	mu   sync.Mutex // of those who change open
	open sync.Map   // the []ownEnd by the dialer's address
}

// ownEnd is the other end of a connection, and its hop. Only both ends together are unique: the app may use
// the port that a connection to another address has.
type ownEnd struct {
	listener string
	hop      *hop
}

// hop is one connection on the way of a request through this process, and the way before it.
type hop struct {
	conn   *Connection
	before *hop
}

// includes reports whether a way leads through a connection.
func (h *hop) includes(conn *Connection) bool {
	for ; h != nil; h = h.before {
		if h.conn == conn {
			return true
		}
	}
	return false
}

// wayOf returns the way of a request that came in, and nil for one of the app.
func (o *OwnConnections) wayOf(r *http.Request) *hop {
	if o == nil {
		return nil
	}
	ends, ok := o.open.Load(r.RemoteAddr)
	if !ok {
		return nil
	}
	listener, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	for _, end := range ends.([]ownEnd) {
		if listener != nil && end.listener == listener.String() {
			return end.hop
		}
	}
	return nil
}

// change changes the ends of the connections with one dialer's address.
func (o *OwnConnections) change(dialer string, changed func([]ownEnd) []ownEnd) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before, _ := o.open.Load(dialer)
	ends, _ := before.([]ownEnd)
	if ends = changed(slices.Clone(ends)); len(ends) > 0 {
		o.open.Store(dialer, ends)
	} else {
		o.open.Delete(dialer)
	}
}

// dialing returns dial with the connections to this machine remembered until they are closed. Each has the
// way of the request that it was opened for: requests of a loop are open all at once, so that each needs a
// connection of its own.
func (o *OwnConnections) dialing(dial httptransport.DialFunc) httptransport.DialFunc {
	if o == nil || dial == nil {
		return dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		q, ok := FromContext(ctx)
		if err != nil || !ok || !leadsBack(conn) {
			return conn, err
		}
		end := ownEnd{conn.RemoteAddr().String(), &hop{q.Conn, q.way}}
		o.change(conn.LocalAddr().String(), func(ends []ownEnd) []ownEnd { return append(ends, end) })
		return &ownConnection{Conn: conn, owner: o, end: end}, nil
	}
}

// leadsBack reports whether both ends of a connection are on this machine.
func leadsBack(conn net.Conn) bool {
	local, ok := conn.LocalAddr().(*net.TCPAddr)
	remote, isTCP := conn.RemoteAddr().(*net.TCPAddr)
	return ok && isTCP && (local.IP.Equal(remote.IP) || remote.IP.IsLoopback())
}

// ownConnection is a connection that is forgotten when it is closed.
type ownConnection struct {
	net.Conn

	owner *OwnConnections
	end   ownEnd
	once  sync.Once
}

// Close implements net.Conn. The address is forgotten first, because another connection may get it then.
func (c *ownConnection) Close() error {
	c.once.Do(func() {
		c.owner.change(c.LocalAddr().String(), func(ends []ownEnd) []ownEnd {
			return slices.DeleteFunc(ends, func(end ownEnd) bool { return end == c.end })
		})
	})
	return c.Conn.Close()
}

// ReadFrom implements io.ReaderFrom. The connection may have a faster way than copying.
func (c *ownConnection) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite tells the other side that nothing more is sent.
func (c *ownConnection) CloseWrite() error {
	if conn, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return conn.CloseWrite()
	}
	return http.ErrNotSupported
}

// enter notes the way of a request that came in as r, and refuses it if it leads through its connection
// already.
func (q *Request) enter(r *http.Request) *Error {
	q.way = q.Conn.Own.wayOf(r)
	if !q.way.includes(q.Conn) {
		return nil
	}
	q.Conn.looped.Store(true)
	return q.Conn.loopError()
}

// loopError returns the error for a request that has come back.
func (c *Connection) loopError() *Error {
	return &Error{
		Status: http.StatusLoopDetected, Type: "proxy_loop_detected",
		Details: "connection " + c.Name + ": its base_url leads back to this sidecar",
	}
}

// loopIn returns the error for a response that says that the request has come back, and nil for any other.
// The app must get it as an error of this proxy, and a response of the API cannot be one.
func (q *Request) loopIn(res *http.Response) error {
	if res.StatusCode != http.StatusLoopDetected || !q.Conn.looped.Load() {
		return nil
	}
	CloseBody(res.Body)
	return q.Conn.loopError()
}
