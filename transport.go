package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Transport sends requests to the API of a connection, with the connection's token. It wraps
// reverse_proxy's `http` transport, whose options it understands. One has another default:
// `compression` is off, so that the app's `Accept-Encoding` and the API's response stay as they are.
//
// It is the last to touch a request: the token goes only to the host of the base URL, under it, and
// only over TLS or to loopback, whatever upstream was chosen. A request that no handler
// `http_helper` has admitted is refused, unless the transport has a connection of its own.
type Transport struct {
	*reverseproxy.HTTPTransport

	// The connection whose token is sent when no handler `http_helper` chose one. Default: such
	// requests are refused.
	Connection string `json:"connection,omitempty"`

	// The connections that a handler `http_helper` may choose among, when there are several.
	Connections []string `json:"connections,omitempty"`

	// Whether the upstreams are addresses of the user's rather than the base URL's own, so that
	// one base URL may be dialed at several addresses. Default: false.
	CustomUpstreams bool `json:"custom_upstreams,omitempty"`

	// Whether `Via`, `Forwarded` and `X-Forwarded-*` that reverse_proxy's header operations set
	// reach the API. Default: false, which spares a copy of every request's header.
	HeaderUp bool `json:"header_up,omitempty"`

	// Whether reverse_proxy has `load_balancing`, which may choose among upstreams, or try again, by a
	// request's `Via` and `X-Forwarded-*`. Default: false, which spares to keep them.
	LoadBalancing bool `json:"load_balancing,omitempty"`

	RequestPolicy

	own        *activeConnection
	conns      []*activeConnection // all that the config names
	transports map[*forward.Connection]*forward.Transport
	shared     *forward.Transport // for connections without a transport of their own
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.http_helper",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision finds the connections and builds their transports to the API.
func (t *Transport) Provision(ctx caddy.Context) error {
	if err := t.provision(ctx); err != nil {
		return fmt.Errorf("transport http_helper: %w", err)
	}
	return nil
}

func (t *Transport) provision(ctx caddy.Context) error {
	app, err := appOf(ctx)
	if err != nil {
		return err
	}
	if t.HTTPTransport == nil {
		t.HTTPTransport = new(reverseproxy.HTTPTransport)
	}
	if err := t.RequestPolicy.provision(); err != nil {
		return err
	}
	if t.conns, err = t.connections(app); err != nil {
		return err
	}
	return t.provisionTransports(ctx)
}

// connections are those that the config names for this transport.
func (t *Transport) connections(app *App) ([]*activeConnection, error) {
	var conns []*activeConnection
	var errs []error
	names := t.Connections
	if t.Connection != "" {
		names = append([]string{t.Connection}, names...)
	}
	for _, name := range names {
		conn, err := app.connection(name)
		if err == nil {
			err = errors.Join(conn.use(&t.RequestPolicy), conn.acceptsTransport(t.HTTPTransport, conn.target))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		conns = append(conns, conn)
		if name == t.Connection {
			t.own = conn
		}
	}
	return conns, errors.Join(errs...)
}

// provisionTransports gives a transport of its own to every connection that needs one, and the shared
// one to the rest.
func (t *Transport) provisionTransports(ctx caddy.Context) error {
	// Provisioning fills in the configuration, so each transport starts from a copy.
	raw, err := json.Marshal(t.HTTPTransport)
	if err != nil {
		return err
	}
	t.transports = make(map[*forward.Connection]*forward.Transport)
	for _, conn := range t.conns {
		if !conn.needsOwnTransport(len(t.conns) == 1 || t.CustomUpstreams) {
			continue
		}
		own, err := forward.NewTransport(ctx, raw, conn.transportOptions(t.HeaderUp))
		if err != nil {
			return fmt.Errorf("connection %s: %w", conn.name, err)
		}
		t.transports[&conn.forward] = own // Cleanup is called after a failure too
	}
	if t.shared, err = forward.NewTransport(ctx, raw, forward.TransportOptions{ProxyFields: t.HeaderUp}); err != nil {
		return err
	}
	for _, conn := range t.conns {
		if conn.pingTransport == nil {
			conn.pingTransport = t.transport(&conn.forward)
		}
	}
	t.HTTPTransport = t.shared.HTTPTransport
	if len(t.conns) == 1 && t.transports[&t.conns[0].forward] != nil {
		t.HTTPTransport = t.transports[&t.conns[0].forward].HTTPTransport
	}
	return nil
}

// transport is the one of a connection.
func (t *Transport) transport(conn *forward.Connection) *forward.Transport {
	if own := t.transports[conn]; own != nil {
		return own
	}
	return t.shared
}

// Cleanup closes idle connections to the API.
func (t *Transport) Cleanup() error {
	var errs []error
	for _, own := range t.transports {
		errs = append(errs, own.Cleanup())
	}
	if t.shared != nil {
		errs = append(errs, t.shared.Cleanup())
	}
	return errors.Join(errs...)
}

// RequestHeaderOps removes what would tell the API of a proxy (rule 17) before the user's header
// operations, so that theirs stay. Without those it is removed when the request is sent, as the
// Host is set then.
func (t *Transport) RequestHeaderOps() *headers.HeaderOps {
	if !t.HeaderUp {
		return nil
	}
	return &headers.HeaderOps{Delete: []string{"Forwarded", "X-Forwarded-*", "Via"}}
}

// RoundTrip sends a request with the token of its connection.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	q, ok := forward.FromContext(req.Context())
	if !ok {
		return t.roundTripAlone(req)
	}
	if !t.HeaderUp && !t.LoadBalancing {
		forward.DropAddedFields(req.Header)
	}
	return q.RoundTrip(t.transport(q.Conn), req)
}

// roundTripAlone sends a request that no handler of ours has seen: of a transport used by hand, or
// a health check. Refusals are responses, so that they never count against an upstream.
func (t *Transport) roundTripAlone(req *http.Request) (*http.Response, error) {
	if t.own == nil {
		forward.CloseBody(req.Body)
		return forward.NotAllowed("neither a handler http_helper nor the transport's option connection says whose token to send").Response(req), nil
	}
	healthCheck := req.Context().Value(caddyhttp.VarsCtxKey) == nil
	q, refused := t.prepareAlone(req)
	if refused != nil && healthCheck {
		// Without a token nothing is known about the upstream, so nothing is held against it.
		refused = &forward.Error{Status: http.StatusOK}
	}
	var res *http.Response
	var err error
	if refused == nil {
		res, err = t.transport(q.Conn).Send(req, q)
		refused, _ = errors.AsType[*forward.Error](err)
	}
	if refused != nil {
		forward.CloseBody(req.Body)
		res, err = refused.Response(req), nil
	}
	switch {
	case healthCheck:
	case refused != nil:
		t.own.metrics().Count(refused.Outcome())
	default:
		t.own.metrics().Count(q.SentOutcome())
	}
	return res, err
}

// prepareAlone checks a request and gets what it needs, as the handler does.
func (t *Transport) prepareAlone(req *http.Request) (*forward.Request, *forward.Error) {
	if refused := t.RequestPolicy.check(req); refused != nil {
		return nil, refused
	}
	return t.own.forward.Prepare(req, &t.RequestPolicy.options)
}

// GetUpstreams returns the address of the request's base URL.
func (UpstreamSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	q, ok := forward.FromContext(r.Context())
	if !ok {
		return nil, errors.New("upstream source http_helper: the handler http_helper must come first")
	}
	return []*reverseproxy.Upstream{{Dial: q.Target.Dial}}, nil
}

// UpstreamSource is reverse_proxy's source of upstreams `http_helper`: the address of the base URL
// of the connection that the handler chose for the request. It has no options.
type UpstreamSource struct{}

// CaddyModule returns the Caddy module information.
func (UpstreamSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams.http_helper",
		New: func() caddy.Module { return new(UpstreamSource) },
	}
}

