package httphelper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// activeConnection is a connection in a loaded config: everything that gets tokens and places
// requests.
type activeConnection struct {
	configuredConnection

	app    *App
	logger *zap.Logger

	values  *resolve.Connection
	clients tokenClients
	tokens  connectionTokens
	forward forward.Connection
	target  *forward.Target // nil: it depends on what may change while the config runs

	watching chan struct{} // closed when the certificate is not watched any more; nil: it is not

	// How pings are sent: as the requests of the first handler and transport that use the connection.
	pingOptions   *forward.Options
	pingTransport *forward.Transport
	ownTransport  *forward.Transport // nil: pingTransport belongs to a module
	upstream      string             // the first address of the user's; empty: that of the base URL
}

// activate checks a connection against its connector and acquires its token source. Nobody is
// contacted.
func (c *activeConnection) activate(app *App, name string, config *Connection) error {
	c.app, c.logger = app, app.logger
	if err := validName(name); err != nil {
		return err
	}
	configured, err := app.configure(name, config)
	if err != nil {
		return err
	}
	c.configuredConnection = *configured
	spec, err := c.parse()
	if err != nil {
		return err
	}
	warnings, err := c.resolveScopes(spec)
	if err := errors.Join(err, c.provision(spec)); err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	c.warn(slices.Concat(warnings, spec.LiteralSecrets(), c.hostWarnings()))
	c.acquire()
	return nil
}

// provision prepares what resolves the connection's values and gets its tokens.
func (c *activeConnection) provision(spec *resolve.Spec) error {
	values, err := resolve.New(c.name, spec, c.logger)
	if err != nil {
		return errors.Join(err, c.provisionClients(false))
	}
	c.values = values
	if err := c.provisionClients(values.Certificate != nil); err != nil {
		return err
	}
	values.Clients = &c.clients
	return nil
}

// check reads all values once, and finds the place of the API if that stays the same.
func (c *activeConnection) check() error {
	if err := c.values.Check(); err != nil {
		return err
	}
	target, err := c.values.ConstantTarget()
	c.target = target
	return err
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

// hostWarnings warns about a host that is made of what people may not see: Caddy knows it as an
// upstream.
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

// acquire takes the source of the connection's tokens, which a running config may hold already, and
// prepares forwarding.
func (c *activeConnection) acquire() {
	c.acquireTokens()
	c.forward = forward.Connection{
		Name: c.name, Tokens: &c.tokens, Target: c.place(), Metrics: telemetry.Acquire(c.name), Tracing: c.app.tracing,
	}
}

// place returns what finds the place of the API.
func (c *activeConnection) place() func(context.Context) (*forward.Target, error) {
	if target := c.target; target != nil {
		return func(context.Context) (*forward.Target, error) { return target, nil }
	}
	lazy := &forward.LazyTarget{Resolve: c.values.Target, CurrentToken: c.tokens.source.Current, Timeout: c.tokens.timeout}
	return lazy.Get
}

// metrics are those of the connection, nil for none that is known.
func (c *activeConnection) metrics() *telemetry.Connection {
	if c == nil {
		return nil
	}
	return c.forward.Metrics
}

// release lets go of the connection's token source.
func (c *activeConnection) release() {
	c.tokens.release()
	c.forward.Metrics.Release()
	if c.ownTransport != nil {
		_ = c.ownTransport.Cleanup()
	}
	c.clients.closeIdleConnections()
	if c.watching != nil {
		close(c.watching)
	}
}

// use checks a policy against the connection, whose pings are sent by the first.
func (c *activeConnection) use(p *RequestPolicy) error {
	if c.pingOptions == nil {
		c.pingOptions = &p.options
	}
	return c.accepts(p)
}

// providePingTransport gives a connection that no transport uses one for pings.
func (c *activeConnection) providePingTransport(ctx caddy.Context) error {
	if c.pingOptions == nil {
		policy := new(RequestPolicy)
		if err := policy.provision(); err != nil {
			return err
		}
		c.pingOptions = &policy.options
	}
	if c.pingTransport != nil {
		return nil
	}
	own, err := forward.NewTransport(ctx, []byte("{}"), c.transportOptions(false))
	c.pingTransport, c.ownTransport = own, own
	return err
}

// transportOptions are those of a transport that only this connection uses.
func (c *activeConnection) transportOptions(proxyFields bool) forward.TransportOptions {
	return forward.TransportOptions{Target: c.target, Certificate: c.values.Certificate != nil, ProxyFields: proxyFields}
}

// needsOwnTransport reports whether the connection's requests must not share connections with those of
// others: alone, since it costs nothing then and several upstreams may be dialed.
func (c *activeConnection) needsOwnTransport(alone bool) bool {
	return c.values.Certificate != nil || (alone && c.target != nil)
}

// acceptsTransport checks the options of an http transport that could send the token elsewhere. target
// is nil if it is not known yet.
func (c *configuredConnection) acceptsTransport(t *reverseproxy.HTTPTransport, target *forward.Target) error {
	if t.TLS == nil {
		return nil
	}
	if t.TLS.InsecureSkipVerify && !c.service.allowsInsecure("base_url") {
		return fmt.Errorf("connection %s: tls_insecure_skip_verify needs allow_insecure base_url", c.name)
	}
	if target == nil {
		return nil
	}
	if name := t.TLS.ServerName; name != "" && !strings.EqualFold(name, target.Base.Hostname()) {
		return fmt.Errorf("connection %s: tls_server_name must be the host of base_url; name the certificate's host there and the address to dial with to", c.name)
	}
	return nil
}
