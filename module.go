// Package httphelper is a Caddy plugin: an outbound authenticating reverse proxy that obtains
// OAuth 2.0 client-credentials tokens and puts them into the requests that an app sends to a
// protected API.
//
// A request passes the handler `http_helper`, which finds its connection and makes sure that there
// is a token, then reverse_proxy, then the transport `http_helper`, which puts the token in.
package httphelper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Handler{})
	caddy.RegisterModule(Transport{})
	caddy.RegisterModule(UpstreamSource{})
	caddy.RegisterModule(App{})
	caddy.RegisterModule(Health{})
	caddy.RegisterModule(AdminAPI{})
	caddy.RegisterModule(ForwardProxyURL{})
}

// Handler makes sure, before anything is proxied, that a request may be made and that there is a
// token for it. It stands before `reverse_proxy` with the transport `http_helper`, which sends the
// token; the Caddyfile directive `http_helper` writes both.
//
// Without a token the request is not sent: the app gets an error with the header `Proxy-Status:
// http_helper; error=…` (RFC 9209), which `handle_errors` sees.
type Handler struct {
	// The connection's name, or a placeholder that is resolved per request to one of
	// `connections`. Required.
	Connection string `json:"connection,omitempty"`

	// Defines the connection named by `connection` in place, without a connector. Default: it is
	// one of the app's.
	Define *Connection `json:"define,omitempty"`

	// The connections that a placeholder may choose. Required with a placeholder.
	Connections []string `json:"connections,omitempty"`

	Injection

	chosen  *activeConnection            // nil with a placeholder
	choices map[string]*activeConnection // with a placeholder
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.http_helper",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the handler's connections in the app, or defines its own.
func (h *Handler) Provision(ctx caddy.Context) error {
	app, err := appOf(ctx)
	if err != nil {
		return err
	}
	if err := h.provision(app); err != nil {
		return fmt.Errorf("http_helper %s: %w", h.Connection, err)
	}
	return nil
}

func (h *Handler) provision(app *App) error {
	if err := h.Injection.provision(); err != nil {
		return err
	}
	if strings.Contains(h.Connection, "{") {
		return h.provisionChoices(app)
	}
	if len(h.Connections) > 0 {
		return errors.New("connections: only with a placeholder that chooses among them")
	}
	var err error
	if h.Define != nil {
		h.chosen, err = app.define(h.Connection, h.Define)
	} else {
		h.chosen, err = app.connection(h.Connection)
	}
	if err != nil {
		return err
	}
	return h.chosen.accepts(&h.Injection)
}

func (h *Handler) provisionChoices(app *App) error {
	if h.Define != nil {
		return errors.New("a connection defined in place needs a name, not a placeholder")
	}
	if len(h.Connections) == 0 {
		return errors.New("connections: name those that the placeholder may choose")
	}
	h.choices = make(map[string]*activeConnection, len(h.Connections))
	var errs []error
	for _, name := range h.Connections {
		conn, err := app.connection(name)
		if err == nil {
			err = conn.accepts(&h.Injection)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		h.choices[name] = conn
	}
	return errors.Join(errs...)
}

// ServeHTTP lets a request pass when there is a token for it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	g, refused := h.admit(r)
	if refused != nil {
		return refused.answer(w, r)
	}
	defer g.count(unsent)
	g.toApp = w.Header()
	g.writer.ResponseWriter, g.writer.grant = w, g
	err := g.serve(next, r)
	// What stands there after the answer are trailers; one of ours can only be forged.
	dropOwnProxyStatus(w.Header())
	if err == nil {
		return nil
	}
	if g.refused != nil {
		return g.refused.answer(w, r)
	}
	return g.describe(w, r, err)
}

// serve has a request answered. Reverse_proxy panics when the answer breaks off or the app leaves, and
// the access log is written all the same.
func (g *grant) serve(next caddyhttp.Handler, r *http.Request) error {
	defer g.dropEchoes()
	return next.ServeHTTP(&g.writer, r.WithContext(g))
}

// admit checks a request and gets what it needs.
func (h *Handler) admit(r *http.Request) (g *grant, refused *refusal) {
	conn := h.chosen
	if refused = h.Injection.refuses(r); refused == nil && conn == nil {
		conn, refused = h.choose(r)
	}
	if refused == nil {
		g, refused = conn.grant(r, &h.Injection)
	}
	if refused != nil {
		conn.count(nil, refused)
	}
	return g, refused
}

// choose finds the connection that the placeholder names.
func (h *Handler) choose(r *http.Request) (*activeConnection, *refusal) {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if conn := h.choices[repl.ReplaceAll(h.Connection, "")]; conn != nil {
			return conn, nil
		}
	}
	return nil, badRequest("no such connection")
}

