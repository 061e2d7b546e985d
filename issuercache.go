package httphelper

import "sync"

// issuerCache holds what is known of the issuer, as long as it is the same.
type issuerCache struct {
	mu    sync.Mutex
	known *discovery
}

func (c *issuerCache) get(issuer string, allowInsecure bool) *discovery {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || c.known.issuer != issuer {
		c.known = &discovery{issuer: issuer, allowInsecure: allowInsecure}
	}
	return c.known
}

// doubt has the issuer asked again soon, if there is one.
func (c *issuerCache) doubt() {
	c.mu.Lock()
	known := c.known
	c.mu.Unlock()
	if known != nil {
		known.doubt()
	}
}

// tokenEndpoint is the token endpoint that the metadata name, empty while they are not known.
func (c *issuerCache) tokenEndpoint(withCertificate bool) string {
	c.mu.Lock()
	known := c.known
	c.mu.Unlock()
	if known == nil {
		return ""
	}
	known.mu.Lock()
	defer known.mu.Unlock()
	if known.known == nil {
		return ""
	}
	return known.known.choose(withCertificate).Token
}
