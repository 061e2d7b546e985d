package httphelper

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Transport sends requests to the API of a connection with the connection's token. It has the options
// of reverse_proxy's `http` transport, three of them with another default: `expect_continue_timeout` is
// `2s`, so that no body is sent in vain; `compression` is off, so that the app's `Accept-Encoding`
// and the API's response are not changed; and `keep_alive.max_idle_conns_per_host` is 128, because all
// requests go to one API.
//
// Whatever upstream was chosen, the token is sent only to the host of the base URL, only below its
// path, and only over TLS or to loopback. A request that no handler `http_helper` has admitted is
// refused, unless the transport has a `connection`.
type Transport struct {
	*reverseproxy.HTTPTransport

	// The name of the connection whose token is sent with requests that no handler `http_helper` has
	// admitted for that connection. Default: none, such requests are refused.
	Connection string `json:"connection,omitempty"`

	// The names of the connections that a handler `http_helper` chooses among with a placeholder.
	// Default: none.
	Connections []string `json:"connections,omitempty"`

	// Whether the upstreams are addresses that the user chose, rather than that of the base URL, so
	// that one base URL may be dialed at several addresses. Default: false.
	CustomUpstreams bool `json:"custom_upstreams,omitempty"`

	// Whether reverse_proxy has header operations for requests. What they set of `Via`, `Forwarded` and
	// `X-Forwarded-*` then reaches the API. Default: false, which saves a copy of every request's
	// header.
	HeaderUp bool `json:"header_up,omitempty"`

	// Whether reverse_proxy has `load_balancing`, which may choose an upstream, or retry a request, by
	// its `Via` and `X-Forwarded-*`. Default: false, which saves keeping them.
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
	names := t.Connections
	if t.Connection != "" {
		names = append([]string{t.Connection}, names...)
	}
	t.conns, err = app.use(&t.RequestPolicy, names...)
	if err := errors.Join(err, t.checkConnections(ctx)); err != nil {
		return err
	}
	if t.Connection != "" {
		t.own = t.conns[0]
	}
	return t.provisionTransports(ctx, app)
}

// checkConnections compares the transport's options with its connections, and notes for pings the address
// that their requests are sent to.
func (t *Transport) checkConnections(ctx caddy.Context) error {
	var upstream string
	for _, module := range slices.Backward(ctx.Modules()) {
		if proxy, ok := module.(*reverseproxy.Handler); ok {
			if t.CustomUpstreams && len(proxy.Upstreams) > 0 {
				upstream = proxy.Upstreams[0].Dial
			}
			break
		}
	}
	errs := make([]error, len(t.conns))
	for i, conn := range t.conns {
		conn.upstream = cmp.Or(conn.upstream, upstream)
		errs[i] = prefixAll("connection "+conn.name, conn.acceptsTransport(t.HTTPTransport, conn.target))
	}
	return errors.Join(errs...)
}

// acceptsTransport checks the options of an http transport that could send the token elsewhere. target
// is nil if it is not known yet.
func (c *configuredConnection) acceptsTransport(t *reverseproxy.HTTPTransport, target *forward.Target) error {
	if t.TLS == nil {
		return nil
	}
	if t.TLS.InsecureSkipVerify && !c.service.allowsInsecure("base_url") {
		return errors.New("tls_insecure_skip_verify needs allow_insecure base_url")
	}
	if target == nil {
		return nil
	}
	if name := t.TLS.ServerName; name != "" && !strings.EqualFold(name, target.Base.Hostname()) {
		return errors.New("tls_server_name must be the host of base_url; name the certificate's host there and the address to dial with to")
	}
	return nil
}

// provisionTransports gives every connection that needs it a transport of its own, and the others a
// shared one. One with a client certificate needs its own, and so does one that may send in the clear to
// any address: a connection that it opened must not be used by others. A connection that is alone, or has
// several upstreams, gets one too if its target is known, since it costs nothing then.
func (t *Transport) provisionTransports(ctx caddy.Context, app *App) error {
	// Provisioning fills in the configuration, so each transport starts from a copy.
	raw, err := json.Marshal(t.HTTPTransport)
	if err != nil {
		return err
	}
	t.transports = make(map[*forward.Connection]*forward.Transport)
	for _, conn := range t.conns {
		if conn.values.Certificate == nil && !conn.service.allowsInsecure("base_url") && (conn.target == nil || len(t.conns) > 1 && !t.CustomUpstreams) {
			continue
		}
		own, err := forward.NewTransport(ctx, raw, conn.transportOptions(t.HeaderUp))
		if err != nil {
			return fmt.Errorf("connection %s: %w", conn.name, err)
		}
		t.transports[&conn.forward] = own // Cleanup is called after a failure too
	}
	if t.shared, err = forward.NewTransport(ctx, raw, forward.TransportOptions{ProxyFields: t.HeaderUp, Own: app.own}); err != nil {
		return err
	}
	for _, conn := range t.conns {
		if conn.pingTransport == nil {
			conn.pingTransport = t.transport(&conn.forward)
		}
	}
	t.HTTPTransport = t.shared.HTTPTransport
	if len(t.conns) == 1 {
		t.HTTPTransport = t.transport(&t.conns[0].forward).HTTPTransport
	}
	return nil
}

