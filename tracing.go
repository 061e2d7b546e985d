package httphelper

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

const tracerName = "github.com/caddy-httphelper/caddy-httphelper"

// tracing finds the tracer of Caddy's `tracing`, which is known by the requests that it traces only.
type tracing struct {
	provider atomic.Pointer[trace.TracerProvider] // nil: no traced request so far
}

// learn takes the tracer of a request's span, if there is one.
func (t *tracing) learn(ctx context.Context) {
	if t.provider.Load() != nil {
		return
	}
	if span := trace.SpanFromContext(ctx); span.SpanContext().IsValid() {
		provider := span.TracerProvider()
		t.provider.Store(&provider)
	}
}

// start begins a span for a token request: below the request that caused it, or on its own.
func (t *tracing) start(ctx context.Context, connection string) (context.Context, trace.Span) {
	t.learn(ctx)
	provider := t.provider.Load()
	if provider == nil {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return (*provider).Tracer(tracerName).Start(ctx, "http_helper token",
		trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(attribute.String("http_helper.connection", connection)))
}

// tracedFetcher makes a span of each token request.
type tracedFetcher struct {
	tokenFetcher
	tracing    *tracing
	connection string
}

func (f tracedFetcher) fetch(ctx context.Context) (token *grantedToken, fingerprint string, err error) {
	ctx, span := f.tracing.start(ctx, f.connection)
	defer span.End()
	token, fingerprint, err = f.tokenFetcher.fetch(ctx)
	if failed := new(tokenError); errors.As(err, &failed) {
		span.SetStatus(codes.Error, failed.Error())
		span.SetAttributes(attribute.String("error.type", string(failed.class)))
	} else if err != nil {
		span.SetStatus(codes.Error, "no response in time")
	}
	return token, fingerprint, err
}

// causedBy is a context of its own that belongs to the trace of ctx.
func causedBy(ctx context.Context) context.Context {
	return trace.ContextWithSpan(context.Background(), trace.SpanFromContext(ctx))
}