// refuses checks all of a request that does not depend on its connection (rules 17, 20, 21).
func (i *Injection) refuses(r *http.Request) *refusal {
	if !i.permits(r.RemoteAddr) {
		return &refusal{status: http.StatusForbidden, kind: "http_request_denied", details: "the caller's address is not allowed: see allow_clients"}
	}
	if isCrossSite(r.Header) {
		return &refusal{status: http.StatusForbidden, kind: "http_request_denied", details: "the request comes from a page of another site"}
	}
	if refusedMethod(r.Method) {
		return &refusal{status: http.StatusMethodNotAllowed, kind: "http_request_error", details: "the methods TRACE and CONNECT are not forwarded"}
	}
	if i.AppAuthorization == authorizationReject && len(r.Header["Authorization"]) > 0 {
		return badRequest("the request has an Authorization of its own: see app_authorization")
	}
	if r.URL.Opaque != "" {
		return badRequest("the request's target is not a path")
	}
	if err := cleanPathOf(r.URL); err != nil {
		return badRequest("the request's path is refused: " + err.Error())
	}
	return nil
}

// isCrossSite tells whether a browser says that a page of another site makes the request: such a page
// must not use the token just because its reader is on this machine.
func isCrossSite(header http.Header) bool {
	return slices.ContainsFunc(header["Sec-Fetch-Site"], func(site string) bool { return strings.EqualFold(site, "cross-site") })
}

// refusedMethod tells whether a method, in any case, could show the app our header or make a tunnel.
func refusedMethod(method string) bool {
	return strings.EqualFold(method, http.MethodTrace) || strings.EqualFold(method, http.MethodConnect)
}

// grant gets the token and the place for a request. Waiting ends with the request.
func (c *activeConnection) grant(r *http.Request, i *Injection) (*grant, *refusal) {
	g := &grant{Context: r.Context(), conn: c, injection: i}
	g.keep = i.AppAuthorization == authorizationKeep && len(r.Header["Authorization"]) > 0
	var err error
	if !g.keep {
		_, err = c.token(r.Context())
	}
	if err == nil {
		g.target, err = c.target(r.Context())
	}
	if err != nil {
		return nil, noToken(c.name, err)
	}
	return g, nil
}

// grantCtxKey is where a request's context holds its *grant. Nobody else can name it.
type grantCtxKey struct{}

// grant is what the handler hands to the transport: how to send one request. It holds no token:
// the transport takes the newest. It is the request's context itself, which saves an allocation.
type grant struct {
	context.Context

	conn      *activeConnection
	injection *Injection
	target    *apiTarget
	keep      bool     // the app's own Authorization goes on, and no token
	refused   *refusal // why the transport did not send, the last time
	answered  bool     // whether the API has answered, the last time
	counted   bool     // whether the metrics know what became of it

	writer answerWriter
	toApp  http.Header   // of the answer; nil: no handler of ours sees it
	token  string        // the one that was sent last
	older  []string      // those that were sent before it
	hidden []hiddenValue // of answers' headers
}

// Value implements context.Context.
func (g *grant) Value(key any) any {
	if _, ours := key.(grantCtxKey); ours {
		return g
	}
	return g.Context.Value(key)
}

func appOf(ctx caddy.Context) (*App, error) {
	app, err := ctx.App("http_helper")
	if err != nil {
		return nil, err
	}
	return app.(*App), nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
