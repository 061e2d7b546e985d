package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// Transport sends requests to the API of a connection, with the connection's token. It wraps
// reverse_proxy's `http` transport, whose options it understands. One has another default:
// `compression` is off, so that the app's `Accept-Encoding` and the API's answer stay as they are.
//
// It is the last to touch a request: the token goes only to the host of the base URL, under it, and
// only over TLS or to loopback, whatever upstream was chosen. A request without a grant of the
// handler `http_helper` and without a connection of the transport's own is refused.
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

	Injection

	own    *activeConnection
	conns  []*activeConnection // all that the config names
	routes map[*activeConnection]*route
	shared *route // for connections without a route of their own
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.http_helper",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision finds the connections and builds their ways to the API.
func (t *Transport) Provision(ctx caddy.Context) error {
	app, err := appOf(ctx)
	if err != nil {
		return err
	}
	if t.HTTPTransport == nil {
		t.HTTPTransport = new(reverseproxy.HTTPTransport)
	}
	if err := t.Injection.provision(); err != nil {
		return fmt.Errorf("transport http_helper: %w", err)
	}
	if t.conns, err = t.connections(app); err != nil {
		return fmt.Errorf("transport http_helper: %w", err)
	}
	return t.provisionRoutes(ctx, t.conns)
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
			err = errors.Join(conn.accepts(&t.Injection), conn.acceptsTransport(t.HTTPTransport))
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

// provisionRoutes gives a route of its own to every connection that needs one, and the shared one
// to the rest.
func (t *Transport) provisionRoutes(ctx caddy.Context, conns []*activeConnection) error {
	// Provisioning fills in the configuration, so each route starts from a copy.
	raw, err := json.Marshal(t.HTTPTransport)
	if err != nil {
		return err
	}
	t.routes = make(map[*activeConnection]*route)
	for _, conn := range conns {
		if !conn.needsOwnRoute(len(conns) == 1 || t.CustomUpstreams) {
			continue
		}
		r, err := newRoute(ctx, raw, conn, t.HeaderUp)
		if err != nil {
			return fmt.Errorf("transport http_helper: connection %s: %w", conn.name, err)
		}
		t.routes[conn] = r // Cleanup is called after a failure too
	}
	if t.shared, err = newRoute(ctx, raw, nil, t.HeaderUp); err != nil {
		return fmt.Errorf("transport http_helper: %w", err)
	}
	for _, conn := range conns {
		if conn.way == nil {
			conn.way = t.way(conn)
		}
	}
	t.HTTPTransport = t.shared.HTTPTransport
	if len(conns) == 1 && t.routes[conns[0]] != nil {
		t.HTTPTransport = t.routes[conns[0]].HTTPTransport
	}
	return nil
}

// Cleanup closes idle connections to the API.
func (t *Transport) Cleanup() error {
	var errs []error
	for _, r := range t.routes {
		errs = append(errs, r.Cleanup())
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
	g, ok := req.Context().Value(grantCtxKey{}).(*grant)
	if !ok {
		return t.roundTripAlone(req)
	}
	g.refused, g.answered = nil, false // of an attempt before
	if !t.HeaderUp && !t.LoadBalancing {
		// Nobody needs these in reverse_proxy's copy any more. They need not be copied, nor logged.
		for _, field := range addedFields {
			delete(req.Header, field)
		}
	}
	res, refused, err := t.send(req, g)
	g.count(refused)
	if refused != nil {
		closeBody(req.Body)
		if refused.gate {
			g.refused = refused
			return nil, errors.New(refused.details)
		}
		// A missing token is no failure of the upstream.
		g.answered = true
		return refused.response(req), nil
	}
	return res, err
}

// roundTripAlone sends a request that no handler of ours has seen: of a transport used by hand, or
// a health check. Refusals are answers, so that they never count against an upstream.
func (t *Transport) roundTripAlone(req *http.Request) (*http.Response, error) {
	if t.own == nil {
		closeBody(req.Body)
		return notAllowed("neither a handler http_helper nor the transport's option connection says whose token to send").response(req), nil
	}
	healthCheck := req.Context().Value(caddyhttp.VarsCtxKey) == nil
	refused := t.Injection.refuses(req)
	var g *grant
	if refused == nil {
		g, refused = t.own.grant(req, &t.Injection)
	}
	if refused != nil && healthCheck {
		// Without a token nothing is known about the upstream, so nothing is held against it.
		refused = &refusal{status: http.StatusOK}
	}
	var res *http.Response
	var err error
	if refused == nil {
		res, refused, err = t.send(req, g)
	}
	if !healthCheck {
		t.own.count(g, refused)
	}
	if refused != nil {
		closeBody(req.Body)
		return refused.response(req), nil
	}
	return res, err
}

// way is the route of a connection.
func (t *Transport) way(conn *activeConnection) *route {
	if way := t.routes[conn]; way != nil {
		return way
	}
	return t.shared
}

// send checks the final request against the base URL (rule 16), sends it, and once more with a
// newer token when the API rejects the first (rule 18).
func (t *Transport) send(req *http.Request, g *grant) (*http.Response, *refusal, error) {
	way := t.way(g.conn)
	if refused := way.refuses(req, g); refused != nil {
		return nil, refused, nil
	}
	var token *grantedToken
	if !g.keep {
		var err error
		if token, err = g.conn.token(req.Context()); err != nil {
			return nil, noToken(g.conn.name, err), nil
		}
	}
	res, err := way.exchange(req, g, token)
	if err != nil {
		if refused, ok := errors.AsType[*refusalError](err); ok {
			return nil, refused.refusal, nil
		}
		return nil, nil, quietError(err)
	}
	g.answered = true
	g.countUnauthorized(res, token)
	// The response must not lead to the request that carries the token.
	res.Request = req
	dropOwnProxyStatus(res.Header)
	g.rewriteLocations(req, res.Header)
	g.hideEchoes(res)
	quiet(res)
	return res, nil, nil
}

// rewriteLocations makes the API's redirects lead through the sidecar (rule 17).
func (g *grant) rewriteLocations(req *http.Request, header http.Header) {
	for _, field := range []string{"Location", "Content-Location"} {
		for i, location := range header[field] {
			location = rewriteLocation(location, g.target.base, g.target.url(req.URL), strippedPrefix(req))
			header[field][i] = withoutOurQuery(location, g.target.query)
		}
	}
}

// strippedPrefix is what handle_path or uri took off the front of the path before us.
func strippedPrefix(req *http.Request) string {
	original, ok := req.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || original.URL == nil {
		return ""
	}
	before, now := escapedPath(original.URL), escapedPath(req.URL)
	if prefix, ok := strings.CutSuffix(before, now); ok {
		return prefix
	}
	if now == "/" {
		return before // all of it was taken off
	}
	return ""
}

// apiTarget is the place of one connection's API, and what every request to it carries.
type apiTarget struct {
	base     *url.URL // its path has no trailing slash
	dial     string   // host:port of base
	insecure bool     // whether http to other hosts than loopback is allowed
	headers  []Field  // canonical names
	query    []Field
	secrets  []string // that are known to be in it
}

// keys are the values that requests carry and that may be secret. They may be older than what would
// be found now.
func (a *apiTarget) keys() []string {
	keys := slices.Clone(a.secrets)
	for _, field := range slices.Concat(a.headers, a.query) {
		if len(field.Value) >= minSentKey {
			keys = append(keys, field.Value)
		}
	}
	return keys
}

// url is where a request for the path and query of u goes.
func (a *apiTarget) url(u *url.URL) *url.URL {
	out := *u
	a.place(&out)
	return &out
}

// place points u, a request's path and query, at the API.
func (a *apiTarget) place(u *url.URL) {
	u.Path, u.RawPath = joinPath(a.base, u)
	u.Scheme, u.Host = a.base.Scheme, a.base.Host
	u.User, u.Opaque, u.Fragment, u.RawFragment = nil, "", "", ""
	if len(a.query) > 0 {
		u.RawQuery = withQuery(u.RawQuery, a.query)
	}
}

// GetUpstreams returns the address of the request's base URL.
func (UpstreamSource) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	g, ok := r.Context().Value(grantCtxKey{}).(*grant)
	if !ok {
		return nil, errors.New("upstream source http_helper: the handler http_helper must come first")
	}
	return []*reverseproxy.Upstream{{Dial: g.target.dial}}, nil
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
