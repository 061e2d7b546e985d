package httphelper

import "sync"

// dpopFile is a DPoP key in a file: the same key, with what it has learned, as long as the file's
// content is the same.
type dpopFile struct {
	mu      sync.Mutex
	content string
	key     *dpopKey
}

func (f *dpopFile) parse(content string) (*dpopKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.key != nil && f.content == content {
		return f.key, nil
	}
	key, err := parseDPoPKey([]byte(content))
	if err != nil {
		return nil, err
	}
	f.content, f.key = content, key
	return key, nil
}

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
