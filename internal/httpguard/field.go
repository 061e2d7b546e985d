package httpguard

import (
	"net/http"
	"strings"
)

// SameField tells whether some servers take name for field, which has hyphens only.
func SameField(field, name string) bool {
	return len(field) == len(name) && field == WithHyphens(name)
}

// WithHyphens is the name of a field for servers that tell hyphens and underscores not apart.
func WithHyphens(field string) string {
	if !strings.Contains(field, "_") {
		return field
	}
	return http.CanonicalHeaderKey(strings.ReplaceAll(field, "_", "-"))
}

// hopHeaders end at a proxy (RFC 9110 §7.6.1); nobody may configure them.
var hopHeaders = map[string]bool{
	"Alt-Svc": true, "Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// ReservedField reports whether a field frames or routes the message itself.
func ReservedField(field string) bool {
	return hopHeaders[field] || field == "Host" || field == "Content-Length"
}
