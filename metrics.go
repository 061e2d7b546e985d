package httphelper

import (
	"errors"
	"iter"
	"time"

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
		Help: "Responses 401 of the API to a token, by what became of them.",
	}, []string{"connection", "outcome"})

	// refusedUnnamed counts refused requests whose connection is not known.
	refusedUnnamed = requestsTotal.WithLabelValues("", string(outcomeRefused))
)

// The values of the label result.
const (
	resultOK            = "ok"
	resultConfiguration = string(classConfiguration)
	resultOutage        = string(classOutage)
)

// The values of the label outcome: of requests_total, then of unauthorized_total.
const (
	outcomeSent    outcome = "sent"
	outcomeKept    outcome = "kept"
	outcomeNoToken outcome = "no_token"
	outcomeRefused outcome = "refused"

	unauthorizedReplayed unauthorizedOutcome = "replayed"
	unauthorizedPassed   unauthorizedOutcome = "passed"
)

// outcome says what became of a request.
type outcome string

// unauthorizedOutcome says what became of a 401 to a token.
type unauthorizedOutcome string

// registerMetrics makes the metrics part of a config's metrics. expiries yields the connections of the
// running config with the expiry of their live tokens.
func registerMetrics(registry prometheus.Registerer, expiries func() iter.Seq2[string, time.Time]) error {
	for _, c := range []prometheus.Collector{tokenRequestsTotal, tokenRequestDuration, requestsTotal, unauthorizedTotal, tokenExpiry{expiries}} {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// tokenExpiry collects when the tokens of the running config expire.
type tokenExpiry struct {
	expiries func() iter.Seq2[string, time.Time]
}

var tokenExpiryDesc = prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "token_expiry_timestamp_seconds"),
	"When the token in hand expires, in Unix time. Absent without a live token.", []string{"connection"}, nil)

// Describe implements prometheus.Collector.
func (tokenExpiry) Describe(ch chan<- *prometheus.Desc) { ch <- tokenExpiryDesc }

// Collect implements prometheus.Collector.
func (t tokenExpiry) Collect(ch chan<- prometheus.Metric) {
	for connection, expires := range t.expiries() {
		seconds := float64(expires.UnixMilli()) / 1000
		ch <- prometheus.MustNewConstMetric(tokenExpiryDesc, prometheus.GaugeValue, seconds, connection)
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
		sent:          requestsTotal.WithLabelValues(name, string(outcomeSent)),
		kept:          requestsTotal.WithLabelValues(name, string(outcomeKept)),
		noToken:       requestsTotal.WithLabelValues(name, string(outcomeNoToken)),
		refused:       requestsTotal.WithLabelValues(name, string(outcomeRefused)),
		replayed:      unauthorizedTotal.WithLabelValues(name, string(unauthorizedReplayed)),
		passed:        unauthorizedTotal.WithLabelValues(name, string(unauthorizedPassed)),
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
	for _, o := range []outcome{outcomeSent, outcomeKept, outcomeNoToken, outcomeRefused} {
		requestsTotal.DeleteLabelValues(m.name, string(o))
	}
	for _, o := range []unauthorizedOutcome{unauthorizedReplayed, unauthorizedPassed} {
		unauthorizedTotal.DeleteLabelValues(m.name, string(o))
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

// count counts a request, of none that is known if m is nil.
func (m *connectionMetrics) count(o outcome) {
	switch {
	case m == nil:
		refusedUnnamed.Inc()
	case o == outcomeSent:
		m.sent.Inc()
	case o == outcomeKept:
		m.kept.Inc()
	case o == outcomeNoToken:
		m.noToken.Inc()
	default:
		m.refused.Inc()
	}
}

// unauthorized counts a 401 of the API to a token.
func (m *connectionMetrics) unauthorized(u unauthorizedOutcome) {
	if u == unauthorizedReplayed {
		m.replayed.Inc()
	} else {
		m.passed.Inc()
	}
}
