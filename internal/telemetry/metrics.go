// Package telemetry tells operators what happens to tokens and requests: metrics, events for Caddy's
// events app, and trace spans. It decides nothing; its callers say what became of a request.
package telemetry

import (
	"errors"
	"iter"
	"sync"
	"sync/atomic"
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

	tokenRequestDuration = newHistograms("token_request_duration_seconds", "How long token requests took.")

	requestsTotal = newCounters("requests_total", "Requests of the app, by what became of them.", "outcome")

	responsesTotal = newCounters("responses_total", "What the app got of the API, once per request, by the class of the status; error: no response.", "code")

	responseDuration = newHistograms("response_duration_seconds", "How long the API took, from sending the last attempt of a request to the header of its response.")

	unauthorizedTotal = newCounters("unauthorized_total", "Responses of the API that reject a token, by what became of them.", "outcome")

	rateLimitedTotal = newCounters("rate_limited_total", "Requests sent again after a response of the API that limits their rate, and such responses that the app got.", "outcome")

	adoptedTotal = newCounters("tokens_adopted_total", "Tokens taken over from other replicas.", "")

	tokenExpiryDesc = prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, "token_expiry_timestamp_seconds"),
		"When the token in hand expires, in Unix time. Absent without a live token.", []string{"connection"}, nil)
)

// vectors are the metrics that are counted.
var vectors = []prometheus.Collector{tokenRequestsTotal, tokenRequestDuration, requestsTotal, responsesTotal, responseDuration, unauthorizedTotal, rateLimitedTotal, adoptedTotal, storageOperations}

// counterVector is a vector of counters with the description of its metrics.
type counterVector struct {
	*prometheus.CounterVec
	desc *prometheus.Desc
}

// newCounters returns counters with the label connection, and a second label unless that is "".
func newCounters(name, help, label string) counterVector {
	vector := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
	}, labels("connection", label))
	return counterVector{vector, descOf(vector)}
}

// histogramVector is a vector of histograms of durations with the description of its metrics.
type histogramVector struct {
	*prometheus.HistogramVec
	desc *prometheus.Desc
}

// newHistograms returns histograms of durations with the label connection.
func newHistograms(name, help string) histogramVector {
	vector := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help, Buckets: prometheus.DefBuckets,
	}, labels("connection", ""))
	return histogramVector{vector, descOf(vector)}
}

// labels returns the name or value of the label connection, and of a second label unless that is "".
func labels(connection, second string) []string {
	if second == "" {
		return []string{connection}
	}
	return []string{connection, second}
}

// descOf returns the description of a vector's metrics.
func descOf(vector prometheus.Collector) *prometheus.Desc {
	ch := make(chan *prometheus.Desc, 1)
	vector.Describe(ch)
	return <-ch
}

