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
func poolingCopies(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
			return copyingConn{tcp}, nil
		}
		return conn, err
	}
}

// copyingConn is a connection whose ReadFrom uses a buffer of the pool.
type copyingConn struct{ *net.TCPConn }

const copyBufferSize = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBufferSize]byte) }}

// ReadFrom implements io.ReaderFrom.
func (c copyingConn) ReadFrom(r io.Reader) (int64, error) {
	buffer := copyBuffers.Get().(*[copyBufferSize]byte)
	defer copyBuffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{c.TCPConn}, struct{ io.Reader }{r}, buffer[:])
}
