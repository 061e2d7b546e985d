package harness

import (
	"hash"
	"io"
	"net"
	"net/url"
)

// hashedBody counts and digests what is read of a body, so that it need not be kept.
type hashedBody struct {
	io.ReadCloser
	hash   hash.Hash
	length int64
}

// Read implements io.Reader.
func (b *hashedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	_, _ = b.hash.Write(p[:n])
	b.length += int64(n)
	return n, err
}

func hostOf(address string) string {
	u, _ := url.Parse(address)
	return u.Host
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(hostOf(address))
	return port
}
