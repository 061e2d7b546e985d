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

// Events tells Caddy's events app what happens to tokens, in order. Nothing waits for the
// subscribers.
type Events struct {
	ctx     caddy.Context
	logger  *zap.Logger
	app     *caddyevents.App
	running chan struct{} // closed when the config runs: until then subscribers are still being bound
	once    sync.Once

	mu    sync.Mutex
	queue []tokenEvent // the first is being emitted
}

type tokenEvent struct {
	name string
	data map[string]any
}

func NewEvents(ctx caddy.Context) (*Events, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	e := &Events{ctx: ctx, logger: ctx.Logger(), app: app.(*caddyevents.App), running: make(chan struct{})}
	return e, e.app.On("started", e)
}

// Handle implements caddyevents.Handler, for Caddy's event `started`.
func (e *Events) Handle(context.Context, caddy.Event) error {
	e.once.Do(func() { close(e.running) })
	return nil
}

// emit passes an event on, unless the config ends before its turn comes.
func (e *Events) emit(name string, data map[string]any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = append(e.queue, tokenEvent{name, data})
	if len(e.queue) == 1 {
		go e.emitQueue(e.queue[0])
	}
}

// emitQueue emits what is queued, beginning with the first.
func (e *Events) emitQueue(first tokenEvent) {
	select {
	case <-e.running:
	case <-e.ctx.Done():
		return
	}
	for next, ok := first, true; ok; next, ok = e.dequeue() {
		e.emitOne(next)
	}
}

func (e *Events) emitOne(event tokenEvent) {
	defer token.RecoverAndLog(e.logger, "emitting an event")
	if e.ctx.Err() == nil {
		e.app.Emit(e.ctx, "http_helper."+event.name, event.data)
	}
}

// dequeue takes the first event away and returns the one that is first now.
func (e *Events) dequeue() (tokenEvent, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queue = e.queue[1:]
	if len(e.queue) == 0 {
		return tokenEvent{}, false
	}
	return e.queue[0], true
}

// EmitToken tells of a token request or a rejection.
func (e *Events) EmitToken(connection string, event token.Event) {
	data := map[string]any{"connection": connection}
	switch {
	case event.Rejected:
		e.emit("token_rejected", data)
	case event.Err != nil:
		data["class"], data["code"] = string(event.Err.Class), event.Err.Code
		e.emit("token_failed", data)
	default:
		data["expires"] = event.Expires.UTC().Format(time.RFC3339)
		e.emit("token_obtained", data)
	}
}
