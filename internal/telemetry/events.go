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

	mu    sync.Mutex
	queue []event // the first is being emitted
}

type event struct {
	name string
	data map[string]any
}

// NewEvents returns the events of the config of ctx.
func NewEvents(ctx caddy.Context) (*Events, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	e := &Events{ctx: ctx, logger: ctx.Logger(), app: app.(*caddyevents.App), started: make(chan struct{})}
	return e, e.app.On("started", e)
}

// Handle implements caddyevents.Handler, for Caddy's event `started`.
func (e *Events) Handle(context.Context, caddy.Event) error {
	e.once.Do(func() { close(e.started) })
	return nil
}

// Emit emits a token request or a rejection of a connection, unless the config ends before that.
func (e *Events) Emit(connection string, observed token.Event) {
	data := map[string]any{"connection": connection}
	switch {
	case observed.Rejected:
		e.enqueue(event{"token_rejected", data})
	case observed.Err != nil:
		data["class"], data["code"] = string(observed.Err.Class), observed.Err.Code
		e.enqueue(event{"token_failed", data})
	default:
		data["expires"] = observed.Expires.UTC().Format(time.RFC3339)
		e.enqueue(event{"token_obtained", data})
	}
}

// enqueue appends an event, and starts to emit if the queue was empty.
func (e *Events) enqueue(last event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = append(e.queue, last)
	if len(e.queue) == 1 {
		go e.emitQueue(last)
	}
}

// emitQueue emits the queue, of which first is the first, until it is empty.
func (e *Events) emitQueue(first event) {
	select {
	case <-e.started:
	case <-e.ctx.Done():
		return
	}
	for next, ok := first, true; ok; next, ok = e.dequeue() {
		e.emit(next)
	}
}

func (e *Events) emit(next event) {
	defer token.RecoverAndLog(e.logger, "emitting an event")
	if e.ctx.Err() == nil {
		e.app.Emit(e.ctx, "http_helper."+next.name, next.data)
	}
}

// dequeue removes the first event and returns the next one.
func (e *Events) dequeue() (event, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = e.queue[1:]
	if len(e.queue) == 0 {
		return event{}, false
	}
	return e.queue[0], true
}

// Interface guard
var _ caddyevents.Handler = (*Events)(nil)
