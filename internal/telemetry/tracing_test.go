package telemetry

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// recordingProvider has one tracer.
type recordingProvider struct {
	noop.TracerProvider
	recorder *recorder
}

func (p recordingProvider) Tracer(string, ...trace.TracerOption) trace.Tracer { return p.recorder }

// recorder is a tracer that notes how long its spans take.
type recorder struct {
	noop.Tracer
	took []time.Duration
}

func (r *recorder) Start(ctx context.Context, _ string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	start := trace.NewSpanStartConfig(options...)
	began := start.Timestamp()
	if began.IsZero() {
		began = time.Now()
	}
	return ctx, &recordedSpan{recorder: r, began: began}
}

type recordedSpan struct {
	noop.Span
	recorder *recorder
	began    time.Time
}

func (s *recordedSpan) End(...trace.SpanEndOption) {
	s.recorder.took = append(s.recorder.took, time.Since(s.began))
}

// slowFetcher takes a second to prepare a token request, and two to make it.
type slowFetcher struct{ failure error }

func (f slowFetcher) Fingerprint() string { return "" }

func (f slowFetcher) Prepare(context.Context) (token.Prepared, string, error) {
	time.Sleep(time.Second)
	return f, "", f.failure
}

func (f slowFetcher) Identity() []byte  { return nil }
func (f slowFetcher) Bind(*oauth.Token) {}

func (f slowFetcher) Fetch(context.Context) (*oauth.Token, error) {
	time.Sleep(2 * time.Second)
	return new(oauth.Token), nil
}

// TestSpanOfATokenRequest begins when the values are read and helper flows run, but the time that an attempt
// waits for other replicas is not part of it.
func TestSpanOfATokenRequest(t *testing.T) {
	for name, test := range map[string]struct {
		failure error
		want    time.Duration
	}{
		"granted":    {nil, 3 * time.Second},
		"unprepared": {oauth.ConfigurationErrorf("unreadable"), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				spans, tracing := new(recorder), new(Tracing)
				var provider trace.TracerProvider = recordingProvider{recorder: spans}
				tracing.provider.Store(&provider)
				p, _, err := tracing.Fetcher(slowFetcher{test.failure}, "billing").Prepare(t.Context())
				if err == nil {
					time.Sleep(time.Hour)
					_, _ = p.Fetch(t.Context())
				}
				if len(spans.took) != 1 || spans.took[0] != test.want {
					t.Errorf("spans of %v, want %v", spans.took, test.want)
				}
			})
		})
	}
}
