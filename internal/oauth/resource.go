package oauth

import (
	"errors"
	"net/url"
	"regexp"
)

// absoluteURI matches the characters of a URI without a fragment (RFC 3986 §2).
var absoluteURI = regexp.MustCompile(`^[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+$`)

// CheckResource checks a resource indicator, which must be an absolute URI without a fragment (RFC 8707
// §2).
func CheckResource(resource string) error {
	u, err := url.Parse(resource)
	if err != nil || !u.IsAbs() || !absoluteURI.MatchString(resource) {
		return errors.New("resource: an absolute URI without a fragment is needed (RFC 8707)")
	}
	return nil
}
