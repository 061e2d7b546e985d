package httpguard

import (
	"net/netip"
	"net/url"
	"strings"
)

// maxHostName is how long a host name may be, and maxLabel how long a part of it between dots (RFC 1035 §2.3.4).
const (
	maxHostName = 253
	maxLabel    = 63
)

// ParseAuthority returns the host of an authority, such as the value of a Host field: in lower case, without the
// port, the brackets of an IPv6 address and the dot at the end that a name may have. It reports whether there is
// one: an address of another form than dotted or in brackets is none, and neither is anything with user
// information.
func ParseAuthority(authority string) (host string, ok bool) {
	if strings.HasPrefix(authority, "[") {
		address, port, closed := strings.Cut(authority[1:], "]")
		addr, err := netip.ParseAddr(address)
		return strings.ToLower(address), closed && err == nil && addr.Is6() && isPort(port)
	}
	name, port := authority, ""
	if colon := strings.IndexByte(authority, ':'); colon >= 0 {
		name, port = authority[:colon], authority[colon:]
	}
	name = strings.TrimSuffix(name, ".")
	if !IsHostName(name) || !isPort(port) {
		return "", false
	}
	return strings.ToLower(name), true // of a name of ASCII only
}

// isPort reports whether text is what may follow a host: nothing, or a colon with digits, if any (RFC 3986 §3.2.3).
func isPort(text string) bool {
	return text == "" || text[0] == ':' && !strings.ContainsFunc(text[1:], func(r rune) bool { return r < '0' || r > '9' })
}

// IsHostName reports whether a text consists of labels as host names have them, which here may have underscores,
// too. A dotted address is also one.
func IsHostName(text string) bool {
	length := 0
	for i := range len(text) {
		switch c := text[i]; {
		case c == '.' && length > 0:
			length = 0
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
		if length++; length > maxLabel {
			return false
		}
	}
	return length > 0 && len(text) <= maxHostName
}

// IsMachineItself reports whether a host, as of ParseAuthority, is one that no page of another site can have as its
// own name: an address, localhost or a name under it.
func IsMachineItself(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// OriginHost returns the host that the value of an Origin field names, as ParseAuthority does. The value null
// names none.
func OriginHost(origin string) (host string, ok bool) {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.User != nil {
		return "", false
	}
	return ParseAuthority(u.Host)
}

// SameHost reports whether a host that a configuration names is one of ParseAuthority.
func SameHost(configured, host string) bool {
	return strings.EqualFold(strings.TrimSuffix(configured, "."), host)
}
