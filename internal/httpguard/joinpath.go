package httpguard

import (
	"fmt"
	"net/url"
	"strings"
)

// JoinPath returns the base URL's path with the request's appended, for url.URL. Escapes are kept byte for
// byte.
func JoinPath(base, request *url.URL) (path, rawPath string) {
	if base.RawPath == "" && request.RawPath == "" && request.Path != "" {
		return strings.TrimSuffix(base.Path, "/") + request.Path, "" // net/url escapes both alike
	}
	rawPath = basePath(base) + EscapedPath(request)
	path, err := url.PathUnescape(rawPath)
	if err != nil { // EscapedPath is always well-formed
		return rawPath, ""
	}
	return path, rawPath
}

// EscapedPath returns the path of a request's URL as the app wrote it, except that characters that are
// not allowed in a URL are escaped. URL.EscapedPath would escape the whole path again because of one.
func EscapedPath(u *url.URL) string {
	if u.RawPath == "" {
		if u.Path == "" {
			return "/"
		}
		return u.EscapedPath()
	}
	if path, err := url.PathUnescape(u.RawPath); err != nil || path != u.Path {
		return u.EscapedPath()
	}
	var b strings.Builder
	for i := range len(u.RawPath) {
		if c := u.RawPath[i]; allowedInPath(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// allowedInPath reports whether net/url keeps a character of an escaped path.
func allowedInPath(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~!$&'()*+,;=:@[]%/", c) >= 0
}

// basePath returns the escaped path of a base URL without a trailing slash.
func basePath(base *url.URL) string {
	return strings.TrimSuffix(base.EscapedPath(), "/")
}
