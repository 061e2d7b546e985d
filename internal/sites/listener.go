package sites

import (
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// parse returns the address of a listener as it is configured.
func parse(listener string) (caddy.NetworkAddress, error) {
	return caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(listener, ""))
}

// ListensAt reports whether a listener gets the connections to a loopback address, host and port.
func ListensAt(listener, address string) bool {
	listening, err := parse(listener)
	host, port, errDial := net.SplitHostPort(address)
	number, errPort := strconv.ParseUint(port, 10, 16)
	if errors.Join(err, errDial, errPort) != nil || !strings.HasPrefix(listening.Network, "tcp") {
		return false
	}
	if uint(number) < listening.StartPort || uint(number) > listening.EndPort {
		return false
	}
	wildcard := listening.Host == "" || listening.Host == "0.0.0.0" || listening.Host == "::"
	return wildcard || loopbackAddress(listening.Host) == loopbackAddress(host)
}

// loopbackAddress returns the address that localhost usually is, and any other host as it is.
func loopbackAddress(host string) string {
	if strings.EqualFold(host, "localhost") {
		return "127.0.0.1"
	}
	return host
}
