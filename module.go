// Package httphelper is a Caddy plugin: an outbound reverse proxy that obtains OAuth 2.0 tokens by the
// client-credentials grant and adds them to the requests that an app sends to a protected API.
//
// A request passes the handler `http_helper`, which finds its connection and makes sure that there is a
// token, and forwards the request with the token. Where options of reverse_proxy are needed, that comes
// next, and its transport `http_helper` adds the token.
//
// This package contains Caddy's modules, their JSON configuration and the Caddyfile. What runs below
// them is in internal/, where nothing knows the configuration.
package httphelper

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
)

func init() {
	caddy.RegisterModule(Handler{})
	caddy.RegisterModule(Transport{})
	caddy.RegisterModule(UpstreamSource{})
	caddy.RegisterModule(App{})
	caddy.RegisterModule(Health{})
	caddy.RegisterModule(AdminAPI{})
	caddy.RegisterModule(httptransport.ProxyURL{})
	caddy.RegisterModule(flows.Request{})
	caddy.RegisterModule(flows.Template{})
}

// Handler checks that a request is allowed and that there is a token for it. With a `transport` it then
// forwards the request to the API. Without one it comes before a `reverse_proxy` with the transport
// `http_helper`, which sends the token. The Caddyfile directive `http_helper` makes the first, or both if
// it has options of reverse_proxy.
//
// A request that is not admitted fails with an error and the header `Proxy-Status: http_helper;
// error=…` (RFC 9209), which `handle_errors` can handle.
type Handler struct {
	// The name of the connection, or a placeholder that is resolved per request to one of
	// `connections`. Required.
	Connection string `json:"connection,omitempty"`

	// Defines the connection in place, without a connector; `connection` names it. Default: the
	// connection is one of the app `http_helper`.
	Define *Connection `json:"define,omitempty"`

	// The names of the connections that a placeholder may choose. Required with a placeholder.
	Connections []string `json:"connections,omitempty"`

	// The options of reverse_proxy's `http` transport, with the defaults of the transport `http_helper`. With them the handler forwards the requests that it
	// admits itself: it sets no placeholders `{http.reverse_proxy.*}`, and its API is not in reverse_proxy's
	// list of upstreams. Default: none, the next handler gets the requests.
	Transport *reverseproxy.HTTPTransport `json:"transport,omitempty"`

	// How often a response is flushed to the app while it is copied. Negative: after each piece. Event
	// streams and responses of unknown length are always flushed at once. Only with `transport`. Default:
	// 0, when the buffer is full.
	FlushInterval caddy.Duration `json:"flush_interval,omitempty"`

	RequestPolicy

	connection  *activeConnection            // nil with a placeholder
	connections map[string]*activeConnection // all that may be chosen, by name
	transport   *Transport                   // nil: the next handler forwards
	proxy       *forward.Proxy
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.http_helper",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the handler's connections in the app, or defines one in place.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := appOf(ctx)
	if err != nil {
		return err
	}
	if err = h.provision(app); err == nil {
		err = h.provisionProxy(ctx, app)
	}
	if err != nil && strings.HasPrefix(err.Error(), "connection ") {
		return err // which Caddy's steps precede already
	}
	return prefixAll("http_helper "+h.Connection, err)
}

// provisionProxy makes the handler forward requests itself, if it has a transport.
func (h *Handler) provisionProxy(ctx caddy.Context, app *App) error {
	if h.Transport == nil {
		if h.FlushInterval != 0 {
			return errors.New("flush_interval needs a transport; without one, the reverse_proxy after this handler has the option")
		}
		return nil
	}
	if h.Transport.ProxyProtocol != "" {
		return errors.New("transport proxy_protocol needs a reverse_proxy with the transport http_helper after this handler, which has no transport then")
	}
	names := h.Connections
	if names == nil {
		names = []string{h.Connection}
	}
	h.transport = &Transport{HTTPTransport: h.Transport, Connections: names, RequestPolicy: RequestPolicy{AccessTokenHeader: h.AccessTokenHeader}}
	h.proxy = forward.NewProxy(h.transport.transport, time.Duration(h.FlushInterval), app.logger)
	return h.transport.provision(ctx)
}

// Cleanup closes upgraded connections and idle connections to the API.
func (h *Handler) Cleanup() error {
	if h.transport == nil {
		return nil
	}
	h.proxy.Close()
	return h.transport.Cleanup()
}

func (h *Handler) provision(app *App) error {
	if err := h.RequestPolicy.provision(); err != nil {
		return err
	}
	names := []string{h.Connection}
	switch chooses := strings.Contains(h.Connection, "{"); {
	case !chooses && len(h.Connections) > 0:
		return errors.New("connections: only with a placeholder that chooses among them")
	case chooses && h.Define != nil:
		return errors.New("a connection defined in place needs a name, not a placeholder")
	case chooses && len(h.Connections) == 0:
		return errors.New("connections: name those that the placeholder may choose")
	case chooses:
		names = h.Connections
	case h.Define != nil:
		if err := app.define(h.Connection, h.Define); err != nil {
			return err
		}
	}
	conns, err := app.use(&h.RequestPolicy, names...)
	h.connections = make(map[string]*activeConnection, len(conns))
	for _, conn := range conns {
		h.connections[conn.name] = conn
	}
	h.connection = h.connections[h.Connection]
	return err
}

// ServeHTTP forwards a request if it is admitted, or passes it to the next handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	q, refused := h.admit(r)
	if refused != nil {
		return refused.Write(w, r)
	}
	if h.proxy != nil {
		next = h.proxy
	}
	return q.Serve(w, r, next)
}

// admit checks a request and gets its token.
func (h *Handler) admit(r *http.Request) (q *forward.Request, refused *forward.Error) {
	conn := h.connection
	if refused = h.RequestPolicy.check(r, callerOf(r)); refused == nil && conn == nil {
		conn, refused = h.choose(r)
	}
	if refused == nil {
		return conn.forward.Prepare(r, &h.RequestPolicy.options)
	}
	forward.Refuse(r.Context(), conn.forwarding(), refused)
	return nil, refused
}

// choose returns the connection that the placeholder names.
func (h *Handler) choose(r *http.Request) (*activeConnection, *forward.Error) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if conn := h.connections[repl.ReplaceAll(h.Connection, "")]; conn != nil {
			return conn, nil
		}
	}
	return nil, forward.BadRequest("no such connection")
}

// appOf returns the app of the config that a module is provisioned with.
func appOf(ctx caddy.Context) (*App, error) {
	app, err := ctx.App("http_helper")
	if err != nil {
		return nil, err
	}
	return app.(*App), nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
