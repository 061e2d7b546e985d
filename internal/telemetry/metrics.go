// Package telemetry tells operators what happens to tokens and requests: metrics, events for Caddy's
// events app, and trace spans. It decides nothing; its callers say what became of a request.
package telemetry

import (
	"errors"
	"iter"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

const (
	metricsNamespace = "caddy"
	metricsSubsystem = "http_helper"
)

// The metrics of all configs. They are registered with every config's own registry, so that their
// values survive reloads.
var (
	tokenRequestsTotal = newCounters("token_requests_total", "Token requests, by result.", "result")

	tokenRequestDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "token_request_duration_seconds",
		Help:    "How long token requests took.",
		Buckets: prometheus.DefBuckets,
	}, []string{"connection"})

	requestsTotal = newCounters("requests_total", "Requests of the app, by what became of them.", "outcome")

	unauthorizedTotal = newCounters("unauthorized_total", "Responses 401 of the API to a token, by what became of them.", "outcome")

	tokenExpiryDesc = prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "token_expiry_timestamp_seconds"),
		"When the token in hand expires, in Unix time. Absent without a live token.", []string{"connection"}, nil)
)

func newCounters(name, help, label string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
	}, []string{"connection", label})
}

// Register registers the metrics with a config's registry. expiries yields the connections of the
// running config that have a usable token, with its expiry.
func Register(registry prometheus.Registerer, expiries func() iter.Seq2[string, time.Time]) error {
	for _, c := range []prometheus.Collector{tokenRequestsTotal, tokenRequestDuration, requestsTotal, unauthorizedTotal, expiryCollector{expiries}} {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// expiryCollector collects when tokens expire. That depends on the running config, so it is not kept
// in a gauge.
type expiryCollector struct {
	expiries func() iter.Seq2[string, time.Time]
}

// Describe implements prometheus.Collector.
func (expiryCollector) Describe(ch chan<- *prometheus.Desc) { ch <- tokenExpiryDesc }

// Collect implements prometheus.Collector.
func (c expiryCollector) Collect(ch chan<- prometheus.Metric) {
	for connection, expires := range c.expiries() {
		seconds := float64(expires.UnixMilli()) / 1000
		ch <- prometheus.MustNewConstMetric(tokenExpiryDesc, prometheus.GaugeValue, seconds, connection)
	}
}

// Outcome is what became of a request, of a response 401 to a token, or of a token request.
type Outcome int

// The outcomes.
const (
	Refused Outcome = iota // a request was not sent, and not for lack of a token
	NoToken                // a request was not sent, because there was no token
	Sent                   // a request was sent with a token
	Kept                   // a request was sent with an Authorization of its own

	Replayed // a request was sent again with a newer token after a response 401
	Passed   // a response 401 was passed to the app

	granted
	misconfigured
	outage
)

// counters are the counter and the label value of each outcome.
var counters = [...]struct {
	of    *prometheus.CounterVec
	label string
}{
	Refused:       {requestsTotal, "refused"},
	NoToken:       {requestsTotal, "no_token"},
	Sent:          {requestsTotal, "sent"},
	Kept:          {requestsTotal, "kept"},
	Replayed:      {unauthorizedTotal, "replayed"},
	Passed:        {unauthorizedTotal, "passed"},
	granted:       {tokenRequestsTotal, "ok"},
	misconfigured: {tokenRequestsTotal, string(oauth.ClassConfiguration)},
	outage:        {tokenRequestsTotal, string(oauth.ClassOutage)},
}

// refusedUnknown counts refused requests whose connection is not known.
var refusedUnknown = requestsTotal.WithLabelValues("", counters[Refused].label)

// Connection is the series of one connection name. It is shared by all configs that have a connection
// of that name. All series exist from the start, so that rates can be computed.
type Connection struct {
	name     string
	counters [len(counters)]prometheus.Counter // by outcome
	duration prometheus.Observer
}

// connections counts the configs that use each connection name, so that the series of a connection are
// deleted with the last config that has it. Caddy loads and unloads one config at a time, so no series
// is made while it is being deleted.
var connections = caddy.NewUsagePool()

// Acquire returns the series of a connection name for one more config, which releases them in the end.
func Acquire(name string) *Connection {
	c, _, _ := connections.LoadOrNew(name, func() (caddy.Destructor, error) { // never fails
		return newConnection(name), nil
	})
	return c.(*Connection)
}

func newConnection(name string) *Connection {
	c := &Connection{name: name, duration: tokenRequestDuration.WithLabelValues(name)}
	for outcome, counter := range counters {
		c.counters[outcome] = counter.of.WithLabelValues(name, counter.label)
	}
	return c
}

// Release ends one config's use of the series. The last one deletes them.
func (c *Connection) Release() { _, _ = connections.Delete(c.name) }

// Destruct implements caddy.Destructor. It deletes the series one by one, because DeletePartialMatch
// searches those of all connections.
func (c *Connection) Destruct() error {
	tokenRequestDuration.DeleteLabelValues(c.name)
	for _, counter := range counters {
		counter.of.DeleteLabelValues(c.name, counter.label)
	}
	return nil
}

// Count counts an outcome. If c is nil, it is a refused request whose connection is not known.
func (c *Connection) Count(o Outcome) {
	if c == nil {
		refusedUnknown.Inc()
		return
	}
	c.counters[o].Inc()
}

// Observe counts a token request. Rejections are counted as responses 401.
func (c *Connection) Observe(event token.Event) {
	if event.Rejected {
		return
	}
	c.duration.Observe(event.Duration.Seconds())
	switch {
	case event.Err == nil:
		c.Count(granted)
	case event.Err.Class == oauth.ClassConfiguration:
		c.Count(misconfigured)
	default:
		c.Count(outage)
	}
}
