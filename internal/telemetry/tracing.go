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

// Tracing finds the tracer of Caddy's `tracing`, which is known by the requests that it traces only.
type Tracing struct {
	provider atomic.Pointer[trace.TracerProvider] // nil: no traced request so far
}

// Learn takes the tracer of a request's span, if there is one.
func (t *Tracing) Learn(ctx context.Context) {
	if t.provider.Load() != nil {
		return
	}
	if span := trace.SpanFromContext(ctx); span.SpanContext().IsValid() {
		provider := span.TracerProvider()
		t.provider.Store(&provider)
	}
}

// start begins a span for a token request: below the request that caused it, or on its own.
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

// TracedFetcher makes a span of each token request.
type TracedFetcher struct {
	token.Fetcher
	Tracing    *Tracing
	Connection string
}

func (f TracedFetcher) Fetch(ctx context.Context) (token *oauth.Token, fingerprint string, err error) {
	ctx, span := f.Tracing.start(ctx, f.Connection)
	defer span.End()
	token, fingerprint, err = f.Fetcher.Fetch(ctx)
	if failed := new(oauth.Error); errors.As(err, &failed) {
		span.SetStatus(codes.Error, failed.Error())
		span.SetAttributes(attribute.String("error.type", string(failed.Class)))
	} else if err != nil {
		span.SetStatus(codes.Error, "no response in time")
	}
	return token, fingerprint, err
}
