package httphelper

import (
	"slices"
	"time"
)

// certificatePause is how often the files of a client certificate are looked at between token
// requests.
const certificatePause = 10 * time.Second

// watchCertificate looks after the client certificate until the connection is released: tokens that
// are bound to one that has been replaced are replaced too (RFC 8705 §6.3), since that one may soon
// have expired. Until then such a token goes on being used, with the certificate that it is bound to.
func (c *activeConnection) watchCertificate() {
	if c.certificate == nil {
		return
	}
	c.watching = make(chan struct{})
	go func() {
		ticker := time.NewTicker(certificatePause)
		defer ticker.Stop()
		for {
			c.outdateBoundToken()
			select {
			case <-ticker.C:
			case <-c.watching:
				return
			}
		}
	}()
}

// outdateBoundToken has the token replaced if it is bound to another certificate than the files hold.
func (c *activeConnection) outdateBoundToken() {
	defer logPanic(c.logger, "looking at the client certificate")
	token := c.source.peek()
	if token == nil || token.certificate == nil {
		return
	}
	// The same certificate may have been loaded by another connection or config.
	now, err := c.certificate.load()
	if err == nil && !slices.EqualFunc(now.Certificate, token.certificate.Certificate, slices.Equal) {
		c.source.outdate(token)
	}
}
