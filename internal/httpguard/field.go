package httpguard

import (
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// SameField reports whether some servers take the field name for field: they do not distinguish
// underscores from hyphens. field has hyphens only.
func SameField(field, name string) bool {
	return len(field) == len(name) && field == WithHyphens(name)
}

// WithHyphens returns the canonical name of a field with hyphens instead of underscores.
func WithHyphens(field string) string {
	if !strings.Contains(field, "_") {
		return field
	}
	return http.CanonicalHeaderKey(strings.ReplaceAll(field, "_", "-"))
}

// hopHeaders are the fields that are meant for the next hop only (RFC 9110 §7.6.1), and Alt-Svc, which
// is about the server that is connected to.
var hopHeaders = map[string]bool{
	"Alt-Svc": true, "Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// RemoveHopByHop removes the fields that are meant for the next hop only, those that Connection names included.
func RemoveHopByHop(header http.Header) {
	for _, named := range header["Connection"] {
		for field := range strings.SplitSeq(named, ",") {
			header.Del(strings.TrimSpace(field))
		}
	}
	for field := range hopHeaders {
		delete(header, field)
	}
}

// overrideFields make some servers take a request for one with another method or path.
var overrideFields = map[string]bool{
	"X-Http-Method-Override": true, "X-Http-Method": true, "X-Method-Override": true, "X-Original-Url": true, "X-Rewrite-Url": true,
}

// OverridesRequest reports whether some servers take a request with a field for one with another method or
// path.
func OverridesRequest(field string) bool { return overrideFields[WithHyphens(field)] }

// MayTrail reports whether a field may be in a trailer: not one that frames or routes the message, modifies
// the request, authenticates, or says how to process the content (RFC 9110 §6.5.1).
func MayTrail(field string) bool {
	field = WithHyphens(field)
	return httpguts.ValidTrailerHeader(field) && !ReservedField(field) && field != "Cookie" && field != "Set-Cookie"
}

// ReservedField reports whether a field frames or routes the message, so that it cannot be configured.
func ReservedField(field string) bool {
	return hopHeaders[field] || field == "Host" || field == "Content-Length"
}
