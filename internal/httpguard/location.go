package httpguard

import (
	"net/url"
	"strings"
)

// RewriteLocation returns the Location or Content-Location of a response of the API for the app. A
// reference to a URL below base becomes a path of the sidecar, which begins with prefix, the part of
// the app's path that was stripped from the request; a relative reference to any other URL becomes
// absolute. out is the URL of the request as it was sent.
func RewriteLocation(location string, base, out *url.URL, prefix string) string {
	// A fragment alone means the same to the app. Resolving it would reveal the query of out.
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
		// Without the dot segment, which clients remove, this would be the name of a host.
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

// pathBelow returns the escaped path of target relative to base, and whether target is base or below.
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
