package telemetry

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

const tracerName = "github.com/caddy-httphelper/caddy-httphelper"

// Tracing makes spans of token requests. Caddy does not offer the tracer of its `tracing` handler, so it
// is learned from the first request with a span.
type Tracing struct {
	provider atomic.Pointer[trace.TracerProvider] // nil: not learned yet
}

// Learn takes the tracer from the span of a request's context, if it has one.
func (t *Tracing) Learn(ctx context.Context) {
	if t.provider.Load() != nil {
		return
	}
	if span := trace.SpanFromContext(ctx); span.SpanContext().IsValid() {
		provider := span.TracerProvider()
		t.provider.Store(&provider)
	}
}

// Fetcher returns f with a span around each token request of the connection.
func (t *Tracing) Fetcher(f token.Fetcher, connection string) token.Fetcher {
	return tracedFetcher{f, t, connection}
}

type tracedFetcher struct {
	token.Fetcher
	tracing    *Tracing
	connection string
}

// Fetch implements token.Fetcher.
func (f tracedFetcher) Fetch(ctx context.Context) (t *oauth.Token, fingerprint string, err error) {
	ctx, span := f.tracing.start(ctx, f.connection)
	defer span.End()
	t, fingerprint, err = f.Fetcher.Fetch(ctx)
	if failed := new(oauth.Error); errors.As(err, &failed) {
		span.SetStatus(codes.Error, failed.Error())
		span.SetAttributes(attribute.String("error.type", string(failed.Class)))
	} else if err != nil {
		span.SetStatus(codes.Error, "no response in time")
	}
	return t, fingerprint, err
}

// start begins a span: a child of the span of the request that caused the token request, or a root.
func (t *Tracing) start(ctx context.Context, connection string) (context.Context, trace.Span) {
	t.Learn(ctx)
	provider := t.provider.Load()
	if provider == nil {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return (*provider).Tracer(tracerName).Start(ctx, "http_helper token",
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("http_helper.connection", connection)))
}
