package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
)

// baseline is the contestant that the others are compared with.
const baseline = "caddy"

// results are the measurements of a run, by scenario and contestant.
type results struct {
	CPUs        int                                  `json:"cpus"`
	Connections int                                  `json:"connections"`
	Seconds     float64                              `json:"seconds_per_round"`
	Rounds      map[string]map[string][]*measurement `json:"rounds"`
	Starts      int                                  `json:"starts"`
	Summary     map[string][]*summary                `json:"summary"`
}

// summary has the medians of the rounds of one contestant. Ratios compare measurements of the same
// round, so that other load on the machine affects both.
type summary struct {
	Contestant      string  `json:"contestant"`
	CPU             float64 `json:"cpu_us"`
	Throughput      float64 `json:"requests_per_s"`
	P50             float64 `json:"p50_us"`
	P99             float64 `json:"p99_us"`
	Resident        float64 `json:"resident_mib"`
	Anonymous       float64 `json:"anonymous_mib"`
	CPURatio        float64 `json:"cpu_ratio,omitempty"`
	CPURatioError   float64 `json:"cpu_ratio_error,omitempty"` // twice the standard error, from the starts
	ThroughputRatio float64 `json:"throughput_ratio,omitempty"`
}

func (s *summary) ratio() string {
	if s.CPURatioError == 0 {
		return ratio(s.CPURatio)
	}
	return fmt.Sprintf("%.3f ± %.3f", s.CPURatio, s.CPURatioError)
}

// ratio returns a dash when the baseline was not measured.
func ratio(r float64) string {
	if r == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3f", r)
}

func newResults(s *settings) *results {
	return &results{
		CPUs: runtime.NumCPU(), Connections: s.connections, Seconds: s.duration.Seconds(), Starts: s.starts,
		Rounds: make(map[string]map[string][]*measurement), Summary: make(map[string][]*summary),
	}
}

func (r *results) add(scenario, contestant string, m *measurement) {
	if r.Rounds[scenario] == nil {
		r.Rounds[scenario] = make(map[string][]*measurement)
	}
	r.Rounds[scenario][contestant] = append(r.Rounds[scenario][contestant], m)
}

// summarize computes the summaries, ordered by CPU time per request.
func (r *results) summarize() {
	for scenario, rounds := range r.Rounds {
		var all []*summary
		for contestant, mine := range rounds {
			s := &summary{
				Contestant: contestant,
				CPU:        median(mine, func(m *measurement) float64 { return m.CPU }),
				Throughput: median(mine, func(m *measurement) float64 { return m.Throughput }),
				P50:        median(mine, func(m *measurement) float64 { return m.Percentiles["50"] }),
				P99:        median(mine, func(m *measurement) float64 { return m.Percentiles["99"] }),
				Resident:   median(mine, func(m *measurement) float64 { return m.Resident }),
				Anonymous:  median(mine, func(m *measurement) float64 { return m.Anonymous }),
			}
			if base := rounds[baseline]; base != nil {
				s.CPURatio, s.CPURatioError = r.ratio(mine, base, func(m *measurement) float64 { return m.CPU })
				s.ThroughputRatio, _ = r.ratio(mine, base, func(m *measurement) float64 { return m.Throughput })
			}
			all = append(all, s)
		}
		slices.SortFunc(all, func(a, b *summary) int { return int(1000 * (a.CPU - b.CPU)) })
		r.Summary[scenario] = all
	}
}

func median[T any](all []T, of func(T) float64) float64 {
	values := make([]float64, len(all))
	for i, m := range all {
		values[i] = of(m)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// ratio returns the median of the ratios of the rounds, and twice the standard error of the medians of
// the starts.
func (r *results) ratio(mine, base []*measurement, of func(*measurement) float64) (middle, uncertainty float64) {
	ratios := make([]float64, len(mine))
	for i := range mine {
		ratios[i] = of(mine[i]) / of(base[i])
	}
	var starts []float64
	for start := range slices.Chunk(ratios, len(ratios)/r.Starts) {
		starts = append(starts, median(start, identity))
	}
	return median(ratios, identity), 2 * standardError(starts)
}

func identity(f float64) float64 { return f }

// standardError returns the standard error of the mean, or 0 for a single value.
func standardError(values []float64) float64 {
	n := float64(len(values))
	if n < 2 {
		return 0
	}
	middle, squares := mean(values), 0.0
	for _, v := range values {
		squares += (v - middle) * (v - middle)
	}
	return math.Sqrt(squares / (n - 1) / n)
}

func mean(values []float64) float64 {
	var sum float64
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// publish prints the tables and writes the files.
func (r *results) publish(s *settings) error {
	r.summarize()
	r.print()
	if s.json != "" {
		text, err := json.MarshalIndent(r, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.json, append(text, '\n'), 0o644); err != nil { //nolint:gosec // the results are public
			return err
		}
	}
	if s.svg != "" {
		return os.WriteFile(s.svg, []byte(r.plot()), 0o644) //nolint:gosec // the results are public
	}
	return nil
}

func (r *results) print() {
	for _, scenario := range scenarios {
		if r.Summary[scenario.name] == nil {
			continue
		}
		fmt.Printf("\n%s\n\n", scenario.title)
		table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "| |\tCPU/request |\tof stock |\trequests/s |\tof stock |\tp50 |\tp99 |\tresident |\tanonymous |")
		fmt.Fprintln(table, "| --- |\t--: |\t--: |\t--: |\t--: |\t--: |\t--: |\t--: |\t--: |")
		for _, c := range r.Summary[scenario.name] {
			fmt.Fprintf(table, "| %s |\t%.1f µs |\t%s |\t%.0f |\t%s |\t%.2f ms |\t%.2f ms |\t%.0f MiB |\t%.0f MiB |\n", c.Contestant, c.CPU, c.ratio(),
				c.Throughput, ratio(c.ThroughputRatio), c.P50/1000, c.P99/1000, c.Resident, c.Anonymous)
		}
		_ = table.Flush()
	}
}
