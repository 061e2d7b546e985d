package adminapi

import (
	"bytes"
	"context"
	"net/http"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metricsPath is where Caddy's admin endpoint shows its metrics.
const metricsPath = "/metrics"

// RequestCounts are the requests of apps that a connection has had since the process started.
type RequestCounts struct {
	Requests uint64
	Refused  uint64 // not allowed
	NoToken  uint64 // not sent, because there was no token
	Failed   uint64 // responses with 5xx, and none
}

// Errors is the number of requests that were not a success, whosever fault that is.
func (c RequestCounts) Errors() uint64 { return c.Refused + c.NoToken + c.Failed }

// RequestCounts returns the counts by connection. They are those of the metrics.
func (c *Client) RequestCounts(ctx context.Context) (map[string]RequestCounts, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	status, body, err := c.send(ctx, http.MethodGet, metricsPath)
	if err != nil || status != http.StatusOK {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	counts := make(map[string]RequestCounts)
	for _, metric := range families["caddy_http_helper_requests_total"].GetMetric() {
		one := counts[label(metric, "connection")]
		n := uint64(metric.GetCounter().GetValue())
		one.Requests += n
		switch label(metric, "outcome") {
		case "refused":
			one.Refused += n
		case "no_token":
			one.NoToken += n
		}
		counts[label(metric, "connection")] = one
	}
	for _, metric := range families["caddy_http_helper_responses_total"].GetMetric() {
		if code := label(metric, "code"); code == "5xx" || code == "error" {
			one := counts[label(metric, "connection")]
			one.Failed += uint64(metric.GetCounter().GetValue())
			counts[label(metric, "connection")] = one
		}
	}
	return counts, nil
}

func label(metric *dto.Metric, name string) string {
	for _, pair := range metric.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}
