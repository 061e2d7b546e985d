package httpguard

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// NamesCaller reports whether the value of an Origin field names a page that may call a sidecar on
// loopback: one whose host is an address, localhost, a name under it, or one of hosts (rule 35). A page
// of another site has a name of its own, or says null.
func NamesCaller(origin string, hosts []string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Scheme != "" && u.User == nil && callerHost(u.Hostname(), hosts)
}

// callerHost reports whether a host, given without a port, is one that a caller on this machine names.
func callerHost(host string, hosts []string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(hosts, host) {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}
