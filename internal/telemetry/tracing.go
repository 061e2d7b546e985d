package telemetry

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

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

// Prepare implements token.Fetcher. A request that cannot be prepared has a span too, which says why.
func (f tracedFetcher) Prepare(ctx context.Context) (token.Prepared, string, error) {
	began := time.Now()
	p, fingerprint, err := f.Fetcher.Prepare(ctx)
	took := time.Since(began)
	if err != nil {
		_, span := f.tracing.start(ctx, f.connection, took)
		end(span, err)
		return nil, fingerprint, err
	}
	return tracedRequest{p, f, took}, fingerprint, nil
}

type tracedRequest struct {
	token.Prepared
	by   tracedFetcher
	took time.Duration // to prepare it
}

// Fetch implements token.Prepared.
func (r tracedRequest) Fetch(ctx context.Context) (*oauth.Token, error) {
	ctx, span := r.by.tracing.start(ctx, r.by.connection, r.took)
	t, err := r.Prepared.Fetch(ctx)
	end(span, err)
	return t, err
}

// end ends the span of a token request with its error, which may be nil.
func end(span trace.Span, err error) {
	defer span.End()
	if failed := new(oauth.Error); errors.As(err, &failed) {
		span.SetStatus(codes.Error, failed.Error())
		span.SetAttributes(attribute.String("error.type", string(failed.Class)))
	} else if err != nil {
		span.SetStatus(codes.Error, "no response in time")
	}
}

// start begins a span: a child of the span of the request that caused the token request, or a root. It is
// longer by the time that it took to prepare the token request, which may have waited since for other replicas.
func (t *Tracing) start(ctx context.Context, connection string, preparing time.Duration) (context.Context, trace.Span) {
	t.Learn(ctx)
	provider := t.provider.Load()
	if provider == nil {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return (*provider).Tracer(tracerName).Start(ctx, "http_helper token",
		trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(time.Now().Add(-preparing)),
		trace.WithAttributes(attribute.String("http_helper.connection", connection)))
}
