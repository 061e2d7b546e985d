package httphelper

import (
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "http_helper"
)

// metrics collects what the process has counted. It is registered with every config's own registry, so
// that its values survive reloads. The values stand in plain counters and become metrics when they
// are asked for: ready-made ones would be most of what an idle connection takes of memory.
var metrics = &collectors{
	tokenRequests: describe("token_requests_total", "Token requests, by result.", "connection", "result"),
	durations:     describe("token_request_duration_seconds", "How long token requests took.", "connection"),
	expiry: describe("token_expiry_timestamp_seconds",
		"When the token in hand expires, in Unix time. Absent without a live token.", "connection"),
	requests:     describe("requests_total", "Requests of the app, by what became of them.", "connection", "outcome"),
	unauthorized: describe("unauthorized_total", "Answers 401 of the API to a token, by what became of them.", "connection", "outcome"),
}

type collectors struct {
	tokenRequests, durations, expiry, requests, unauthorized *prometheus.Desc
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, name), help, labels, nil)
}

// register makes the metrics part of a config's metrics.
func (c *collectors) register(registry *prometheus.Registry) error {
	if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return err
	}
	return nil
}

// Describe implements prometheus.Collector.
func (c *collectors) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{c.tokenRequests, c.durations, c.expiry, c.requests, c.unauthorized} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *collectors) Collect(ch chan<- prometheus.Metric) {
	for _, m := range metricsInUse.all() {
		m.collect(c, ch)
	}
	ch <- unnamed.refused.metric(c.requests, "", "refused")
	for _, conn := range activeConnections() {
		if expires := conn.source.status().expires; !expires.IsZero() {
			seconds := float64(expires.UnixMilli()) / 1000
			ch <- prometheus.MustNewConstMetric(c.expiry, prometheus.GaugeValue, seconds, conn.name)
		}
	}
}

// counter is the value of one series.
type counter struct{ value atomic.Uint64 }

// Inc counts one more.
func (c *counter) Inc() { c.value.Add(1) }

func (c *counter) metric(desc *prometheus.Desc, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(c.value.Load()), labels...)
}

// durationBuckets are the upper bounds of a histogram's buckets; what is longer is in one more.
var durationBuckets = [...]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// histogram is the values of one series of durations.
type histogram struct {
	mu     sync.Mutex
	counts [len(durationBuckets) + 1]uint64
	sum    float64
}

func (h *histogram) observe(seconds float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	bucket, _ := slices.BinarySearch(durationBuckets[:], seconds)
	h.counts[bucket]++
	h.sum += seconds
}

func (h *histogram) metric(desc *prometheus.Desc, labels ...string) prometheus.Metric {
	h.mu.Lock()
	defer h.mu.Unlock()
	var count uint64
	buckets := make(map[float64]uint64, len(durationBuckets))
	for i, bound := range durationBuckets {
		count += h.counts[i]
		buckets[bound] = count
	}
	count += h.counts[len(durationBuckets)]
	return prometheus.MustNewConstHistogram(desc, count, h.sum, buckets, labels...)
}

// connectionMetrics are the series of one connection name, for all configs that have it.
type connectionMetrics struct {
	name string

	granted, misconfigured, outages counter
	duration                        histogram

	requestCounters
	replayed, passed counter
}

// requestCounters count what became of requests, each once.
type requestCounters struct{ sent, kept, noToken, refused counter }

// unnamed counts requests whose connection is not known.
var unnamed requestCounters

// metricsInUse holds the series of the connections of all configs, so that those of a connection
// that is no more go away with the last config that has it.
var metricsInUse pool[string, connectionMetrics]

func acquireMetrics(name string) *connectionMetrics {
	return metricsInUse.acquire(name, func(m *connectionMetrics) { m.name = name })
}

// release ends one config's use of the series.
func (m *connectionMetrics) release() { metricsInUse.release(m.name) }

func (m *connectionMetrics) collect(c *collectors, ch chan<- prometheus.Metric) {
	ch <- m.granted.metric(c.tokenRequests, m.name, "ok")
	ch <- m.misconfigured.metric(c.tokenRequests, m.name, string(classConfiguration))
	ch <- m.outages.metric(c.tokenRequests, m.name, string(classOutage))
	ch <- m.duration.metric(c.durations, m.name)
	ch <- m.sent.metric(c.requests, m.name, "sent")
	ch <- m.kept.metric(c.requests, m.name, "kept")
	ch <- m.noToken.metric(c.requests, m.name, "no_token")
	ch <- m.refused.metric(c.requests, m.name, "refused")
	ch <- m.replayed.metric(c.unauthorized, m.name, "replayed")
	ch <- m.passed.metric(c.unauthorized, m.name, "passed")
}

// observe counts a token request.
func (m *connectionMetrics) observe(event fetchEvent) {
	if event.rejected {
		return
	}
	m.duration.observe(event.took.Seconds())
	switch {
	case event.failed == nil:
		m.granted.Inc()
	case event.failed.class == classConfiguration:
		m.misconfigured.Inc()
	default:
		m.outages.Inc()
	}
}

// counters count the requests of a connection, or of none that is known.
func (c *activeConnection) counters() *requestCounters {
	if c == nil {
		return &unnamed
	}
	return &c.metrics.requestCounters
}

// count counts a request: refused, or with the grant that it was sent with.
func (r *requestCounters) count(g *grant, refused *refusal) {
	switch {
	case refused == nil && g.keep:
		r.kept.Inc()
	case refused == nil:
		r.sent.Inc()
	case refused.tokenless:
		r.noToken.Inc()
	default:
		r.refused.Inc()
	}
}

// count counts the grant's request, once. When reverse_proxy tries again, its first attempt counts.
func (g *grant) count(refused *refusal) {
	if !g.counted {
		g.counted = true
		g.conn.counters().count(g, refused)
	}
}

// unsent stands for a request that has not come as far as the transport.
var unsent = &refusal{details: "nothing was sent"}

// countUnauthorized counts a 401 that goes to the app.
func (g *grant) countUnauthorized(res *http.Response, token *grantedToken) {
	if token != nil && res.StatusCode == http.StatusUnauthorized {
		g.conn.metrics.passed.Inc()
	}
}
