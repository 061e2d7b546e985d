package forward

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// setHeader makes the header of the app's request the one that the API gets: without the fields that may not
// pass, with those of the target, and with the token. Values may be shared with the app's header, and are not
// changed.
func (q *Request) setHeader(header http.Header, token *oauth.Token, proxyFields bool) {
	for field := range header {
		if !q.mayPass(field, proxyFields) {
			delete(header, field)
		}
	}
	if offersHTTP2(header["Upgrade"]) {
		delete(header, "Upgrade")
		delete(header, "Connection")
	}
	if q.trailers {
		header["Te"] = []string{"trailers"}
	}
	q.rewriteDestination(header)
	for _, field := range q.Target.Headers {
		header[field.Name] = []string{field.Value}
	}
	if token != nil {
		header[q.options.Field] = q.Conn.headerValue(q, q.options, token)
	}
}

// mayPass reports whether a field of the app's header is sent to the API (rules 15 and 17). A field with
// underscores passes only if the same one with hyphens does, because some servers do not distinguish
// them.
func (q *Request) mayPass(field string, proxyFields bool) bool {
	if field == "Authorization" {
		return q.keep
	}
	if alike := httpguard.WithHyphens(field); alike != field {
		field, proxyFields = alike, false
	}
	if httpguard.SameField(field, q.options.Field) || IsCallerField(field) {
		return false
	}
	if !proxyFields && isProxyField(field) {
		return false
	}
	return !slices.ContainsFunc(q.Target.Headers, func(f Field) bool { return httpguard.SameField(field, f.Name) })
}

// mayTrail reports whether a field may be in a trailer of the app: some servers merge trailers into the
// header.
func (q *Request) mayTrail(field string) bool {
	if q.isLimited() && httpguard.OverridesRequest(field) {
		return false
	}
	return httpguard.MayTrail(field) && q.mayPass(field, false)
}

// callerFields never pass: credentials of other schemes, and what proxies say about a client certificate
// (RFC 9440).
var callerFields = []string{"Proxy-Authorization", "Dpop", "Client-Cert", "Client-Cert-Chain"}

// IsCallerField reports whether a field of the app never reaches the API.
func IsCallerField(field string) bool { return slices.Contains(callerFields, field) }

// isProxyField reports whether a field reveals a proxy to the API.
func isProxyField(field string) bool {
	return field == "Via" || field == "Forwarded" || strings.HasPrefix(field, "X-Forwarded-")
}

// offersHTTP2 reports whether the app offers to switch its connection to HTTP/2, where its requests would
// bypass all rules. Some clients offer it with every request, so it is no error.
func offersHTTP2(upgrade []string) bool {
	return slices.ContainsFunc(upgrade, func(protocols string) bool { return strings.Contains(strings.ToLower(protocols), "h2c") })
}

// addedFields are the fields in which reverse_proxy reveals itself to every API.
var addedFields = []string{"Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// DropAddedFields removes the fields that reverse_proxy has added to its copy of a request's header, so
// that they need not be copied again, nor logged.
func DropAddedFields(header http.Header) {
	for _, field := range addedFields {
		delete(header, field)
	}
}

// rewriteLocations makes the API's redirects lead through the sidecar (rule 17).
func (q *Request) rewriteLocations(header http.Header) {
	for _, field := range []string{"Location", "Content-Location"} {
		for i, location := range header[field] {
			location = httpguard.RewriteLocation(location, q.Target.Base, q.Target.url(q.received.URL), strippedPrefix(q.received))
			header[field][i] = withoutQuery(location, q.Target.Query)
		}
	}
}

// rewriteDestination makes the Destination of WebDAV's COPY and MOVE (RFC 4918 §10.3) name a place of the
// API instead of the one behind the sidecar.
func (q *Request) rewriteDestination(header http.Header) {
	if q.received.Method != "COPY" && q.received.Method != "MOVE" {
		return
	}
	if destination := q.received.Header["Destination"]; len(header["Destination"]) == 1 && len(destination) == 1 {
		header["Destination"] = []string{httpguard.RewriteDestination(destination[0], q.Target.Base, q.host, strippedPrefix(q.received))}
	}
}

// strippedPrefix returns the prefix that `handle_path` or `uri` has removed from the path of a request.
func strippedPrefix(req *http.Request) string {
	original, ok := req.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || original.URL == nil {
		return ""
	}
	before, now := httpguard.EscapedPath(original.URL), httpguard.EscapedPath(req.URL)
	if prefix, ok := strings.CutSuffix(before, now); ok {
		return prefix
	}
	if now == "/" {
		return before // all of it was removed
	}
	return ""
}
