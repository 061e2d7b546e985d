package forward

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// header is what the API gets: the app's header without what only the sidecar may say, and what the
// sidecar says. Values are shared with the app's header, whose map stays as it is.
func (q *Request) header(app http.Header, token *oauth.Token, proxyFields bool) http.Header {
	header := maps.Clone(app)
	if header == nil {
		header = make(http.Header)
	}
	maps.DeleteFunc(header, func(field string, _ []string) bool { return !q.mayPass(field, proxyFields) })
	if offersHTTP2(header["Upgrade"]) {
		delete(header, "Upgrade")
		delete(header, "Connection")
	}
	for _, field := range q.Target.Headers {
		header[field.Name] = []string{field.Value}
	}
	if token != nil {
		header[q.options.Field] = q.Conn.headerValue(q, q.options, token)
	}
	return header
}

// mayPass tells whether a field of the app's header goes on to the API (rules 15 and 17), also
// under a name that some servers take for the same.
func (q *Request) mayPass(field string, proxyFields bool) bool {
	if field == "Authorization" {
		return q.keep
	}
	if alike := httpguard.WithHyphens(field); alike != field {
		field, proxyFields = alike, false
	}
	if httpguard.SameField(field, q.options.Field) || slices.Contains(callerFields, field) {
		return false
	}
	if !proxyFields && isProxyField(field) {
		return false
	}
	return !slices.ContainsFunc(q.Target.Headers, func(f Field) bool { return httpguard.SameField(field, f.Name) })
}

// mayTrail tells whether a field may stand in a trailer of the app's: some servers merge trailers
// into the header.
func (q *Request) mayTrail(field string) bool {
	return field != "Authorization" && q.mayPass(field, false)
}

// offersHTTP2 tells whether the app offers to go on in HTTP/2 on a connection of its own. There its
// requests would be beyond all rules. Some clients offer it with every request, so it is no error.
func offersHTTP2(upgrade []string) bool {
	return slices.ContainsFunc(upgrade, func(protocols string) bool { return strings.Contains(strings.ToLower(protocols), "h2c") })
}

// callerFields are never the app's to send: credentials of other schemes, and what proxies say of a
// client certificate (RFC 9440).
var callerFields = []string{"Proxy-Authorization", "Dpop", "Client-Cert", "Client-Cert-Chain"}

// addedFields are what reverse_proxy tells every API of itself.
var addedFields = []string{"Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// isProxyField tells whether a field tells the API of a proxy.
func isProxyField(field string) bool {
	return field == "Via" || field == "Forwarded" || strings.HasPrefix(field, "X-Forwarded-")
}
