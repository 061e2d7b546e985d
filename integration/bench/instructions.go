package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// instructions counts the processor's instructions per request of each Caddy, outside of the kernel,
// with valgrind's callgrind. Unlike times, these figures hardly depend on other load on the machine.
func (w *world) instructions(s *settings) error {
	var base float64
	for _, proxy := range []struct {
		name, binary string
		config       func(*contestant) string
	}{
		{baseline, baseline, stockConfig},
		{"sidecar", "sidecar", sidecarConfig("token", "")},
		{throughReverseProxy, "sidecar", sidecarConfig("token", "use_reverse_proxy")},
	} {
		if s.binaries[proxy.binary] == "" || !s.proxies.MatchString(proxy.name) {
			continue
		}
		count, err := w.countInstructions(s, proxy.name, proxy.binary, proxy.config)
		if err != nil {
			return fmt.Errorf("%s: %w", proxy.name, err)
		}
		if proxy.name == baseline {
			base = count
		}
		log.Printf("%-22s %8.1f thousand instructions per request, of stock %.3f", proxy.name, count/1000, count/base)
		if proxy.name == "sidecar" && s.limit > 0 && count/base > s.limit {
			return fmt.Errorf("the sidecar takes more than %.3f of stock's instructions", s.limit)
		}
	}
	return nil
}

// countInstructions runs a Caddy in callgrind, which counts during the second of two loads.
func (w *world) countInstructions(s *settings, name, binary string, config func(*contestant) string) (float64, error) {
	c := &contestant{name: name, plain: freePort(), tls: freePort(), world: w}
	out := w.file(name + ".callgrind")
	c.wrapper = []string{"valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=" + out}
	// One thread, because valgrind runs one at a time anyway. No preemption, because under valgrind it
	// would interrupt goroutines all the time. No RDTSCP, because valgrind offers that instruction to
	// programs even where the machine lacks it, and then ends them when they use it.
	if err := s.caddy(binary, config, "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1,cpu.rdtscp=off")(c); err != nil {
		return 0, err
	}
	if err := await(c.plain); err != nil {
		return 0, err
	}
	load := &scenario{name: "1k", path: "/1k"}
	if _, err := measure(c, load, s.connections, s.duration); err != nil {
		return 0, err
	}
	if err := c.control("on"); err != nil {
		return 0, err
	}
	m, err := measure(c, load, s.connections, s.duration*time.Duration(s.rounds))
	if err != nil {
		return 0, err
	}
	if err := c.control("off"); err != nil {
		return 0, err
	}
	c.proc.stop()
	total, err := callgrindTotal(out)
	return total / m.Requests, err
}

// control switches callgrind's counting on or off.
func (c *contestant) control(instrumentation string) error {
	out, err := exec.Command("callgrind_control", "--instr="+instrumentation, strconv.Itoa(c.proc.cmd.Process.Pid)).CombinedOutput() //nolint:gosec // our own process
	if err != nil {
		return fmt.Errorf("callgrind_control: %v: %s", err, out)
	}
	return nil
}

// callgrindTotal is the number of instructions in callgrind's file.
func callgrindTotal(file string) (float64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if total, ok := strings.CutPrefix(line, "totals: "); ok {
			return strconv.ParseFloat(strings.TrimSpace(total), 64)
		}
	}
	return 0, fmt.Errorf("callgrind has counted nothing: see %s", file)
}
