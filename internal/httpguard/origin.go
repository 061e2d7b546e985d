package httpguard

import (
	"net/netip"
	"net/url"
	"strings"
)

// NamesCaller reports whether the value of an Origin field names a page that may call a sidecar on
// loopback: one whose host is an address, localhost, a name under it, or the API's (rule 35). A page
// of another site has a name of its own, or says null. isAPI is asked last, for a host in lower case.
func NamesCaller(origin string, isAPI func(host string) bool) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.User != nil {
		return false
	}
	host := CanonicalHost(u.Hostname())
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	_, err = netip.ParseAddr(host)
	return err == nil || isAPI(host)
}

// CanonicalHost returns a host in lower case, without the dot at the end that a name may have.
func CanonicalHost(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }
