package telemetry

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// Events passes what happens to tokens to Caddy's events app, in order. Nothing waits for the
// subscribers.
type Events struct {
	ctx     caddy.Context
	logger  *zap.Logger
	app     *caddyevents.App
	started chan struct{} // closed when the config runs: until then subscribers are being bound
	once    sync.Once

	mu   sync.Mutex
	last <-chan struct{} // closed when the last event so far has been emitted
}

// NewEvents returns the events of the config of ctx.
func NewEvents(ctx caddy.Context) (*Events, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	e := &Events{ctx: ctx, logger: ctx.Logger(), app: app.(*caddyevents.App), started: make(chan struct{})}
	e.last = e.started
	return e, e.app.On("started", e)
}

// Handle implements caddyevents.Handler, for Caddy's event `started`.
func (e *Events) Handle(context.Context, caddy.Event) error {
	e.once.Do(func() { close(e.started) })
	return nil
}

// Emit emits a token request or a rejection of a connection, unless the config ends before that. An adopted
// token has no event.
func (e *Events) Emit(connection string, observed token.Event) {
	data := map[string]any{"connection": connection}
	switch {
	case observed.Adopted:
	case observed.Rejected:
		e.enqueue("token_rejected", data)
	case observed.Err != nil:
		data["class"], data["code"] = string(observed.Err.Class), observed.Err.Code
		e.enqueue("token_failed", data)
	default:
		data["expires"] = observed.Expires.UTC().Format(time.RFC3339)
		e.enqueue("token_obtained", data)
	}
}

// enqueue emits an event after the one before.
func (e *Events) enqueue(name string, data map[string]any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before, emitted := e.last, make(chan struct{})
	e.last = emitted
	go func() {
		defer close(emitted)
		defer token.RecoverAndLog(e.logger, "emitting an event")
		select {
		case <-before:
		case <-e.ctx.Done():
		}
		if e.ctx.Err() == nil {
			e.app.Emit(e.ctx, "http_helper."+name, data)
		}
	}()
}

// Interface guard
var _ caddyevents.Handler = (*Events)(nil)
