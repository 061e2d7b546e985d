package httphelper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
	"github.com/caddy-httphelper/caddy-httphelper/internal/sites"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// activeConnection is a connection in a loaded config: its configuration, the values resolved from
// it, the source of its tokens, and what its requests are forwarded with.
type activeConnection struct {
	configuredConnection

	logger  *zap.Logger
	values  resolve.Connection
	tokens  connectionTokens
	forward forward.Connection
	target  *forward.Target // nil: it depends on values that may change while the config runs
	allowed []Allow         // as it is configured

	// A ping is sent as the requests of the first handler and the first transport that use the
	// connection.
	pingOptions   *forward.Options
	pingTransport *forward.Transport
	ownTransport  *forward.Transport // pingTransport, if no module's transport uses the connection; else nil
	upstream      string             // the first upstream that the config names; empty: the address of the base URL
}

// activate checks a connection against its connector and acquires its token source. No server is
// contacted.
func (c *activeConnection) activate(app *App, name string, config *Connection) error {
	c.logger = app.logger
	configured, err := app.configure(name, config)
	if err != nil {
		return err
	}
	c.configuredConnection = *configured
	spec, err := c.parse()
	if err := errors.Join(validName(name), err); err != nil {
		return errors.Join(err, c.unreadable())
	}
	warnings, errScopes := c.resolveScopes(spec)
	err = c.values.Init(c.name, spec, c.logger)
	if err := errors.Join(errScopes, err, c.tokens.clients.provision(app, c.service, spec.CertificateFile != nil)); err != nil {
		return err
	}
	c.values.Client = c.tokens.clients.client
	if c.target, err = c.values.Check(); err != nil {
		return err
	}
	if err := app.checkLoop(name, c.target); err != nil {
		return err
	}
	c.warn(slices.Concat(warnings, spec.LiteralSecrets(), c.hostWarnings()))
	metrics := telemetry.Acquire(name)
	c.acquireTokens(app, metrics)
	c.allowed = config.Allow
	c.config = nil // no longer needed, and large
	c.forward = forward.Connection{
		Name: name, Tokens: &c.tokens, Target: c.findTarget(), Metrics: metrics, Tracing: app.tracing,
		Limits: c.limits(), RejectedStatuses: c.service.RejectedStatuses, Own: app.own,
	}
	return nil
}

func (c *activeConnection) warn(warnings []string) {
	for _, warning := range warnings {
		c.logger.Warn(warning, zap.String("connection", c.name))
	}
	for _, what := range c.service.AllowInsecure {
		c.logger.Warn("allow_insecure permits to send secrets or tokens where others can read them",
			zap.String("connection", c.name), zap.String("url", what))
	}
}

// checkLoop refuses a base URL that is a listener of the connection's own site: each request would come back
// and be sent again. What cannot be seen here is found out at the first request.
func (a *App) checkLoop(name string, target *forward.Target) error {
	if target == nil || !httpguard.IsLoopbackHost(target.Base.Hostname()) {
		return nil
	}
	if a.listeners == nil {
		a.listeners = listenersOf(configOf(a.ctx))
	}
	for _, listener := range a.listeners[name] {
		if sites.ListensAt(listener, target.Dial) {
			return fmt.Errorf("base_url leads back to the connection's own site, which listens on %s: write the API's own address, or give the site another port", listener)
		}
	}
	return nil
}

// listenersOf returns the addresses that the servers of a config listen on, by the names of the connections
// that their routes use.
func listenersOf(config *caddy.Config) map[string][]string {
	listeners := make(map[string][]string)
	var app struct{ Servers map[string]map[string]any }
	if config == nil || json.Unmarshal(config.AppsRaw["http"], &app) != nil {
		return listeners
	}
	for _, server := range app.Servers {
		names := make(map[string]bool)
		collectNames(server, names)
		addresses, _ := server["listen"].([]any)
		for _, address := range addresses {
			for name := range names {
				listeners[name] = append(listeners[name], fmt.Sprint(address))
			}
		}
	}
	return listeners
}

// hostWarnings warns about hidden values in the host of the base URL, which Caddy shows as an upstream.
func (c *activeConnection) hostWarnings() []string {
	if c.target == nil {
		return nil
	}
	var warnings []string
	for _, placeholder := range c.values.HiddenInHost(c.target.Base.Host) {
		warnings = append(warnings, "base_url has "+placeholder+" in its host, which Caddy's log and admin endpoint show")
	}
	return warnings
}

// findTarget returns the function that finds the target of a request.
func (c *activeConnection) findTarget() func(context.Context) (*forward.Target, error) {
	if target := c.target; target != nil {
		return func(context.Context) (*forward.Target, error) { return target, nil }
	}
	lazy := &forward.LazyTarget{Resolve: c.values.Target, CurrentToken: c.tokens.source.Current, Timeout: c.tokens.timeout}
	return lazy.Get
}

// release releases what the connection has acquired.
func (c *activeConnection) release() {
	c.tokens.release()
	c.forward.Metrics.Release()
	if c.ownTransport != nil {
		_ = c.ownTransport.Cleanup()
	}
}

// forwarding returns what the connection's requests are forwarded with. It is nil for a nil connection, that of
// a request that names none.
func (c *activeConnection) forwarding() *forward.Connection {
	if c == nil {
		return nil
	}
	return &c.forward
}

// use checks the policy of a handler or transport against the connection, and tells it where the API is. Pings are
// sent with the first one.
func (c *activeConnection) use(p *RequestPolicy) error {
	if c.pingOptions == nil {
		c.pingOptions = &p.options
	}
	p.conns = append(p.conns, &c.forward)
	return prefixAll("connection "+c.name, c.accepts(p))
}

// start puts the connection's settings into effect. Pings get a policy and a transport, if no handler or
// transport uses the connection.
func (c *activeConnection) start(ctx caddy.Context) error {
	policy := new(RequestPolicy)
	if err := errors.Join(policy.provision(), c.use(policy)); err != nil {
		return err
	}
	if c.pingTransport == nil {
		own, err := forward.NewTransport(ctx, []byte("{}"), c.transportOptions(false))
		if err != nil {
			return err
		}
		c.pingTransport, c.ownTransport = own, own
	}
	c.tokens.start()
	return nil
}

// transportOptions returns the options of a transport that only this connection uses.
func (c *activeConnection) transportOptions(proxyFields bool) forward.TransportOptions {
	return forward.TransportOptions{
		Target: c.target, Insecure: c.service.allowsInsecure("base_url"), Certificate: c.values.Certificate != nil,
		ProxyFields: proxyFields, Own: c.forward.Own,
	}
}

// dialInfo returns the address that the connection's requests are sent to: the first upstream that the
// config names, or else the address of the base URL.
func (c *activeConnection) dialInfo(target *forward.Target) reverseproxy.DialInfo {
	address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(c.upstream, ""))
	if c.upstream == "" || err != nil {
		return reverseproxy.DialInfo{Network: "tcp", Address: target.Dial}
	}
	return reverseproxy.DialInfo{Network: address.Network, Address: address.JoinHostPort(0)}
}
