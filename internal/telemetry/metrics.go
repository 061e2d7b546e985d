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
	refusedUnnamed = requestsTotal.WithLabelValues("", string(Refused))
)

// The values of the label result.
const (
	resultOK            = "ok"
	resultConfiguration = string(oauth.ClassConfiguration)
	resultOutage        = string(oauth.ClassOutage)
)

// The values of the label outcome: of requests_total, then of unauthorized_total.
const (
	Sent    Outcome = "sent"
	Kept    Outcome = "kept"
	NoToken Outcome = "no_token"
	Refused Outcome = "refused"

	Replayed UnauthorizedOutcome = "replayed"
	Passed   UnauthorizedOutcome = "passed"
)

// Outcome says what became of a request.
type Outcome string

// UnauthorizedOutcome says what became of a 401 to a token.
type UnauthorizedOutcome string

// Register makes the metrics part of a config's metrics. expiries yields the connections of the
// running config with the expiry of their live tokens.
func Register(registry prometheus.Registerer, expiries func() iter.Seq2[string, time.Time]) error {
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

// Connection are the series of one connection name, for all configs that have it. All of them
// exist from the start.
type Connection struct {
	name string

	granted, misconfigured, outages prometheus.Counter
	duration                        prometheus.Observer
	sent, kept, noToken, refused    prometheus.Counter
	replayed, passed                prometheus.Counter
}

// InUse holds the series of the connections of all configs by name, so that those of a
// connection that is no more go away with the last config that has it. Caddy loads and unloads one
// config at a time, so series are not made anew while they are being deleted.
var InUse = caddy.NewUsagePool()

func Acquire(name string) *Connection {
	m, _, _ := InUse.LoadOrNew(name, func() (caddy.Destructor, error) { // never fails
		return newConnection(name), nil
	})
	return m.(*Connection)
}

func newConnection(name string) *Connection {
	return &Connection{
		name:          name,
		granted:       tokenRequestsTotal.WithLabelValues(name, resultOK),
		misconfigured: tokenRequestsTotal.WithLabelValues(name, resultConfiguration),
		outages:       tokenRequestsTotal.WithLabelValues(name, resultOutage),
		duration:      tokenRequestDuration.WithLabelValues(name),
		sent:          requestsTotal.WithLabelValues(name, string(Sent)),
		kept:          requestsTotal.WithLabelValues(name, string(Kept)),
		noToken:       requestsTotal.WithLabelValues(name, string(NoToken)),
		refused:       requestsTotal.WithLabelValues(name, string(Refused)),
		replayed:      unauthorizedTotal.WithLabelValues(name, string(Replayed)),
		passed:        unauthorizedTotal.WithLabelValues(name, string(Passed)),
	}
}

// Release ends one config's use of the series.
func (m *Connection) Release() { _, _ = InUse.Delete(m.name) }

// Destruct implements caddy.Destructor. It deletes the series one by one, because DeletePartialMatch
// looks at those of all connections.
func (m *Connection) Destruct() error {
	for _, result := range []string{resultOK, resultConfiguration, resultOutage} {
		tokenRequestsTotal.DeleteLabelValues(m.name, result)
	}
	tokenRequestDuration.DeleteLabelValues(m.name)
	for _, o := range []Outcome{Sent, Kept, NoToken, Refused} {
		requestsTotal.DeleteLabelValues(m.name, string(o))
	}
	for _, o := range []UnauthorizedOutcome{Replayed, Passed} {
		unauthorizedTotal.DeleteLabelValues(m.name, string(o))
	}
	return nil
}

// Observe counts a token request.
func (m *Connection) Observe(event token.Event) {
	if event.Rejected {
		return
	}
	m.duration.Observe(event.Duration.Seconds())
	switch {
	case event.Err == nil:
		m.granted.Inc()
	case event.Err.Class == oauth.ClassConfiguration:
		m.misconfigured.Inc()
	default:
		m.outages.Inc()
	}
}

// Count counts a request, of none that is known if m is nil.
func (m *Connection) Count(o Outcome) {
	switch {
	case m == nil:
		refusedUnnamed.Inc()
	case o == Sent:
		m.sent.Inc()
	case o == Kept:
		m.kept.Inc()
	case o == NoToken:
		m.noToken.Inc()
	default:
		m.refused.Inc()
	}
}

// CountUnauthorized counts a 401 of the API to a token.
func (m *Connection) CountUnauthorized(u UnauthorizedOutcome) {
	if u == Replayed {
		m.replayed.Inc()
	} else {
		m.passed.Inc()
	}
}
