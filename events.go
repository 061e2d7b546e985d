package httphelper

import (
	"context"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
)

// eventEmitter tells Caddy's events app what happens to tokens. Nothing waits for the subscribers.
type eventEmitter struct {
	ctx     caddy.Context
	logger  *zap.Logger
	app     *caddyevents.App
	running chan struct{} // closed when the config runs: until then subscribers are still being bound
	once    sync.Once
}

func newEventEmitter(ctx caddy.Context) (*eventEmitter, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	e := &eventEmitter{ctx: ctx, logger: ctx.Logger(), app: app.(*caddyevents.App), running: make(chan struct{})}
	return e, e.app.On("started", e)
}

// Handle implements caddyevents.Handler, for Caddy's event `started`.
func (e *eventEmitter) Handle(context.Context, caddy.Event) error {
	e.once.Do(func() { close(e.running) })
	return nil
}

// emit passes an event on, unless the config ends before it has begun.
func (e *eventEmitter) emit(name string, data map[string]any) {
	go func() {
		defer logPanic(e.logger, "emitting an event")
		select {
		case <-e.running:
			e.app.Emit(e.ctx, "http_helper."+name, data)
		case <-e.ctx.Done():
		}
	}()
}

// observe is told of each token request and each rejection.
func (c *activeConnection) observe(event fetchEvent) {
	c.metrics.observe(event)
	data := map[string]any{"connection": c.name}
	switch {
	case event.rejected:
		c.app.events.emit("token_rejected", data)
	case event.failed != nil:
		data["class"], data["code"] = string(event.failed.class), event.failed.code
		c.app.events.emit("token_failed", data)
	default:
		data["expires"] = event.expires.UTC().Format(time.RFC3339)
		c.app.events.emit("token_obtained", data)
	}
}
