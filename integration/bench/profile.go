package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// takeProfile takes a CPU profile of the sidecar under the load of all scenarios: what default.pgo is.
func (w *world) takeProfile(s *settings) error {
	c := &contestant{name: "sidecar", plain: freePort(), tls: freePort(), world: w}
	if err := s.caddy("sidecar", sidecarConfig("token"))(c); err != nil {
		return err
	}
	var load []*scenario
	for _, scenario := range scenarios {
		if scenario.contestants == nil {
			load = append(load, scenario)
		}
	}
	taken := make(chan error, 1)
	go func() { taken <- c.saveProfile(s.profile, s.duration*time.Duration(len(load)*s.rounds)) }()
	for range s.rounds {
		for _, scenario := range load {
			if _, err := measure(c, scenario, s.connections, s.duration); err != nil {
				return err
			}
		}
	}
	return <-taken
}

// saveProfile asks a Caddy for a profile of so many seconds.
func (c *contestant) saveProfile(path string, duration time.Duration) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.adminSocket())
	}}}
	res, err := client.Get(fmt.Sprintf("http://admin/debug/pprof/profile?seconds=%d", int(duration.Seconds())))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	profile, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the profile cannot be had: %s", profile)
	}
	return os.WriteFile(path, profile, 0o644) //nolint:gosec // it is checked in
}
