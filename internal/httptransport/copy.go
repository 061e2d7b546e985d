package httptransport

import (
	"context"
	"io"
	"net"
	"sync"
)

// poolingCopies makes connections without TLS send bodies through buffers that are used again. Package net
// allocates one of 32 KiB for each body (golang/go#76323), since none of them comes from a file or a
// socket directly.
func poolingCopies(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
			return copyingConn{tcp}, nil
		}
		return conn, err
	}
}

// copyingConn is a connection whose ReadFrom uses one of Buffers.
type copyingConn struct{ *net.TCPConn }

// ReadFrom implements io.ReaderFrom.
func (c copyingConn) ReadFrom(r io.Reader) (int64, error) { return Copy(c.TCPConn, r) }

// Copy copies through one of Buffers, whatever dst and src could do instead.
func Copy(dst io.Writer, src io.Reader) (int64, error) {
	buffer := Buffers.Get()
	defer Buffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, buffer)
}

// Buffers are the buffers that bodies are copied with, in both directions.
var Buffers bufferPool

// bufferPool implements httputil.BufferPool.
type bufferPool struct{ pool sync.Pool }

const bufferSize = 32 << 10

// Get implements httputil.BufferPool.
func (p *bufferPool) Get() []byte {
	if buffer, ok := p.pool.Get().(*[bufferSize]byte); ok {
		return buffer[:]
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (p *bufferPool) Put(buffer []byte) { p.pool.Put((*[bufferSize]byte)(buffer)) }
