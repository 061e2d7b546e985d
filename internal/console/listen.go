package console

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// Listen listens on a loopback address such as 127.0.0.1:0, whose port 0 means any free one.
func Listen(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil || !isPort(port, 0) {
		return nil, errors.New("--listen: a loopback address with a port is needed, such as 127.0.0.1:0")
	}
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1" // whatever the resolver says
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" || !ip.Unmap().IsLoopback() {
		return nil, errors.New("--listen: only loopback addresses are possible, such as 127.0.0.1:0 or [::1]:0; " +
			"for another machine forward a port, for example with ssh -L")
	}
	return net.Listen("tcp", net.JoinHostPort(ip.Unmap().String(), port))
}

func isPort(text string, least int) bool {
	number, err := strconv.Atoi(text)
	return err == nil && number >= least && number <= 65535
}

// Host is what requests may be addressed to.
type Host struct {
	name string // lower case, without a trailing dot
	port string // empty: any
}

// hostName matches a name without a wildcard, or an IPv4 address.
var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?$`)

// ParseHost reads a host that is allowed: a name, or a name and a port.
func ParseHost(text string) (Host, error) {
	name, port, found := strings.Cut(text, ":")
	if !hostName.MatchString(name) || found && !isPort(port, 1) {
		return Host{}, fmt.Errorf("--allow-host: a name is needed, such as devbox.example or devbox.example:8443, without scheme and wildcard")
	}
	return Host{canonicalName(name), port}, nil
}

func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// hosts are all that requests may be addressed to.
type hosts []Host

// hostsOf returns the listener's own address, localhost with its port, and others.
func hostsOf(listening net.Addr, others []Host) hosts {
	host, port, _ := net.SplitHostPort(listening.String())
	return append(hosts{{host, port}, {"localhost", port}}, others...)
}

// allow reports whether requests may be addressed to a host, which is that of the request's target or
// field. A browser leaves the default port out.
func (h hosts) allow(authority string) bool {
	name, port, err := net.SplitHostPort(authority)
	if err != nil {
		name, port = strings.Trim(authority, "[]"), "80"
	}
	name = canonicalName(name)
	for _, allowed := range h {
		if name == allowed.name && (allowed.port == "" || allowed.port == port) {
			return true
		}
	}
	return false
}
