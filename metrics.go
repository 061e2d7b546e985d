package httphelper

import (
	"errors"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "http_helper"
)

// metrics are the collectors of the process. They are registered with every config's own registry,
// so that their values survive reloads.
var metrics = newCollectors()

type collectors struct {
	tokenRequests *prometheus.CounterVec
	durations     *prometheus.HistogramVec
	expiry        expiryCollector
	requests      *prometheus.CounterVec
	unauthorized  *prometheus.CounterVec
}

func newCollectors() *collectors {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
		}, []string{"connection", label})
	}
	return &collectors{
		tokenRequests: counter("token_requests_total", "Token requests, by result.", "result"),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: metricsNamespace, Subsystem: metricsSubsystem,
			Name: "token_request_duration_seconds", Help: "How long token requests took.",
			Buckets: prometheus.DefBuckets,
		}, []string{"connection"}),
		expiry: expiryCollector{prometheus.NewDesc(
			prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "token_expiry_timestamp_seconds"),
			"When the token in hand expires, in Unix time. Absent without a live token.", []string{"connection"}, nil,
		)},
		requests:     counter("requests_total", "Requests of the app, by what became of them.", "outcome"),
		unauthorized: counter("unauthorized_total", "Answers 401 of the API to a token, by what became of them.", "outcome"),
	}
}

// register makes the collectors part of a config's metrics.
func (c *collectors) register(registry *prometheus.Registry) error {
	for _, collector := range []prometheus.Collector{c.tokenRequests, c.durations, c.expiry, c.requests, c.unauthorized} {
		if err := registry.Register(collector); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// expiryCollector looks at the running config's connections when it is asked.
type expiryCollector struct{ desc *prometheus.Desc }

// Describe implements prometheus.Collector.
func (c expiryCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c expiryCollector) Collect(ch chan<- prometheus.Metric) {
	for _, conn := range activeConnections() {
		if expires := conn.source.status().expires; !expires.IsZero() {
			seconds := float64(expires.UnixMilli()) / 1000
			ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, seconds, conn.name)
		}
	}
}

// connectionMetrics are the series of one connection name, for all configs that have it.
type connectionMetrics struct {
	name string

	granted, misconfigured, outages prometheus.Counter
	duration                        prometheus.Observer

	requestCounters
	replayed, passed prometheus.Counter
}

// requestCounters count what became of requests, each once.
type requestCounters struct{ sent, kept, noToken, refused prometheus.Counter }

// unnamed counts requests whose connection is not known.
var unnamed = requestCounters{refused: metrics.requests.WithLabelValues("", "refused")}

// metricsInUse holds the series of the connections of all configs, so that those of a connection
// that is no more go away with the last config that has it.
var metricsInUse = caddy.NewUsagePool()

func acquireMetrics(name string) *connectionMetrics {
	value, _, _ := metricsInUse.LoadOrNew(name, func() (caddy.Destructor, error) {
		return newConnectionMetrics(name), nil
	})
	return value.(*connectionMetrics)
}

// release ends one config's use of the series.
func (m *connectionMetrics) release() { _, _ = metricsInUse.Delete(m.name) }

func newConnectionMetrics(name string) *connectionMetrics {
	return &connectionMetrics{
		name:          name,
		granted:       metrics.tokenRequests.WithLabelValues(name, "ok"),
		misconfigured: metrics.tokenRequests.WithLabelValues(name, string(classConfiguration)),
		outages:       metrics.tokenRequests.WithLabelValues(name, string(classOutage)),
		duration:      metrics.durations.WithLabelValues(name),
		requestCounters: requestCounters{
			sent:    metrics.requests.WithLabelValues(name, "sent"),
			kept:    metrics.requests.WithLabelValues(name, "kept"),
			noToken: metrics.requests.WithLabelValues(name, "no_token"),
			refused: metrics.requests.WithLabelValues(name, "refused"),
		},
		replayed: metrics.unauthorized.WithLabelValues(name, "replayed"),
		passed:   metrics.unauthorized.WithLabelValues(name, "passed"),
	}
}

// Destruct removes the series.
func (m *connectionMetrics) Destruct() error {
	mine := prometheus.Labels{"connection": m.name}
	metrics.tokenRequests.DeletePartialMatch(mine)
	metrics.durations.DeletePartialMatch(mine)
	metrics.requests.DeletePartialMatch(mine)
	metrics.unauthorized.DeletePartialMatch(mine)
	return nil
}

// observe counts a token request.
func (m *connectionMetrics) observe(event fetchEvent) {
	if event.rejected {
		return
	}
	m.duration.Observe(event.took.Seconds())
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
