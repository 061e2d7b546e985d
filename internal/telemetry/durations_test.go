package telemetry

import (
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// TestDurationsAreAHistogram compares the histogram with one of client_golang.
func TestDurationsAreAHistogram(t *testing.T) {
	library := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "took_seconds", Buckets: prometheus.DefBuckets})
	var own durations
	for _, bound := range prometheus.DefBuckets {
		at := time.Duration(bound * float64(time.Second))
		for _, took := range []time.Duration{at - 1, at, at + 1} {
			library.Observe(took.Seconds())
			own.observe(took)
		}
	}
	for _, took := range []time.Duration{0, time.Hour} {
		library.Observe(took.Seconds())
		own.observe(took)
	}
	var got, want dto.Metric
	if err := own.metric(prometheus.NewDesc("took_seconds", "", []string{"connection"}, nil), "c").Write(&got); err != nil {
		t.Fatal(err)
	}
	if err := library.Write(&want); err != nil {
		t.Fatal(err)
	}
	if difference := got.Histogram.GetSampleSum() - want.Histogram.GetSampleSum(); difference*difference > 1e-12 {
		t.Errorf("the sums differ by %g", difference)
	}
	if g, w := got.Histogram.GetSampleCount(), want.Histogram.GetSampleCount(); g != w {
		t.Errorf("counted %d, want %d", g, w)
	}
	if g, w := cumulative(&got), cumulative(&want); !maps.Equal(g, w) {
		t.Errorf("the buckets are %v, want %v", g, w)
	}
}

// cumulative returns the counts of a histogram's buckets by their upper bounds.
func cumulative(m *dto.Metric) map[float64]uint64 {
	counts := make(map[float64]uint64)
	for _, bucket := range m.Histogram.GetBucket() {
		counts[bucket.GetUpperBound()] = bucket.GetCumulativeCount()
	}
	return counts
}
