package sites

import (
	"encoding/json"
	"errors"
	"maps"
	"net"
	"slices"
	"syscall"
	"time"
)

// Taken returns the addresses in the configuration of an http app on which another process listens. Caddy
// shares ports, so that it would not notice.
func Taken(httpApp json.RawMessage) []string {
	var config struct {
		Servers map[string]struct {
			Listen []string `json:"listen"`
		} `json:"servers"`
	}
	if json.Unmarshal(httpApp, &config) != nil {
		return nil
	}
	var taken []string
	for _, name := range slices.Sorted(maps.Keys(config.Servers)) {
		for _, listen := range config.Servers[name].Listen {
			if isTaken(listen) {
				taken = append(taken, listen)
			}
		}
	}
	return taken
}

func isTaken(listen string) bool {
	address, err := parse(listen)
	if err != nil || address.Network != "tcp" || address.StartPort == 0 {
		return false
	}
	listener, err := net.Listen(address.Network, address.JoinHostPort(0))
	if err == nil {
		_ = listener.Close()
		return false
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return false
	}
	// The port may only be reserved. To connect to no host is to connect to this machine.
	conn, err := net.DialTimeout(address.Network, address.JoinHostPort(0), dialTimeout)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// dialTimeout is plenty for a port of this machine.
const dialTimeout = 200 * time.Millisecond
