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
)

// activeConnection is a connection in a loaded config: everything that gets tokens and places
// requests.
type activeConnection struct {
	configuredConnection

	app    *App
	logger *zap.Logger

	values  *resolvedConnection
	clients tokenClients
	tokens  connectionTokens
	forward forwardConnection
	target  *apiTarget // nil: it depends on what may change while the config runs

	watching chan struct{} // closed when the certificate is not watched any more; nil: it is not

	// How pings are sent: as the requests of the first handler and transport that use the connection.
	pingOptions   *forwardOptions
	pingTransport *forwardTransport
	ownTransport  *forwardTransport // nil: pingTransport belongs to a module
	upstream      string            // the first address of the user's; empty: that of the base URL
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
	c.warn(slices.Concat(warnings, spec.literalSecrets(), c.hostWarnings()))
	c.acquire()
	return nil
}

// provision prepares what resolves the connection's values and gets its tokens.
func (c *activeConnection) provision(spec *connectionSpec) error {
	values, err := newResolvedConnection(c.name, spec, c.logger)
	if err != nil {
		return errors.Join(err, c.provisionClients(false))
	}
	c.values = values
	if err := c.provisionClients(values.certificate != nil); err != nil {
		return err
	}
	values.clients = &c.clients
	return nil
}

// check reads all values once, and finds the place of the API if that stays the same.
func (c *activeConnection) check() error {
	if err := c.values.check(); err != nil {
		return err
	}
	target, err := c.values.constantTarget()
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
	for _, placeholder := range c.values.hiddenInHost(c.target.base.Host) {
		warnings = append(warnings, "base_url has "+placeholder+" in its host, which Caddy's log and admin endpoint show")
	}
	return warnings
}

// acquire takes the source of the connection's tokens, which a running config may hold already, and
// prepares forwarding.
func (c *activeConnection) acquire() {
	c.acquireTokens()
	c.forward = forwardConnection{
		name: c.name, tokens: &c.tokens, place: c.place(), metrics: acquireMetrics(c.name), tracing: c.app.tracing,
	}
}

// place returns what finds the place of the API.
func (c *activeConnection) place() func(context.Context) (*apiTarget, error) {
	if target := c.target; target != nil {
		return func(context.Context) (*apiTarget, error) { return target, nil }
	}
	lazy := &lazyTarget{resolve: c.values.target, currentToken: c.tokens.source.peek, timeout: c.tokens.timeout}
	return lazy.get
}

// metrics are those of the connection, nil for none that is known.
func (c *activeConnection) metrics() *connectionMetrics {
	if c == nil {
		return nil
	}
	return c.forward.metrics
}

// release lets go of the connection's token source.
func (c *activeConnection) release() {
	c.tokens.release()
	c.forward.metrics.release()
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
	own, err := newForwardTransport(ctx, []byte("{}"), c.transportOptions(false))
	c.pingTransport, c.ownTransport = own, own
	return err
}

// transportOptions are those of a transport that only this connection uses.
func (c *activeConnection) transportOptions(proxyFields bool) forwardTransportOptions {
	return forwardTransportOptions{target: c.target, certificate: c.values.certificate != nil, proxyFields: proxyFields}
}

// needsOwnTransport reports whether the connection's requests must not share connections with those of
// others: alone, since it costs nothing then and several upstreams may be dialed.
func (c *activeConnection) needsOwnTransport(alone bool) bool {
	return c.values.certificate != nil || (alone && c.target != nil)
}

// acceptsTransport checks the options of an http transport that could send the token elsewhere. target
// is nil if it is not known yet.
func (c *configuredConnection) acceptsTransport(t *reverseproxy.HTTPTransport, target *apiTarget) error {
	if t.TLS == nil {
		return nil
	}
	if t.TLS.InsecureSkipVerify && !c.service.allowsInsecure("base_url") {
		return fmt.Errorf("connection %s: tls_insecure_skip_verify needs allow_insecure base_url", c.name)
	}
	if target == nil {
		return nil
	}
	if name := t.TLS.ServerName; name != "" && !strings.EqualFold(name, target.base.Hostname()) {
		return fmt.Errorf("connection %s: tls_server_name must be the host of base_url; name the certificate's host there and the address to dial with to", c.name)
	}
	return nil
}
