package httphelper

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("http_helper_health", parseHealth)
	httpcaddyfile.RegisterDirectiveOrder("http_helper_health", httpcaddyfile.Before, "respond")
}

// Health responds to readiness probes with the health of connections, in JSON: 200 when each of them
// has a live token, has not been tried yet, or has worked before and suffers an outage; otherwise 503
// with the reasons.
//
// It never waits for a token. A connection that has failed and has no live token is retried in the
// background for five minutes after a probe, so that it becomes healthy without a request.
type Health struct {
	// The names of the connections whose health is reported. Default: all.
	Connections []string `json:"connections,omitempty"`

	app *App
}

// CaddyModule returns the Caddy module information.
func (Health) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.http_helper_health",
		New: func() caddy.Module { return new(Health) },
	}
}

// Provision finds the app. The names are checked when the app starts, since routes that are provisioned
// later may define connections.
func (h *Health) Provision(ctx caddy.Context) error {
	var err error
	if h.app, err = appOf(ctx); err != nil {
		return err
	}
	h.app.checked = append(h.app.checked, h.Connections...)
	return nil
}

// checkHealthNames checks that the connections named by `http_helper_health` exist.
func (a *App) checkHealthNames() error {
	var errs []error
	for _, name := range a.checked {
		if _, err := a.connection(name); err != nil {
			errs = append(errs, fmt.Errorf("http_helper_health: %w", err))
		}
	}
	return errors.Join(errs...)
}

// healthView is the response to a probe.
type healthView struct {
	Healthy     bool               `json:"healthy"`
	Connections []connectionHealth `json:"connections"`
}

// connectionHealth is the health of one connection. Only an unhealthy one has an error.
type connectionHealth struct {
	Name    string            `json:"name"`
	Healthy bool              `json:"healthy"`
	State   token.State       `json:"state"`
	Error   *adminapi.Failure `json:"error,omitempty"`
}

// ServeHTTP responds to a probe.
func (h *Health) ServeHTTP(w http.ResponseWriter, _ *http.Request, _ caddyhttp.Handler) error {
	view := healthView{Healthy: true, Connections: []connectionHealth{}}
	names := h.Connections
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(h.app.active))
	}
	for _, name := range names {
		health := h.app.active[name].health()
		view.Healthy = view.Healthy && health.Healthy
		view.Connections = append(view.Connections, health)
	}
	status := http.StatusOK
	if !view.Healthy {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, status, view)
}

// health returns the connection's health, and has it retried in the background if it is down.
func (c *activeConnection) health() connectionHealth {
	c.tokens.source.RetryInBackground()
	st := c.tokens.source.Status()
	health := connectionHealth{Name: c.name, Healthy: isHealthy(st), State: st.State}
	if !health.Healthy {
		health.Error = failure(st.LastError)
	}
	return health
}

// isHealthy reports whether requests can be expected to get a token, now or soon.
func isHealthy(st token.Status) bool {
	if st.State != token.StateDown {
		return true
	}
	return st.HadToken && st.LastError.Class == oauth.ClassOutage
}

// parseHealth parses the directive `http_helper_health`. Syntax:
//
//	http_helper_health [<matcher>] [<connections...>]
func parseHealth(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	health := new(Health)
	return health, health.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens.
func (h *Health) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	h.Connections = d.RemainingArgs()
	if d.NextBlock(0) {
		return d.Err("http_helper_health has no subdirectives")
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Health)(nil)
	_ caddyhttp.MiddlewareHandler = (*Health)(nil)
	_ caddyfile.Unmarshaler       = (*Health)(nil)
)
