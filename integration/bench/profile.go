package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
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
	req, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://admin/debug/pprof/profile?seconds=%d", int(duration.Seconds())), nil)
	if err != nil {
		return err
	}
	profile, err := c.admin(req)
	if err != nil {
		return err
	}
	profile, err = withoutPath(profile, c.proc.cmd.Path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, profile, 0o644) //nolint:gosec // it is checked in
}

// withoutPath takes the place of the program on this machine out of a profile: by a text of the same
// length, because texts in it are counted.
func withoutPath(profile []byte, path string) ([]byte, error) {
	packed, err := gzip.NewReader(bytes.NewReader(profile))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(packed)
	if err != nil {
		return nil, err
	}
	plain = bytes.ReplaceAll(plain, []byte(path), bytes.Repeat([]byte("-"), len(path)))
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err = w.Write(plain)
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}
