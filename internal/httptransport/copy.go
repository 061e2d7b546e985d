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
		if _, copies := conn.(io.ReaderFrom); err != nil || !copies {
			return conn, err
		}
		return copyingConn{conn}, nil
	}
}

// copyingConn is a connection whose ReadFrom uses a buffer of the pool.
type copyingConn struct{ net.Conn }

const copyBufferSize = 32 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBufferSize]byte) }}

// ReadFrom implements io.ReaderFrom.
func (c copyingConn) ReadFrom(r io.Reader) (int64, error) {
	buffer := copyBuffers.Get().(*[copyBufferSize]byte)
	defer copyBuffers.Put(buffer)
	return io.CopyBuffer(struct{ io.Writer }{c.Conn}, struct{ io.Reader }{r}, buffer[:])
}
