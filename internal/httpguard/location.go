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

// RewriteDestination returns the Destination of a request of the app for the API (RFC 4918 §10.3). A place
// behind the sidecar, which the app calls by host, becomes the same place below base, without prefix,
// the part of the app's path that was stripped from the request. Any other is returned as it is.
func RewriteDestination(destination string, base *url.URL, host, prefix string) string {
	u, err := url.Parse(destination)
	if err != nil || u.Opaque != "" || u.User != nil || u.Fragment != "" {
		return destination
	}
	if u.IsAbs() && (u.Scheme != "http" && u.Scheme != "https" || !sameAuthority(u, host)) || !u.IsAbs() && u.Host != "" {
		return destination
	}
	path, ok := strings.CutPrefix(u.EscapedPath(), prefix)
	if !ok || !strings.HasPrefix(path, "/") || CheckEscapedPath(path) != nil {
		return destination
	}
	below, err := url.Parse(path)
	if err != nil || below.Host != "" {
		return destination
	}
	out := &url.URL{RawQuery: u.RawQuery, ForceQuery: u.ForceQuery}
	if u.IsAbs() {
		out.Scheme, out.Host = base.Scheme, base.Host
	}
	out.Path, out.RawPath = JoinPath(base, below)
	return out.String()
}

// sameAuthority reports whether u has the authority host. The default port counts as none.
func sameAuthority(u *url.URL, host string) bool {
	return sameOrigin(u, &url.URL{Scheme: u.Scheme, Host: host})
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
