package httpguard

import (
	"net/url"
	"strings"
)

// RewriteLocation translates a Location or Content-Location of the API for the app: a place below
// the base URL becomes the same place behind the sidecar, prefix being what was taken off the app's
// path on the way; a relative reference to anywhere else becomes absolute.
func RewriteLocation(location string, base, out *url.URL, prefix string) string {
	// A fragment alone means the same to the app. Resolving it would show it our own query.
	if location == "" || location[0] == '#' {
		return location
	}
	reference, err := url.Parse(location)
	if err != nil {
		return location
	}
	target := out.ResolveReference(reference)
	below, ok := pathBelow(base, target)
	if !ok {
		if reference.IsAbs() {
			return location
		}
		return target.String()
	}
	local := prefix + below
	if strings.HasPrefix(local, "//") {
		// Without the dot, which clients remove, this would name a host.
		local = "/." + local
	}
	if target.RawQuery != "" || target.ForceQuery {
		local += "?" + target.RawQuery
	}
	if target.Fragment != "" {
		local += "#" + target.EscapedFragment()
	}
	return local
}

// pathBelow is the escaped path of target as seen from base, if it is there or below.
func pathBelow(base, target *url.URL) (string, bool) {
	if target.Opaque != "" || target.User != nil || !sameOrigin(base, target) {
		return "", false
	}
	below, ok := strings.CutPrefix(target.EscapedPath(), basePath(base))
	if !ok || CheckEscapedPath(below) != nil {
		return "", false
	}
	if below == "" {
		below = "/"
	}
	return below, true
}