// transport returns the transport of a connection.
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

// RequestHeaderOps removes the headers that would reveal a proxy to the API (rule 17) before the user's
// header operations, so that what those set stays. Without such operations, the headers are removed
// when the request is sent.
func (t *Transport) RequestHeaderOps() *headers.HeaderOps {
	if !t.HeaderUp {
		return nil
	}
	return &headers.HeaderOps{Delete: []string{"Forwarded", "X-Forwarded-*", "Via"}}
}

// RoundTrip sends a request with the token of its connection.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	q, ok := forward.FromContext(req.Context())
	if !ok || t.own != nil && q.Conn != &t.own.forward { // it may stand in the route of another connection's handler
		return t.roundTripAlone(req)
	}
	if !t.HeaderUp && !t.LoadBalancing {
		forward.DropAddedFields(req.Header)
	}
	return q.RoundTrip(t.transport(q.Conn), req)
}

// roundTripAlone sends a request that no handler `http_helper` has admitted: one of a reverse_proxy
// without that handler, or a health check. A refusal is a response, not an error, so that it never
// counts against an upstream.
func (t *Transport) roundTripAlone(req *http.Request) (*http.Response, error) {
	if t.own == nil {
		forward.CloseBody(req.Body)
		refused := forward.NotAllowed("neither a handler http_helper nor the transport's option connection says whose token to send")
		if !isHealthCheck(req) {
			forward.Refuse(req.Context(), nil, refused)
		}
		return refused.Response(req), nil
	}
	healthCheck := isHealthCheck(req)
	who := caller{healthCheck: true}
	if !healthCheck {
		who = callerBehindProxy(req)
	}
	q, refused := t.prepareAlone(req, who)
	if refused != nil && healthCheck {
		// Without a token nothing is known about the upstream, so it counts as healthy.
		refused = &forward.Error{Status: http.StatusOK}
	}
	var res *http.Response
	var err error
	if refused == nil {
		res, err = t.transport(q.Conn).Send(req.WithContext(q), q)
		refused, _ = errors.AsType[*forward.Error](err)
	}
	if refused != nil {
		forward.CloseBody(req.Body)
		res, err = refused.Response(req), nil
	}
	if !healthCheck && q != nil {
		q.Finish(refused)
	}
	return res, err
}

// isHealthCheck reports whether reverse_proxy itself makes a request: it is none that Caddy's server has served.
func isHealthCheck(req *http.Request) bool { return req.Context().Value(caddyhttp.VarsCtxKey) == nil }

// prepareAlone admits a request, as the handler does.
func (t *Transport) prepareAlone(req *http.Request, who caller) (*forward.Request, *forward.Error) {
	refused := t.RequestPolicy.check(req, who)
	switch {
	case refused != nil && !who.healthCheck:
		forward.Refuse(req.Context(), &t.own.forward, refused)
		return nil, refused
	case refused != nil:
		return nil, refused
	case who.healthCheck:
		return t.own.forward.PrepareHealthCheck(req, &t.RequestPolicy.options)
	}
	if t.own.forward.Limits != nil {
		showOverrides(req)
	}
	return t.own.forward.Prepare(req, &t.RequestPolicy.options)
}

// showOverrides puts the fields back by which a server may take a request for another, and which reverse_proxy has
// removed because Connection names them. The request is refused for them, as the handler does it (rule 34).
func showOverrides(req *http.Request) {
	repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	named, _ := repl.GetString("http.request.header.Connection")
	for field := range strings.SplitSeq(named, ",") {
		field = http.CanonicalHeaderKey(strings.TrimSpace(field))
		if !httpguard.OverridesRequest(field) {
			continue
		}
		if value, _ := repl.GetString("http.request.header." + field); value != "" {
			req.Header[field] = []string{value}
		}
	}
}

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. Syntax:
//
//	transport http_helper {
//	    connection          <name>
//	    access_token_header <field> [<prefix>]
//	    app_authorization   replace|keep|reject
//	    on_unauthorized     retry|pass
//	    on_rate_limit       pass|retry [<wait>]
//	    replay_buffer       <size>
//	    allow_clients       [private_ranges] <ranges...>
//	    allow_hosts         <hosts...>|*
//	    caller_token_file   <path>
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
	const owner = "transport http_helper"
	if err := errors.Join(known.ReadAll(owner, own), subdirective.CheckOnce(owner, rest)); err != nil {
		return err
	}
	return s.Unmarshal(t.HTTPTransport, rest)
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

// GetUpstreams returns the address of the request's base URL.
func (UpstreamSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	q, ok := forward.FromContext(r.Context())
	if !ok {
		return nil, errors.New("upstream source http_helper: the handler http_helper must come first")
	}
	return []*reverseproxy.Upstream{{Dial: q.Target.Dial}}, nil
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
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
	_ reverseproxy.UpstreamSource                      = (*UpstreamSource)(nil)
	_ caddyfile.Unmarshaler                            = (*Transport)(nil)
	_ caddyfile.Unmarshaler                            = (*UpstreamSource)(nil)
)
