package integration

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	metrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	traces "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	data "go.opentelemetry.io/proto/otlp/metrics/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// collector is an OpenTelemetry collector that keeps the newest metrics and all spans.
type collector struct {
	metrics.UnimplementedMetricsServiceServer

	mu      sync.Mutex
	metrics map[string]*data.Metric
	spans   []*trace.Span
	service string // that sends
}

// Export implements metrics.MetricsServiceServer.
func (c *collector) Export(_ context.Context, request *metrics.ExportMetricsServiceRequest) (*metrics.ExportMetricsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.metrics = make(map[string]*data.Metric)
	for _, resource := range request.GetResourceMetrics() {
		c.service = attribute(resource.GetResource().GetAttributes(), "service.name")
		for _, scope := range resource.GetScopeMetrics() {
			for _, metric := range scope.GetMetrics() {
				c.metrics[metric.GetName()] = metric
			}
		}
	}
	return new(metrics.ExportMetricsServiceResponse), nil
}

// spanCollector is a collector's service for spans.
type spanCollector struct {
	traces.UnimplementedTraceServiceServer

	*collector
}

// Export implements traces.TraceServiceServer.
func (c spanCollector) Export(_ context.Context, request *traces.ExportTraceServiceRequest) (*traces.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			c.spans = append(c.spans, scope.GetSpans()...)
		}
	}
	return new(traces.ExportTraceServiceResponse), nil
}

// attribute returns the text of an attribute, or "" if there is none.
func attribute(attributes []*common.KeyValue, key string) string {
	i := slices.IndexFunc(attributes, func(kv *common.KeyValue) bool { return kv.GetKey() == key })
	if i < 0 {
		return ""
	}
	return attributes[i].GetValue().GetStringValue()
}

// serveHTTP starts the collector for the protocol http/protobuf, and returns its endpoint.
func (c *collector) serveHTTP(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/metrics", receive(c.Export))
	mux.HandleFunc("POST /v1/traces", receive(spanCollector{collector: c}.Export))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// receive returns a handler of requests that are encoded as protocol buffers.
func receive[Request any, Response proto.Message, Pointer interface {
	*Request
	proto.Message
}](export func(context.Context, Pointer) (Response, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		request := Pointer(new(Request))
		body, err := io.ReadAll(r.Body)
		if err != nil || proto.Unmarshal(body, request) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		response, _ := export(r.Context(), request)
		encoded, _ := proto.Marshal(response)
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(encoded)
	}
}

// serveGRPC starts the collector for the protocol grpc, and returns its endpoint.
func (c *collector) serveGRPC(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	metrics.RegisterMetricsServiceServer(server, c)
	traces.RegisterTraceServiceServer(server, spanCollector{collector: c})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return "http://" + listener.Addr().String()
}

// counted returns the value of a counter or the number of observations of a histogram, of the connection billing with an
// attribute.
func (c *collector) counted(name, key, value string) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	metric := c.metrics[name]
	for _, point := range metric.GetSum().GetDataPoints() {
		if attribute(point.GetAttributes(), "connection") == "billing" && attribute(point.GetAttributes(), key) == value {
			return point.GetAsDouble()
		}
	}
	for _, point := range metric.GetHistogram().GetDataPoints() {
		if attribute(point.GetAttributes(), "connection") == "billing" {
			return float64(point.GetCount())
		}
	}
	return -1
}

// span returns a span by its name, or nil.
func (c *collector) span(name string) *trace.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.IndexFunc(c.spans, func(s *trace.Span) bool { return s.GetName() == name }); i >= 0 {
		return c.spans[i]
	}
	return nil
}

// TestOTLP has a collector receive the sidecar's metrics and spans, by both protocols, as docs/observability.md says.
func TestOTLP(t *testing.T) {
	t.Parallel()
	for protocol, serve := range map[string]func(*collector, *testing.T) string{"http/protobuf": (*collector).serveHTTP, "grpc": (*collector).serveGRPC} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			c := new(collector)
			w := newWorld(t, nil)
			config := w.inline(options{directive: "name billing"})
			config.Options += "\nmetrics {\n\totlp\n}\n"
			config.Site = "tracing {\n\tspan billing\n}\n" + config.Site
			config.Env = append(config.Env,
				"OTEL_EXPORTER_OTLP_ENDPOINT="+serve(c, t), "OTEL_EXPORTER_OTLP_PROTOCOL="+protocol, "OTEL_SERVICE_NAME=billing-sidecar",
				"OTEL_METRIC_EXPORT_INTERVAL=200", "OTEL_BSP_SCHEDULE_DELAY=200")
			w.Run(t, config)
			w.wantOK(t)
			if w.api.Last(t).Header.Get("Traceparent") == "" {
				t.Error("the API sees nothing of the trace")
			}
			eventually(t, "the collector gets the metrics", func() bool {
				return c.counted("caddy_http_helper_requests_total", "outcome", "sent") == 1 &&
					c.counted("caddy_http_helper_responses_total", "code", "2xx") == 1 &&
					c.counted("caddy_http_helper_responses_total", "code", "error") == 0 &&
					c.counted("caddy_http_helper_response_duration_seconds", "", "") == 1
			})
			eventually(t, "the collector gets the spans", func() bool { return c.span("billing") != nil && c.span("http_helper token") != nil })
			token, request := c.span("http_helper token"), c.span("billing")
			equal(t, "trace", string(token.GetTraceId()), string(request.GetTraceId()))
			equal(t, "connection", attribute(token.GetAttributes(), "http_helper.connection"), "billing")
			c.mu.Lock()
			defer c.mu.Unlock()
			equal(t, "service", c.service, "billing-sidecar")
		})
	}
}
