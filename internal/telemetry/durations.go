package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// bounds are the upper bounds of a histogram's buckets: prometheus.DefBuckets.
var bounds = [...]time.Duration{
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond,
	500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// durations is a histogram of durations.
type durations struct {
	counts      [len(bounds) + 1]atomic.Uint64 // the last one is of those above all bounds
	nanoseconds atomic.Int64                   // the sum
}

// observe counts a duration.
func (d *durations) observe(took time.Duration) {
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	d.counts[i].Add(1)
	d.nanoseconds.Add(int64(took))
}

// metric returns the histogram as it is now.
func (d *durations) metric(desc *prometheus.Desc, connection string) prometheus.Metric {
	buckets := make(map[float64]uint64, len(bounds))
	var count uint64
	for i, bound := range bounds {
		count += d.counts[i].Load()
		buckets[bound.Seconds()] = count
	}
	count += d.counts[len(bounds)].Load()
	return prometheus.MustNewConstHistogram(desc, count, time.Duration(d.nanoseconds.Load()).Seconds(), buckets, connection)
}
