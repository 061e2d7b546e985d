package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"time"
)

//go:embed wrk.lua
var wrkScript string

// measurement is the result of one round of load.
type measurement struct {
	Requests    float64            `json:"requests"`
	CPU         float64            `json:"cpu_us"`         // µs of CPU time per request
	Throughput  float64            `json:"requests_per_s"` // requests per second
	Percentiles map[string]float64 `json:"latency_us"`     // µs
	Errors      float64            `json:"errors"`
	Resident    float64            `json:"resident_mib"`  // memory, right after the load
	Anonymous   float64            `json:"anonymous_mib"` // what of it are no pages of a file, such as the program
}

// wrkSummary is what wrk.lua prints.
type wrkSummary struct {
	Requests    float64            `json:"requests"`
	Duration    float64            `json:"duration_us"`
	Errors      float64            `json:"errors"`
	Percentiles map[string]float64 `json:"percentiles"`
}

// measure puts load on one contestant.
func measure(c *contestant, s *scenario, connections int, duration time.Duration) (*measurement, error) {
	upload := "0"
	if s.upload {
		upload = strconv.Itoa(64 << 10)
	}
	cmd := exec.Command("wrk", //nolint:gosec // the benchmark itself makes the arguments
		"--threads", strconv.Itoa(min(2, connections)), "--connections", strconv.Itoa(connections),
		"--duration", strconv.Itoa(max(1, int(duration.Seconds())))+"s", "--timeout", "60s",
		"--script", c.world.file("wrk.lua"), s.url(c), "--", upload, strconv.Itoa(s.connections))
	before := c.proc.cpuTime()
	out, err := cmd.Output()
	used := c.proc.cpuTime() - before
	if err != nil {
		return nil, fmt.Errorf("wrk: %v: %s", err, out)
	}
	var summary wrkSummary
	if err := json.Unmarshal(lastLine(out), &summary); err != nil {
		return nil, fmt.Errorf("wrk printed no summary: %s", out)
	}
	// A server may close a connection that a request is just being sent on.
	if summary.Requests == 0 || summary.Errors/summary.Requests > 1e-3 {
		return nil, fmt.Errorf("%v of %v requests failed", summary.Errors, summary.Requests)
	}
	resident, anonymous := c.proc.memory()
	return &measurement{
		Resident:    resident,
		Anonymous:   anonymous,
		Requests:    summary.Requests,
		CPU:         float64(used.Microseconds()) / summary.Requests,
		Errors:      summary.Errors,
		Throughput:  summary.Requests / summary.Duration * 1e6,
		Percentiles: summary.Percentiles,
	}, nil
}
