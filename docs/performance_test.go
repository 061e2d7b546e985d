package docs_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
)

// measured is docs/performance.json, which integration/bench writes.
type measured struct {
	Starts  int                            `json:"starts"`
	Rounds  map[string]map[string][]*round `json:"rounds"` // by scenario and contestant
	Summary map[string][]*struct {
		Contestant string  `json:"contestant"`
		Ratio      float64 `json:"cpu_ratio"`
		Error      float64 `json:"cpu_ratio_error"`
	} `json:"summary"`
}

// round is what one load on one contestant has cost.
type round struct {
	CPU       float64            `json:"cpu_us"`
	Latency   map[string]float64 `json:"latency_us"` // by percentile
	Resident  float64            `json:"resident_mib"`
	Anonymous float64            `json:"anonymous_mib"`
}

func (r *round) cpu() float64       { return r.CPU }
func (r *round) p99() float64       { return r.Latency["99"] / 1000 }
func (r *round) p999() float64      { return r.Latency["99.9"] / 1000 }
func (r *round) resident() float64  { return r.Resident }
func (r *round) anonymous() float64 { return r.Anonymous }

// TestPerformanceFigures compares the tables of docs/performance.md with the results that they show.
func TestPerformanceFigures(t *testing.T) {
	raw, err := os.ReadFile("docs/performance.json")
	if err != nil {
		t.Fatal(err)
	}
	var m measured
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(page), "\n")
	for _, row := range m.rows() {
		if !slices.Contains(lines, row) {
			t.Errorf("docs/performance.md lacks the row\n%s", row)
		}
	}
}

// rows are the rows of the tables, with medians of all rounds, ± twice the standard error between the starts.
func (m *measured) rows() []string {
	var rows []string
	for _, of := range []struct{ scenario, label string }{
		{"1k", "1 KB responses, 32 connections"},
		{"1k-1", "the same, 1 connection"},
		{"1k-512", "the same, 512 connections"},
		{"100k", "100 KB responses"},
		{"upload", "64 KB uploads"},
		{"h2", "HTTP/2 over TLS to the API"},
	} {
		rows = append(rows, row(of.label, m.ratios(of.scenario, "sidecar", "sidecar-reverse-proxy", "nginx")))
	}
	all := []string{"caddy", "sidecar", "sidecar-reverse-proxy"}
	return append(rows,
		row("CPU time of a request", m.absolute("1k", "%.0f ± %.0f µs", (*round).cpu, all...)),
		row("p99", m.absolute("1k", "%.1f ± %.1f ms", (*round).p99, all...)),
		row("resident memory", m.absolute("1k", "%.0f ± %.0f MiB", (*round).resident, all...)),
		row("anonymous memory", m.absolute("1k", "%.0f ± %.0f MiB", (*round).anonymous, all...)),
		row("resident memory, 512 connections", m.absolute("1k-512", "%.0f ± %.0f MiB", (*round).resident, all...)),
		row("p99, 512 connections", m.absolute("1k-512", "%.0f ± %.0f ms", (*round).p99, all...)),
		row("p99", m.absolute("refresh", "%.1f ± %.1f ms", (*round).p99, "sidecar-refreshing", "sidecar")),
		row("p99.9", m.absolute("refresh", "%.1f ± %.1f ms", (*round).p999, "sidecar-refreshing", "sidecar")))
}

func row(label string, cells []string) string {
	return "| " + label + " | " + strings.Join(cells, " | ") + " |"
}

func (m *measured) ratios(scenario string, contestants ...string) []string {
	var cells []string
	for _, contestant := range contestants {
		for _, s := range m.Summary[scenario] {
			if s.Contestant == contestant {
				cells = append(cells, fmt.Sprintf("%.2f ± %.2f", s.Ratio, s.Error))
			}
		}
	}
	return cells
}

// absolute returns a cell for each contestant of a scenario.
func (m *measured) absolute(scenario, format string, of func(*round) float64, contestants ...string) []string {
	cells := make([]string, len(contestants))
	for i, contestant := range contestants {
		var all, starts []float64
		for _, r := range m.Rounds[scenario][contestant] {
			all = append(all, of(r))
		}
		for start := range slices.Chunk(all, len(all)/m.Starts) {
			starts = append(starts, median(start))
		}
		cells[i] = fmt.Sprintf(format, median(all), spread(starts))
	}
	return cells
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// spread returns twice the standard error of the mean.
func spread(values []float64) float64 {
	var sum, squares float64
	for _, v := range values {
		sum += v
	}
	n := float64(len(values))
	for _, v := range values {
		squares += (v - sum/n) * (v - sum/n)
	}
	return 2 * math.Sqrt(squares/(n-1)/n)
}
