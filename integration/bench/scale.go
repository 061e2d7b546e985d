package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// scale compares sidecars of many connections with those of a single connection: load, reload,
// memory, and CPU time per request.
func (w *world) scale(s *settings) error {
	var ratios []float64
	for range s.starts {
		ratio, err := w.scaleOnce(s)
		if err != nil {
			return err
		}
		ratios = append(ratios, ratio)
	}
	all := summary{CPURatio: mean(ratios), CPURatioError: 2 * standardError(ratios)}
	log.Printf("ratio: %s", all.ratio())
	return nil
}

// scaleOnce starts a sidecar of each kind, compares them, and returns the ratio of CPU time per request.
func (w *world) scaleOnce(s *settings) (float64, error) {
	one, err := w.startConnections(s, "one", 1)
	if err != nil {
		return 0, err
	}
	defer w.end(one.proc)
	many, err := w.startConnections(s, "many", s.scale)
	if err != nil {
		return 0, err
	}
	defer w.end(many.proc)
	ofOne, _ := one.proc.memory()
	ofMany, _ := many.proc.memory()
	log.Printf("resident memory of a connection after the start: %.1f KiB", (ofMany-ofOne)*1024/float64(s.scale-1))
	if err := w.compareUse(s, one, many); err != nil {
		return 0, err
	}
	return w.compareCost(s, one, many)
}

// compareUse measures the memory and the reloads of both.
func (w *world) compareUse(s *settings, one, many *contestant) error {
	idle := func() (float64, error) {
		heapOne, err := one.liveHeap()
		if err != nil {
			return 0, err
		}
		heapMany, err := many.liveHeap()
		return (heapMany - heapOne) / float64(s.scale-1) / 1024, err
	}
	before, err := idle()
	if err != nil {
		return err
	}
	log.Printf("heap of a connection without a token: %.1f KiB", before)
	took, err := many.callAll(s.scale)
	if err != nil {
		return err
	}
	log.Printf("a first request with each of %d connections: %.1f s, %d token requests", s.scale, took.Seconds(), w.granted.Load())
	after, err := idle()
	if err != nil {
		return err
	}
	log.Printf("heap of a connection with a token: %.1f KiB", after)
	for range min(s.rounds, 3) {
		granted := w.granted.Load()
		took, err := many.reload()
		if err != nil {
			return err
		}
		if _, err := many.callAll(s.scale); err != nil {
			return err
		}
		log.Printf("reload: %.2f s; %d token requests by it and a request with each connection after it", took.Seconds(), w.granted.Load()-granted)
	}
	return nil
}

// compareCost puts the same load on both in turn, and returns the median of the ratios of CPU time.
func (w *world) compareCost(s *settings, one, many *contestant) (float64, error) {
	var ratios []float64
	for round := range s.rounds + 1 {
		var cpu [2]float64
		for i, c := range []*contestant{one, many} {
			load := &scenario{name: "scale", path: "/1k", connections: []int{1, s.scale}[i]}
			m, err := measure(c, load, s.connections, s.duration)
			if err != nil {
				return 0, err
			}
			cpu[i] = m.CPU
		}
		if round > 0 { // the first is to warm up
			ratios = append(ratios, cpu[1]/cpu[0])
			log.Printf("CPU per request: %.1f µs with one connection, %.1f µs with %d", cpu[0], cpu[1], s.scale)
		}
	}
	return median(ratios, identity), nil
}

// startConnections runs a sidecar with that many connections. Each request names one of them.
func (w *world) startConnections(s *settings, name string, connections int) (*contestant, error) {
	c := &contestant{name: name, plain: freePort(), world: w}
	c.tls = c.plain
	var names, definitions strings.Builder
	for i := range connections {
		fmt.Fprintf(&names, " c%d", i)
		fmt.Fprintf(&definitions, "\t\tconnection c%d api {\n\t\t\tclient_id c%d\n\t\t\tclient_secret {env.SECRET}\n\t\t}\n", i, i)
	}
	c.caddyfile = fmt.Sprintf(`{
	admin unix/%s
	persist_config off
	auto_https off
	http_helper {
		connector api {
			base_url http://127.0.0.1:%s
			token_url %s/token
		}
%s	}
}
:%s {
	bind 127.0.0.1
	http_helper {http.request.header.X-Connection} {
		connections%s
	}
}
`, c.adminSocket(), w.apiPlain, w.tokens.URL, definitions.String(), c.plain, names.String())
	file := name + ".Caddyfile"
	if err := w.write(file, c.caddyfile); err != nil {
		return nil, err
	}
	began := time.Now()
	var err error
	c.proc, err = w.run(c.plain, []string{"SECRET=secret"}, s.binaries["sidecar"], "run", "--config", file, "--adapter", "caddyfile")
	log.Printf("%d connections: started in %.2f s", connections, time.Since(began).Seconds())
	return c, err
}

// reload loads the same configuration again, changed so that Caddy does not skip it.
func (c *contestant) reload() (time.Duration, error) {
	c.caddyfile += "# again\n"
	req, err := http.NewRequest(http.MethodPost, "http://admin/load", strings.NewReader(c.caddyfile))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate")
	began := time.Now()
	_, err = c.admin(req)
	return time.Since(began), err
}

// liveHeap is the sidecar's memory in use, in bytes, after a garbage collection.
func (c *contestant) liveHeap() (float64, error) {
	for _, path := range []string{"/debug/pprof/heap?gc=1&debug=1", "/debug/vars"} {
		req, err := http.NewRequest(http.MethodGet, "http://admin"+path, nil)
		if err != nil {
			return 0, err
		}
		body, err := c.admin(req)
		if err != nil {
			return 0, err
		}
		var vars struct {
			Memory struct{ HeapInuse, StackInuse float64 } `json:"memstats"`
		}
		if json.Unmarshal(body, &vars) == nil {
			return vars.Memory.HeapInuse + vars.Memory.StackInuse, nil
		}
	}
	return 0, fmt.Errorf("%s does not tell its memory", c.name)
}

// admin makes a request to the admin endpoint.
func (c *contestant) admin(req *http.Request) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.adminSocket())
	}}}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %s", req.URL.Path, res.StatusCode, body)
	}
	return body, err
}

// callAll makes a request with each connection.
func (c *contestant) callAll(connections int) (time.Duration, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer client.CloseIdleConnections()
	began := time.Now()
	failed := make(chan error, 32)
	var workers sync.WaitGroup
	for worker := range cap(failed) {
		workers.Go(func() {
			for i := worker; i < connections; i += cap(failed) {
				if err := c.call(client, fmt.Sprint("c", i)); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	workers.Wait()
	close(failed)
	return time.Since(began), <-failed
}

func (c *contestant) call(client *http.Client, connection string) error {
	req, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+c.plain+"/1k", nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Connection", connection)
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("connection %s: status %d", connection, res.StatusCode)
	}
	_, err = io.Copy(io.Discard, res.Body)
	return err
}
