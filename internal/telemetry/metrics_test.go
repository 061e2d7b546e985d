package telemetry

import (
	"fmt"
	"iter"
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// noExpiries is a config without tokens.
func noExpiries() iter.Seq2[string, time.Time] { return func(func(string, time.Time) bool) {} }

// noStorage is a config that does not share tokens.
func noStorage() (degraded, shares bool) { return false, false }

// newRegistry returns a registry as each config has one.
func newRegistry(t *testing.T, expiries func() iter.Seq2[string, time.Time]) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := Register(registry, expiries, noStorage); err != nil {
		t.Fatal(err)
	}
	return registry
}

// seriesOf returns the series of a connection in a registry, with their values; a histogram's value is
// its count.
func seriesOf(t *testing.T, registry *prometheus.Registry, connection string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := make(map[string]float64)
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name, of := family.GetName(), ""
			for _, label := range metric.GetLabel() {
				if label.GetName() == "connection" {
					of = label.GetValue()
				} else {
					name += fmt.Sprintf("{%s=%q}", label.GetName(), label.GetValue())
				}
			}
			if of == connection {
				series[name] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return series
}

func TestSeriesExistFromTheStart(t *testing.T) {
	c := Acquire(t.Name())
	defer c.Release()
	series := seriesOf(t, newRegistry(t, noExpiries), t.Name())
	for _, name := range []string{
		`caddy_http_helper_token_requests_total{result="ok"}`,
		`caddy_http_helper_token_requests_total{result="configuration"}`,
		`caddy_http_helper_token_requests_total{result="outage"}`,
		`caddy_http_helper_token_request_duration_seconds`,
		`caddy_http_helper_requests_total{outcome="sent"}`,
		`caddy_http_helper_requests_total{outcome="kept"}`,
		`caddy_http_helper_requests_total{outcome="no_token"}`,
		`caddy_http_helper_requests_total{outcome="refused"}`,
		`caddy_http_helper_unauthorized_total{outcome="replayed"}`,
		`caddy_http_helper_unauthorized_total{outcome="passed"}`,
		`caddy_http_helper_rate_limited_total{outcome="replayed"}`,
		`caddy_http_helper_rate_limited_total{outcome="passed"}`,
		`caddy_http_helper_tokens_adopted_total`,
		`caddy_http_helper_responses_total{code="1xx"}`,
		`caddy_http_helper_responses_total{code="2xx"}`,
		`caddy_http_helper_responses_total{code="3xx"}`,
		`caddy_http_helper_responses_total{code="4xx"}`,
		`caddy_http_helper_responses_total{code="5xx"}`,
		`caddy_http_helper_responses_total{code="error"}`,
		`caddy_http_helper_response_duration_seconds`,
	} {
		if value, ok := series[name]; !ok || value != 0 {
			t.Errorf("%s is %v, %t", name, value, ok)
		}
		delete(series, name)
	}
	if len(series) != 0 {
		t.Errorf("there are also %v", series)
	}
}

func TestEverythingIsCountedOnce(t *testing.T) {
	c := Acquire(t.Name())
	defer c.Release()
	for count, outcome := range []Outcome{Sent, Kept, NoToken, Refused} {
		for range count + 1 {
			c.Count(outcome)
		}
	}
	c.Count(Replayed)
	c.Count(Passed)
	c.Count(Passed)
	c.Count(Limited)
	c.Count(Repeated)
	c.Count(Repeated)
	for status, times := range map[int]int{101: 1, 200: 2, 299: 1, 304: 4, 404: 5, 503: 5, 999: 1} {
		for range times {
			c.CountResponse(status, time.Second)
		}
	}
	c.CountNoResponse()
	for _, event := range []token.Event{
		{},
		{Err: &oauth.Error{Class: oauth.ClassConfiguration}},
		{Err: &oauth.Error{Class: oauth.ClassConfiguration}},
		{Err: &oauth.Error{Class: oauth.ClassOutage}},
		{Rejected: true},
	} {
		c.Observe(event)
	}
	series := seriesOf(t, newRegistry(t, noExpiries), t.Name())
	for name, want := range map[string]float64{
		`caddy_http_helper_requests_total{outcome="sent"}`:               1,
		`caddy_http_helper_requests_total{outcome="kept"}`:               2,
		`caddy_http_helper_requests_total{outcome="no_token"}`:           3,
		`caddy_http_helper_requests_total{outcome="refused"}`:            4,
		`caddy_http_helper_unauthorized_total{outcome="replayed"}`:       1,
		`caddy_http_helper_unauthorized_total{outcome="passed"}`:         2,
		`caddy_http_helper_rate_limited_total{outcome="replayed"}`:       2,
		`caddy_http_helper_rate_limited_total{outcome="passed"}`:         1,
		`caddy_http_helper_token_requests_total{result="ok"}`:            1,
		`caddy_http_helper_token_requests_total{result="configuration"}`: 2,
		`caddy_http_helper_token_requests_total{result="outage"}`:        1,
		`caddy_http_helper_token_request_duration_seconds`:               4,
		`caddy_http_helper_responses_total{code="1xx"}`:                  1,
		`caddy_http_helper_responses_total{code="2xx"}`:                  3,
		`caddy_http_helper_responses_total{code="3xx"}`:                  4,
		`caddy_http_helper_responses_total{code="4xx"}`:                  5,
		`caddy_http_helper_responses_total{code="5xx"}`:                  6,
		`caddy_http_helper_responses_total{code="error"}`:                1,
		`caddy_http_helper_response_duration_seconds`:                    19,
	} {
		if series[name] != want {
			t.Errorf("%s is %v, want %v", name, series[name], want)
		}
	}
}

func TestUnknownConnectionIsCountedWithoutAName(t *testing.T) {
	const refused = `caddy_http_helper_requests_total{outcome="refused"}`
	registry := newRegistry(t, noExpiries)
	before := seriesOf(t, registry, "")[refused]
	(*Connection)(nil).Count(Refused)
	if got := seriesOf(t, registry, "")[refused]; got != before+1 {
		t.Errorf("got %v, want %v", got, before+1)
	}
}

func TestSeriesVanishWithTheLastUser(t *testing.T) {
	registry := newRegistry(t, noExpiries)
	first, second := Acquire(t.Name()), Acquire(t.Name())
	first.Count(Sent)
	first.Release()
	if series := seriesOf(t, registry, t.Name()); series[`caddy_http_helper_requests_total{outcome="sent"}`] != 1 {
		t.Errorf("with a user left there are %v", series)
	}
	second.Release()
	if series := seriesOf(t, registry, t.Name()); len(series) != 0 {
		t.Errorf("without a user there are %v", series)
	}
}

func TestRequestThatEndsAfterItsConfigCreatesNoSeries(t *testing.T) {
	registry := newRegistry(t, noExpiries)
	c := Acquire(t.Name())
	c.Release()
	c.Count(Sent)
	c.Observe(token.Event{})
	if series := seriesOf(t, registry, t.Name()); len(series) != 0 {
		t.Errorf("there are %v", series)
	}
}

// TestAdoptedTokenIsNoTokenRequest: it has a counter of its own.
func TestAdoptedTokenIsNoTokenRequest(t *testing.T) {
	registry := newRegistry(t, noExpiries)
	c := Acquire(t.Name())
	defer c.Release()
	want := seriesOf(t, registry, t.Name())
	want["caddy_http_helper_tokens_adopted_total"]++
	c.Observe(token.Event{Adopted: true, Expires: time.Now()})
	if got := seriesOf(t, registry, t.Name()); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestSeriesAreCollectedOnce while they are created. Gather reports duplicates.
func TestSeriesAreCollectedOnce(t *testing.T) {
	registry := newRegistry(t, noExpiries)
	for i := range 100 {
		c := Acquire(fmt.Sprintf("%s%d", t.Name(), i))
		counted := make(chan struct{})
		go func() {
			defer close(counted)
			for outcome := range counters {
				c.Count(Outcome(outcome))
			}
			c.Observe(token.Event{})
		}()
		if _, err := registry.Gather(); err != nil {
			t.Error(err)
		}
		<-counted
		c.Release()
	}
}

// TestValuesSurviveAReload, which has a registry of its own.
func TestValuesSurviveAReload(t *testing.T) {
	before := newRegistry(t, noExpiries)
	first := Acquire(t.Name())
	first.Count(Sent)
	after := newRegistry(t, noExpiries)
	second := Acquire(t.Name())
	defer second.Release()
	first.Release()
	second.Count(Sent)
	for name, registry := range map[string]*prometheus.Registry{"old": before, "new": after} {
		if got := seriesOf(t, registry, t.Name())[`caddy_http_helper_requests_total{outcome="sent"}`]; got != 2 {
			t.Errorf("in the %s registry there are %v requests, want 2", name, got)
		}
	}
}

func TestRegisteringTwice(t *testing.T) {
	if err := Register(newRegistry(t, noExpiries), noExpiries, noStorage); err != nil {
		t.Error(err)
	}
}

func TestExpiryIsThatOfTheRunningConfig(t *testing.T) {
	names := []string{"a"}
	registry := newRegistry(t, func() iter.Seq2[string, time.Time] {
		return func(yield func(string, time.Time) bool) {
			for _, name := range names {
				if !yield(name, time.UnixMilli(1500)) {
					return
				}
			}
		}
	})
	const expiry = "caddy_http_helper_token_expiry_timestamp_seconds"
	if got := seriesOf(t, registry, "a")[expiry]; got != 1.5 {
		t.Errorf("got %v, want 1.5", got)
	}
	names = nil
	if _, ok := seriesOf(t, registry, "a")[expiry]; ok {
		t.Error("the expiry of a token that is gone is still there")
	}
}
