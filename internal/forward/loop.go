package forward

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
)

// OwnConnections are the open connections from this process to this machine. A request that comes in on one
// of them is one that this process has sent, so a loop is found without a field that the API would see.
type OwnConnections struct {
	count atomic.Int32 // of open, to cost nothing where APIs are elsewhere
	open  sync.Map     // a *hop by the addresses
}

// addresses are both ends of a connection. Only together they are unique: the app may use the port that a
// connection to another address has.
type addresses struct{ dialer, listener string }

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
	if o == nil || o.count.Load() == 0 {
		return nil
	}
	listener, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return nil
	}
	way, _ := o.open.Load(addresses{r.RemoteAddr, listener.String()})
	last, _ := way.(*hop)
	return last
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
		ends := addresses{conn.LocalAddr().String(), conn.RemoteAddr().String()}
		o.open.Store(ends, &hop{q.Conn, q.way})
		o.count.Add(1)
		return &ownConnection{Conn: conn, owner: o, ends: ends}, nil
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
	ends  addresses
	once  sync.Once
}

// Close implements net.Conn. The address is forgotten first, because another connection may get it then.
func (c *ownConnection) Close() error {
	c.once.Do(func() {
		c.owner.open.Delete(c.ends)
		c.owner.count.Add(-1)
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