// Interface guards
var (
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
	_ reverseproxy.UpstreamSource                      = (*UpstreamSource)(nil)
)

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. Syntax:
//
//	transport http_helper {
//	    connection          <name>
//	    access_token_header <field> [<prefix>]
//	    app_authorization   replace|keep|reject
//	    on_unauthorized     retry|pass
//	    replay_buffer       <size>
//	    allow_clients       [private_ranges] <ranges...>
//	    <options of transport http>
//	}
//
// The upstreams are addresses to dial; the connection's base URL decides on host, TLS and path.
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	s := subdirective.Parse("transport", d.NextSegment())
	if err := s.NoArgs(); err != nil {
		return err
	}
	t.HTTPTransport = new(reverseproxy.HTTPTransport)
	t.CustomUpstreams, t.HeaderUp, t.LoadBalancing = true, true, true // the rest of the reverse_proxy is not known here
	known := make(subdirective.Rules)
	subdirective.Bind(known, policyOptions, &t.RequestPolicy)
	subdirective.Bind(known, subdirective.Options[Transport]{"connection": subdirective.CheckedString(func(t *Transport) *string { return &t.Connection }, validName)}, t)
	own, rest := s.Split(known)
	if err := known.ReadAll("transport http_helper", own); err != nil {
		return err
	}
	return s.Unmarshal(t.HTTPTransport, rest)
}

// UnmarshalCaddyfile sets up the upstream source from Caddyfile tokens. Syntax:
//
//	dynamic http_helper
func (*UpstreamSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	s := subdirective.Parse("dynamic", d.NextSegment())
	if len(s.Block) > 0 {
		return s.Errorf("has no options")
	}
	return s.NoArgs()
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*UpstreamSource)(nil)
)
