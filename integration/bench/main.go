// Command bench compares the sidecar with other proxies, which send a static header, in alternating
// rounds of one run: CPU time per request, throughput, latency and memory. Everything runs on
// loopback, on ports that the kernel gives; nginx, HAProxy and wrk must be installed.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// settings are the command's flags.
type settings struct {
	duration    time.Duration
	rounds      int
	starts      int
	connections int
	only        *regexp.Regexp // of scenarios
	proxies     *regexp.Regexp
	binaries    map[string]string
	json, svg   string
	scale       int
	counting    bool
	limit       float64
}

func main() {
	log.SetFlags(0)
	if len(os.Args) == 5 && os.Args[1] == "bare" {
		log.Fatal(serveBare(os.Args[2:]))
	}
	if err := bench(parseFlags()); err != nil {
		log.Fatalf("bench: %v", err)
	}
}

func parseFlags() *settings {
	all := regexp.MustCompile("")
	s := &settings{only: all, proxies: all, binaries: make(map[string]string)}
	flag.DurationVar(&s.duration, "duration", 3*time.Second, "how long each measurement lasts")
	flag.IntVar(&s.rounds, "rounds", 3, "how often everything is measured")
	flag.IntVar(&s.starts, "starts", 1, "how often all proxies are restarted, for as many rounds each")
	flag.IntVar(&s.connections, "connections", 32, "how many connections the load has")
	flag.StringVar(&s.json, "json", "", "write the results to this file")
	flag.StringVar(&s.svg, "svg", "", "write a plot to this file")
	flag.IntVar(&s.scale, "scale", 0, "only compare a sidecar with this many connections with one that has a single connection")
	flag.BoolVar(&s.counting, "instructions", false, "only count the instructions that a request takes, with valgrind")
	flag.Float64Var(&s.limit, "limit", 0, "with -instructions: fail if the sidecar takes more than this, of stock; 0: no limit")
	flag.Func("only", "measure the scenarios that match this regular expression", pattern(&s.only))
	flag.Func("proxies", "measure the proxies that match this regular expression", pattern(&s.proxies))
	for _, name := range []string{"sidecar", "caddy"} {
		flag.Func(name, "path of this Caddy", func(path string) (err error) {
			s.binaries[name], err = filepath.Abs(path)
			return err
		})
	}
	flag.Parse()
	if s.rounds < 1 || s.starts < 1 || s.connections < 1 {
		log.Fatal("bench: -rounds, -starts and -connections must be 1 at least")
	}
	return s
}

func pattern(into **regexp.Regexp) func(string) error {
	return func(text string) (err error) {
		*into, err = regexp.Compile(text)
		return err
	}
}

// bench runs everything in a directory of its own.
func bench(s *settings) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w, err := newWorld(dir)
	if err != nil {
		return err
	}
	defer w.stop()
	if s.scale > 1 {
		return w.scale(s)
	}
	if s.counting {
		return w.instructions(s)
	}
	chosen := slices.DeleteFunc(slices.Clone(scenarios), func(one *scenario) bool { return !s.only.MatchString(one.name) })
	if len(chosen) == 0 {
		return fmt.Errorf("-only matches no scenario; there are %s", names(scenarios, func(one *scenario) string { return one.name }))
	}
	results := newResults(s)
	for range s.starts {
		if err := w.compare(s, chosen, results); err != nil {
			return err
		}
	}
	return results.publish(s)
}

// compare starts all proxies, measures them and stops them. The placement of a process's memory changes
// its cost by some percent. More rounds do not even that out, only more starts do.
func (w *world) compare(s *settings, chosen []*scenario, results *results) error {
	contestants, err := w.startAll(s)
	if err != nil {
		return err
	}
	for _, scenario := range chosen {
		if err := measureAll(s, scenario, contestants, results); err != nil {
			return err
		}
	}
	for _, c := range contestants {
		w.end(c.proc)
	}
	return nil
}

// measureAll measures one scenario with all contestants in turn, each round in another order.
func measureAll(s *settings, scenario *scenario, all []*contestant, results *results) error {
	var contestants []*contestant
	for _, c := range all {
		if scenario.has(c.name) {
			contestants = append(contestants, c)
		}
	}
	for round := range s.rounds + 1 {
		for i := range contestants {
			c := contestants[(i+round)%len(contestants)]
			duration := s.duration
			if round == 0 { // to warm up
				duration = min(duration, time.Second)
			}
			m, err := measure(c, scenario, cmp.Or(scenario.clients, s.connections), duration)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", scenario.name, c.name, err)
			}
			if round > 0 {
				results.add(scenario.name, c.name, m)
				log.Printf("%-8s round %d  %-15s %7.1f µs CPU  %7.0f requests/s  p50 %.2f ms  p99 %.2f ms  errors %.0f",
					scenario.name, round, c.name, m.CPU, m.Throughput, m.Percentiles["50"]/1000, m.Percentiles["99"]/1000, m.Errors)
			}
		}
	}
	return nil
}

// scenario is one kind of load.
type scenario struct {
	name, title string
	path        string
	upload      bool
	connections int  // each request names one of that many connections of the sidecar; 0: none
	clients     int  // connections of the load; 0: as the flag says
	tls         bool // HTTP/2 over TLS to the API, where the proxy can
	contestants []string
}

var scenarios = []*scenario{
	{name: "1k", title: "1 KB responses", path: "/1k"},
	{name: "1k-1", title: "1 KB responses, 1 connection", path: "/1k", clients: 1},
	{name: "1k-512", title: "1 KB responses, 512 connections", path: "/1k", clients: 512},
	{name: "100k", title: "100 KB responses", path: "/100k"},
	{name: "h2", title: "1 KB responses, HTTP/2 over TLS to the API", path: "/1k", tls: true},
	{name: "upload", title: "64 KB uploads", path: "/upload", upload: true},
	{name: "refresh", title: "tokens refreshed every 2 s", path: "/1k", contestants: []string{"sidecar", refreshing}},
}

// refreshing is the sidecar with tokens of 2.5 s, which it refreshes every 2 s.
const refreshing = "sidecar-refreshing"

func (s *scenario) has(contestant string) bool {
	if s.contestants == nil {
		return contestant != refreshing
	}
	return slices.Contains(s.contestants, contestant)
}

// url is where the load of this scenario goes.
func (s *scenario) url(c *contestant) string {
	port := c.plain
	if s.tls {
		port = c.tls
	}
	return "http://127.0.0.1:" + port + s.path
}

func names[T any](all []T, name func(T) string) string {
	list := make([]string, len(all))
	for i, one := range all {
		list[i] = name(one)
	}
	return strings.Join(list, ", ")
}