// Register registers the metrics with a config's registry. expiries yields the connections of the
// running config that have a usable token, with its expiry; degraded says whether its storage of shared
// tokens fails, and whether there is one.
func Register(registry prometheus.Registerer, expiries func() iter.Seq2[string, time.Time], degraded func() (degraded, shares bool)) error {
	for _, c := range []prometheus.Collector{seriesCollector{}, expiryCollector{expiries}, degradedCollector{degraded}} {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// seriesCollector collects the series of all connections. Those that have not been counted yet are
// collected as zero, so that rates can be computed from the start.
type seriesCollector struct{}

// Describe implements prometheus.Collector.
func (seriesCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, vector := range vectors {
		vector.Describe(ch)
	}
}

// Collect implements prometheus.Collector. The zeros come last: a series that is created meanwhile is
// missing once, instead of being collected twice, which would be an error.
func (seriesCollector) Collect(ch chan<- prometheus.Metric) {
	for _, vector := range vectors {
		vector.Collect(ch)
	}
	connections.Range(func(_, value any) bool {
		for _, zero := range value.(*Connection).zeros() {
			ch <- zero
		}
		return true
	})
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

// Outcome is what became of a request, what the app got of the API, or what became of a response that rejects
// a token or limits the rate, or of a token request.
type Outcome int

// The outcomes.
const (
	Refused Outcome = iota // a request was not sent, and not for lack of a token
	NoToken                // a request was not sent, because there was no token
	Sent                   // a request was sent with a token
	Kept                   // a request was sent with an Authorization of its own

	Replayed // a request was sent again with another token after a response that rejects the first
	Passed   // a response that rejects the token was passed to the app

	Repeated // a request was sent again after a response that limits the rate
	Limited  // a response that limits the rate was passed to the app

	adopted // a token was taken over from another replica

	noResponse // the app got none of the API
	switched   // the app got a response 101; the other classes follow
	responded2xx
	responded3xx
	responded4xx
	responded5xx

	granted
	misconfigured
	outage
)

// counters are the counter and the label value of each outcome.
var counters = [...]struct {
	of    counterVector
	label string
}{
	Refused:       {requestsTotal, "refused"},
	NoToken:       {requestsTotal, "no_token"},
	Sent:          {requestsTotal, "sent"},
	Kept:          {requestsTotal, "kept"},
	Replayed:      {unauthorizedTotal, "replayed"},
	Passed:        {unauthorizedTotal, "passed"},
	Repeated:      {rateLimitedTotal, "replayed"},
	Limited:       {rateLimitedTotal, "passed"},
	adopted:       {adoptedTotal, ""},
	noResponse:    {responsesTotal, "error"},
	switched:      {responsesTotal, "1xx"},
	responded2xx:  {responsesTotal, "2xx"},
	responded3xx:  {responsesTotal, "3xx"},
	responded4xx:  {responsesTotal, "4xx"},
	responded5xx:  {responsesTotal, "5xx"},
	granted:       {tokenRequestsTotal, "ok"},
	misconfigured: {tokenRequestsTotal, string(oauth.ClassConfiguration)},
	outage:        {tokenRequestsTotal, string(oauth.ClassOutage)},
}

// String returns the outcome as it is in the metrics.
func (o Outcome) String() string { return counters[o].label }

// durations are the histograms of each connection.
var durations = [...]histogramVector{tokenRequests: tokenRequestDuration, responses: responseDuration}

// The indices of durations.
const (
	tokenRequests = iota
	responses
)

// refusedUnknown counts refused requests whose connection is not known.
var refusedUnknown = requestsTotal.WithLabelValues("", counters[Refused].label)

// Connection is the series and the last events of one connection name. It is shared by all configs that have a connection
// of that name. A series is created when it is first counted, because those that never are would cost
// more memory than everything else of a connection; withZeros collects them nevertheless.
type Connection struct {
	name      string
	counters  [len(counters)]atomic.Pointer[prometheus.Counter] // by outcome; nil: not counted yet
	durations [len(durations)]atomic.Pointer[prometheus.Observer]

	history history

	mu      sync.Mutex // held while a series is created or deleted
	deleted bool
}

// connections counts the configs that use each connection name, so that the series of a connection are
// deleted with the last config that has it.
var connections = caddy.NewUsagePool()

// Acquire returns the series of a connection name for one more config, which releases them in the end.
func Acquire(name string) *Connection {
	c, _, _ := connections.LoadOrNew(name, func() (caddy.Destructor, error) { // never fails
		return &Connection{name: name}, nil
	})
	return c.(*Connection)
}

// Release ends one config's use of the series. The last one deletes them.
func (c *Connection) Release() { _, _ = connections.Delete(c.name) }

// Destruct implements caddy.Destructor. It deletes the series one by one, because DeletePartialMatch
// searches those of all connections.
func (c *Connection) Destruct() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deleted = true
	for _, duration := range durations {
		duration.DeleteLabelValues(c.name)
	}
	for _, counter := range counters {
		counter.of.DeleteLabelValues(labels(c.name, counter.label)...)
	}
	return nil
}

// zeros returns the series that have not been counted yet. None is being created meanwhile.
func (c *Connection) zeros() []prometheus.Metric {
	c.mu.Lock()
	defer c.mu.Unlock()
	var zeros []prometheus.Metric
	for outcome, counter := range counters {
		if c.counters[outcome].Load() == nil {
			zeros = append(zeros, prometheus.MustNewConstMetric(counter.of.desc, prometheus.CounterValue, 0, labels(c.name, counter.label)...))
		}
	}
	for i, duration := range durations {
		if c.durations[i].Load() == nil {
			zeros = append(zeros, prometheus.MustNewConstHistogram(duration.desc, 0, 0, noDurations, c.name))
		}
	}
	return zeros
}

// noDurations are the buckets of a histogram without observations.
var noDurations = func() map[float64]uint64 {
	buckets := make(map[float64]uint64)
	for _, bound := range prometheus.DefBuckets {
		buckets[bound] = 0
	}
	return buckets
}()

// Count counts an outcome. If c is nil, it is a refused request whose connection is not known.
func (c *Connection) Count(o Outcome) {
	if c == nil {
		refusedUnknown.Inc()
		return
	}
	if series := find(c, &c.counters[o], func() prometheus.Counter {
		return counters[o].of.WithLabelValues(labels(c.name, counters[o].label)...)
	}); series != nil {
		(*series).Inc()
	}
}

// find returns a series, which it creates if it is not there yet. It returns nil if the series of the
// connection have been deleted: a request may end after its config.
func find[T any](c *Connection, at *atomic.Pointer[T], create func() T) *T {
	if series := at.Load(); series != nil {
		return series
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deleted {
		return nil
	}
	series := create()
	at.Store(&series)
	return &series
}

// CountResponse counts the response of the API that the app got, and how long the API took for it.
func (c *Connection) CountResponse(status int, took time.Duration) {
	if c == nil {
		return
	}
	class := min(max(status/100, 1), 5) //nolint:mnd // 1xx to 5xx
	c.Count(switched + Outcome(class-1))
	c.observe(responses, took)
}

// CountRefusal counts a refused request, which got an error with this status. If c is nil, its connection is not
// known.
func (c *Connection) CountRefusal(status int) {
	c.Count(Refused)
	if c != nil {
		c.history.refuse(status)
	}
}

// CountNoResponse counts a request that was sent and got no response of the API.
func (c *Connection) CountNoResponse() {
	if c != nil {
		c.Count(noResponse)
	}
}

// observe counts a duration.
func (c *Connection) observe(which int, took time.Duration) {
	if series := find(c, &c.durations[which], func() prometheus.Observer { return durations[which].WithLabelValues(c.name) }); series != nil {
		(*series).Observe(took.Seconds())
	}
}

// Observe counts a token request, or a token that was adopted, and remembers it. Rejections are only remembered: they are counted as
// responses 401. An adopted token is no token request.
func (c *Connection) Observe(event token.Event) {
	c.history.add(pastOf(event))
	switch {
	case event.Rejected:
		return
	case event.Adopted:
		c.Count(adopted)
		return
	}
	c.observe(tokenRequests, event.Duration)
	switch {
	case event.Err == nil:
		c.Count(granted)
	case event.Err.Class == oauth.ClassConfiguration:
		c.Count(misconfigured)
	default:
		c.Count(outage)
	}
}
