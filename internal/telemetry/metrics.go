// Package telemetry tells operators what happens to tokens and requests: metrics, events for Caddy's
// events app, and trace spans. It decides nothing; its callers say what became of a request.
package telemetry

import (
	"errors"
	"iter"
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

// The metrics of each connection. Their values are in its Connection, so they survive reloads, and are collected from
// there: a series of client_golang would take more memory than everything else of a connection.
var (
	tokenRequestsTotal = newDesc("token_requests_total", "Token requests, by result.", "result")

	tokenRequestDuration = newDesc("token_request_duration_seconds", "How long token requests took.", "")

	requestsTotal = newDesc("requests_total", "Requests of the app, by what became of them.", "outcome")

	responsesTotal = newDesc("responses_total", "What the app got of the API, once per request, by the class of the status; error: no response.", "code")

	responseDuration = newDesc("response_duration_seconds", "How long the API took, from sending the last attempt of a request to the header of its response.", "")

	unauthorizedTotal = newDesc("unauthorized_total", "Responses of the API that reject a token, by what became of them.", "outcome")

	rateLimitedTotal = newDesc("rate_limited_total", "Requests sent again after a response of the API that limits their rate, and such responses that the app got.", "outcome")

	adoptedTotal = newDesc("tokens_adopted_total", "Tokens taken over from other replicas.", "")

	tokenExpiry = newDesc("token_expiry_timestamp_seconds", "When the current token expires, in Unix time. Absent without a live token.", "")
)

// newDesc describes a metric with the label connection, and a second label unless that is "".
func newDesc(name, help, label string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, name), help, labels("connection", label), nil)
}

// labels returns the name or value of the label connection, and of a second label unless that is "".
func labels(connection, second string) []string {
	if second == "" {
		return []string{connection}
	}
	return []string{connection, second}
}

// Register registers the metrics with a config's registry. expiries yields the connections of the
// running config that have a usable token, with its expiry; degraded says whether its storage of shared
// tokens fails, and whether there is one.
func Register(registry prometheus.Registerer, expiries func() iter.Seq2[string, time.Time], degraded func() (degraded, shares bool)) error {
	for _, c := range []prometheus.Collector{seriesCollector{}, expiryCollector{expiries}, storageOperations, degradedCollector{degraded}} {
		if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			return err
		}
	}
	return nil
}

// seriesCollector collects the series of all connections, zeros included, so that rates can be computed from the
// start.
type seriesCollector struct{}

// Describe implements prometheus.Collector.
func (seriesCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{tokenRequestsTotal, tokenRequestDuration, requestsTotal, responsesTotal, responseDuration, unauthorizedTotal, rateLimitedTotal, adoptedTotal} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (seriesCollector) Collect(ch chan<- prometheus.Metric) {
	unknown.collectCounter(ch, Refused)
	connections.Range(func(_, value any) bool {
		value.(*Connection).collect(ch)
		return true
	})
}

// expiryCollector collects when tokens expire. That depends on the running config, so it is not kept
// in a gauge.
type expiryCollector struct {
	expiries func() iter.Seq2[string, time.Time]
}

// Describe implements prometheus.Collector.
func (expiryCollector) Describe(ch chan<- *prometheus.Desc) { ch <- tokenExpiry }

// Collect implements prometheus.Collector.
func (c expiryCollector) Collect(ch chan<- prometheus.Metric) {
	for connection, expires := range c.expiries() {
		seconds := float64(expires.UnixMilli()) / 1000
		ch <- prometheus.MustNewConstMetric(tokenExpiry, prometheus.GaugeValue, seconds, connection)
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

// counters are the metric and the label value of each outcome.
var counters = [...]struct {
	desc  *prometheus.Desc
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

// unknown counts refused requests whose connection is not known.
var unknown Connection

// Connection is the series and the last events of one connection name. It is shared by all configs that have a
// connection of that name.
type Connection struct {
	name          string
	counters      [len(counters)]atomic.Uint64 // by outcome
	tokenRequests durations
	responses     durations

	history history
}

// connections counts the configs that use each connection name, so that the series of a connection vanish
// with the last config that has it.
var connections = caddy.NewUsagePool()

// Acquire returns the series of a connection name for one more config, which releases them in the end.
func Acquire(name string) *Connection {
	c, _, _ := connections.LoadOrNew(name, func() (caddy.Destructor, error) { // never fails
		return &Connection{name: name}, nil
	})
	return c.(*Connection)
}

// Release ends one config's use of the series. After the last one they are not collected any more.
func (c *Connection) Release() { _, _ = connections.Delete(c.name) }

// Destruct implements caddy.Destructor.
func (c *Connection) Destruct() error { return nil }

// collect collects the series of the connection.
func (c *Connection) collect(ch chan<- prometheus.Metric) {
	for outcome := range counters {
		c.collectCounter(ch, Outcome(outcome))
	}
	ch <- c.tokenRequests.metric(tokenRequestDuration, c.name)
	ch <- c.responses.metric(responseDuration, c.name)
}

func (c *Connection) collectCounter(ch chan<- prometheus.Metric, o Outcome) {
	ch <- prometheus.MustNewConstMetric(counters[o].desc, prometheus.CounterValue, float64(c.counters[o].Load()), labels(c.name, counters[o].label)...)
}

// Count counts an outcome. If c is nil, it is a refused request whose connection is not known.
func (c *Connection) Count(o Outcome) {
	if c == nil {
		c = &unknown
	}
	c.counters[o].Add(1)
}

// CountResponse counts the response of the API that the app got, and how long the API took for it.
func (c *Connection) CountResponse(status int, took time.Duration) {
	if c == nil {
		return
	}
	class := min(max(status/100, 1), 5) //nolint:mnd // 1xx to 5xx
	c.Count(switched + Outcome(class-1))
	c.responses.observe(took)
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
	c.tokenRequests.observe(event.Duration)
	switch {
	case event.Err == nil:
		c.Count(granted)
	case event.Err.Class == oauth.ClassConfiguration:
		c.Count(misconfigured)
	default:
		c.Count(outage)
	}
}
