package httphelper

import (
	"net/http"
	"strings"
)

// sameField tells whether some servers take name for field, which has hyphens only.
func sameField(field, name string) bool {
	return len(field) == len(name) && field == withHyphens(name)
}

// withHyphens is the name of a field for servers that tell hyphens and underscores not apart.
func withHyphens(field string) string {
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

// reservedHeader reports whether a field frames or routes the message itself.
func reservedHeader(field string) bool {
	return hopHeaders[field] || field == "Host" || field == "Content-Length"
}
