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

// The metrics of all configs. They are registered with every config's own registry, so that their
// values survive reloads.
var (
	tokenRequestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "token_requests_total",
		Help: "Token requests, by result.",
	}, []string{"connection", "result"})

	tokenRequestDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "token_request_duration_seconds",
		Help:    "How long token requests took.",
		Buckets: prometheus.DefBuckets,
	}, []string{"connection"})

	requestsTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "requests_total",
		Help: "Requests of the app, by what became of them.",
	}, []string{"connection", "outcome"})

	unauthorizedTotal = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "unauthorized_total",
		Help: "Answers 401 of the API to a token, by what became of them.",
	}, []string{"connection", "outcome"})

	collectors = []prometheus.Collector{tokenRequestsTotal, tokenRequestDuration, requestsTotal, unauthorizedTotal, tokenExpiry{}}

	// refusedUnnamed counts refused requests whose connection is not known.
	refusedUnnamed = requestsTotal.WithLabelValues("", outcomeRefused)
)

// The values of the label result.
const (
	resultOK            = "ok"
	resultConfiguration = string(classConfiguration)
	resultOutage        = string(classOutage)
)

// The values of the label outcome: of requests_total, then of unauthorized_total.
const (
	outcomeSent    = "sent"
	outcomeKept    = "kept"
	outcomeNoToken = "no_token"
	outcomeRefused = "refused"

	outcomeReplayed = "replayed"
	outcomePassed   = "passed"
)

// registerMetrics makes the metrics part of a config's metrics.
func registerMetrics(registry *prometheus.Registry) error {
	for _, c := range collectors {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// tokenExpiry collects when the tokens of the running config expire.
type tokenExpiry struct{}

var tokenExpiryDesc = prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "token_expiry_timestamp_seconds"),
	"When the token in hand expires, in Unix time. Absent without a live token.", []string{"connection"}, nil)

// Describe implements prometheus.Collector.
func (tokenExpiry) Describe(ch chan<- *prometheus.Desc) { ch <- tokenExpiryDesc }

// Collect implements prometheus.Collector.
func (tokenExpiry) Collect(ch chan<- prometheus.Metric) {
	for _, conn := range activeConnections() {
		if expires := conn.source.status().expires; !expires.IsZero() {
			seconds := float64(expires.UnixMilli()) / 1000
			ch <- prometheus.MustNewConstMetric(tokenExpiryDesc, prometheus.GaugeValue, seconds, conn.name)
		}
	}
}

// connectionMetrics are the series of one connection name, for all configs that have it. All of them
// exist from the start.
type connectionMetrics struct {
	name string

	granted, misconfigured, outages prometheus.Counter
	duration                        prometheus.Observer
	sent, kept, noToken, refused    prometheus.Counter
	replayed, passed                prometheus.Counter
}

// metricsInUse holds the series of the connections of all configs by name, so that those of a
// connection that is no more go away with the last config that has it. Caddy loads and unloads one
// config at a time, so series are not made anew while they are being deleted.
var metricsInUse = caddy.NewUsagePool()

func acquireMetrics(name string) *connectionMetrics {
	m, _, _ := metricsInUse.LoadOrNew(name, func() (caddy.Destructor, error) { // never fails
		return newConnectionMetrics(name), nil
	})
	return m.(*connectionMetrics)
}

func newConnectionMetrics(name string) *connectionMetrics {
	return &connectionMetrics{
		name:          name,
		granted:       tokenRequestsTotal.WithLabelValues(name, resultOK),
		misconfigured: tokenRequestsTotal.WithLabelValues(name, resultConfiguration),
		outages:       tokenRequestsTotal.WithLabelValues(name, resultOutage),
		duration:      tokenRequestDuration.WithLabelValues(name),
		sent:          requestsTotal.WithLabelValues(name, outcomeSent),
		kept:          requestsTotal.WithLabelValues(name, outcomeKept),
		noToken:       requestsTotal.WithLabelValues(name, outcomeNoToken),
		refused:       requestsTotal.WithLabelValues(name, outcomeRefused),
		replayed:      unauthorizedTotal.WithLabelValues(name, outcomeReplayed),
		passed:        unauthorizedTotal.WithLabelValues(name, outcomePassed),
	}
}

// release ends one config's use of the series.
func (m *connectionMetrics) release() { _, _ = metricsInUse.Delete(m.name) }

// Destruct implements caddy.Destructor. It deletes the series one by one, because DeletePartialMatch
// looks at those of all connections.
func (m *connectionMetrics) Destruct() error {
	for _, result := range []string{resultOK, resultConfiguration, resultOutage} {
		tokenRequestsTotal.DeleteLabelValues(m.name, result)
	}
	tokenRequestDuration.DeleteLabelValues(m.name)
	for _, outcome := range []string{outcomeSent, outcomeKept, outcomeNoToken, outcomeRefused} {
		requestsTotal.DeleteLabelValues(m.name, outcome)
	}
	for _, outcome := range []string{outcomeReplayed, outcomePassed} {
		unauthorizedTotal.DeleteLabelValues(m.name, outcome)
	}
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

// count counts a request of a connection, or of none that is known: refused, or with the grant that
// it was sent with.
func (c *activeConnection) count(g *grant, refused *refusal) {
	switch {
	case c == nil:
		refusedUnnamed.Inc()
	case refused == nil && g.keep:
		c.metrics.kept.Inc()
	case refused == nil:
		c.metrics.sent.Inc()
	case refused.tokenless:
		c.metrics.noToken.Inc()
	default:
		c.metrics.refused.Inc()
	}
}

// count counts the grant's request, once. When reverse_proxy tries again, its first attempt counts.
func (g *grant) count(refused *refusal) {
	if !g.counted {
		g.counted = true
		g.conn.count(g, refused)
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
