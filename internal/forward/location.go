package forward

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
)

// rewriteLocations makes the API's redirects lead through the sidecar (rule 17).
func (q *Request) rewriteLocations(req *http.Request, header http.Header) {
	for _, field := range []string{"Location", "Content-Location"} {
		for i, location := range header[field] {
			location = httpguard.RewriteLocation(location, q.Target.Base, q.Target.url(req.URL), strippedPrefix(req))
			header[field][i] = withoutOurQuery(location, q.Target.Query)
		}
	}
}

// strippedPrefix is what handle_path or uri took off the front of the path before us.
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
		return before // all of it was taken off
	}
	return ""
}

// withoutOurQuery takes the fields out of a place behind the sidecar, which adds them again: servers
// repeat a request's query when they redirect it. A place elsewhere stays as it is.
func withoutOurQuery(location string, fields []Field) string {
	place, fragment, hasFragment := strings.Cut(location, "#")
	path, query, _ := strings.Cut(place, "?")
	if query == "" || len(fields) == 0 || !strings.HasPrefix(path, "/") {
		return location
	}
	place = path
	if kept := otherPairs(query, fields); len(kept) > 0 {
		place += "?" + strings.Join(kept, "&")
	}
	if hasFragment {
		place += "#" + fragment
	}
	return place
}

// otherPairs are the pairs of a raw query that do not have the name of any of the fields.
func otherPairs(raw string, fields []Field) []string {
	if raw == "" {
		return nil
	}
	return slices.DeleteFunc(strings.Split(raw, "&"), func(pair string) bool { return namesAny(pair, fields) })
}

// withQuery replaces the fields in a raw query and leaves the rest as it was written.
func withQuery(raw string, fields []Field) string {
	kept := otherPairs(raw, fields)
	for _, f := range fields {
		kept = append(kept, url.QueryEscape(f.Name)+"="+url.QueryEscape(f.Value))
	}
	return strings.Join(kept, "&")
}

// namesAny tells whether a pair of a query, or a part of it at a semicolon, which some servers take
// for a separator too, has the name of one of the fields.
func namesAny(pair string, fields []Field) bool {
	for part := range strings.SplitSeq(pair, ";") {
		name, _, _ := strings.Cut(part, "=")
		if decoded, err := url.QueryUnescape(name); err == nil {
			name = decoded
		}
		for _, f := range fields {
			if f.Name == name {
				return true
			}
		}
	}
	return false
}
