package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// AdminAPI is the part of Caddy's admin API that shows and steers connections. Answers are JSON and
// hold no secret.
//
//   - `GET /http_helper/connections` and `/http_helper/connections/{name}`: how they are doing
//   - `POST /http_helper/connections/{name}/refresh`: fetch a new token now
//   - `POST /http_helper/connections/{name}/ping`: make the request that proves the connection
//   - `GET /http_helper/connectors` and `/http_helper/connectors/{name}`: what a new connection is asked
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.http_helper",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Routes implements caddy.AdminRouter.
func (AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		adminRoute("/http_helper/connections", http.MethodGet, listConnections),
		adminRoute("/http_helper/connections/{name}", http.MethodGet, showConnection),
		adminRoute("/http_helper/connections/{name}/refresh", http.MethodPost, refreshConnection),
		adminRoute("/http_helper/connections/{name}/ping", http.MethodPost, pingConnection),
		adminRoute("/http_helper/connectors", http.MethodGet, listConnectors),
		adminRoute("/http_helper/connectors/{name}", http.MethodGet, showConnector),
	}
}

// adminRoute is a route that answers one method with JSON.
func adminRoute(pattern, method string, answer func(http.ResponseWriter, *http.Request) (any, error)) caddy.AdminRoute {
	handler := func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != method && (r.Method != http.MethodHead || method != http.MethodGet) {
			w.Header().Set("Allow", method)
			return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("%s is answered here, not %s", method, r.Method)}
		}
		value, err := answer(w, r)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, value)
	}
	return caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(handler)}
}

func writeJSON(w http.ResponseWriter, status int, value any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// activeApp is the app of the running config, or an empty one. The admin endpoint outlives configs,
// and a config that was rejected too.
func activeApp() *App {
	app, err := caddy.ActiveContext().AppIfConfigured("http_helper")
	if err != nil {
		return new(App)
	}
	return app.(*App)
}

// activeConnections are the running config's connections, by name.
func activeConnections() []*activeConnection {
	app := activeApp()
	conns := make([]*activeConnection, 0, len(app.active))
	for _, name := range sortedKeys(app.active) {
		conns = append(conns, app.active[name])
	}
	return conns
}

// tokenExpiries yields the running config's connections with the expiry of their live tokens.
func tokenExpiries() iter.Seq2[string, time.Time] {
	return func(yield func(string, time.Time) bool) {
		for _, conn := range activeConnections() {
			if expires := conn.tokens.source.Status().Expires; !expires.IsZero() && !yield(conn.name, expires) {
				return
			}
		}
	}
}

// named finds the connection that a request is about.
func named(r *http.Request) (*activeConnection, error) {
	app := activeApp()
	if conn := app.active[r.PathValue("name")]; conn != nil {
		return conn, nil
	}
	return nil, caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("there is no connection %q; %s", r.PathValue("name"), thereAre(sortedKeys(app.active)))}
}

func listConnections(http.ResponseWriter, *http.Request) (any, error) {
	conns := activeConnections()
	list := make([]connectionView, 0, len(conns))
	for _, conn := range conns {
		list = append(list, conn.view())
	}
	return list, nil
}

func showConnection(_ http.ResponseWriter, r *http.Request) (any, error) {
	conn, err := named(r)
	if err != nil {
		return nil, err
	}
	return conn.view(), nil
}

// refreshConnection replaces a token, whatever the back-off says. On failure it answers with the
// status that an app would get.
func refreshConnection(w http.ResponseWriter, r *http.Request) (any, error) {
	conn, err := named(r)
	if err != nil {
		return nil, err
	}
	if err := conn.refresh(r.Context()); err != nil {
		failed := forward.NoTokenError(conn.name, err)
		if failed.RetryAfter > 0 {
			w.Header().Set("Retry-After", forward.RetryAfterSeconds(failed.RetryAfter))
		}
		return nil, caddy.APIError{HTTPStatus: failed.Status, Err: errors.New(failed.Details)}
	}
	return conn.view(), nil
}

// connectionView is a connection as people see it.
type connectionView struct {
	Name       string      `json:"name"`
	Connector  *string     `json:"connector"` // null: defined without one
	State      token.State `json:"state"`
	AuthMethod string      `json:"auth_method"`
	TokenURL   *string     `json:"token_url"` // null: not known before the issuer was asked
	BaseURL    string      `json:"base_url"`
	Scopes     scopesView  `json:"scopes"`
	Token      *tokenView  `json:"token"` // null: no live one
	Counts     countsView  `json:"counts"`
	LastError  *errorView  `json:"last_error"`   // null: the last attempt did not fail
	NextTry    *time.Time  `json:"next_attempt"` // null: not in a back-off
}

type scopesView struct {
	Requested []string `json:"requested"`
	Granted   []string `json:"granted"` // none without a token; as requested when the server does not list them
	Missing   []string `json:"missing"`
}

type tokenView struct {
	Obtained time.Time `json:"obtained"`
	Expires  time.Time `json:"expires"`
	Refresh  time.Time `json:"refresh"`
}

type countsView struct {
	TokenRequests uint64 `json:"token_requests"`
	TokenFailures uint64 `json:"token_failures"`
	Rejected      uint64 `json:"rejected"`
}

type errorView struct {
	At      time.Time   `json:"at"`
	Class   oauth.Class `json:"class"`
	Code    *string     `json:"code"` // null: the server gave none that may be shown
	Message string      `json:"message"`
}

// view is the connection as it is now. Nobody is contacted for it.
func (c *activeConnection) view() connectionView {
	st := c.tokens.source.Status()
	urls := c.values.View()
	v := connectionView{
		Name:       c.name,
		Connector:  optional(c.config.Connector),
		State:      st.State,
		AuthMethod: c.service.authMethod(),
		TokenURL:   optional(urls.TokenURL()),
		BaseURL:    urls.BaseURL(),
		Scopes:     c.scopesView(st),
		Counts:     countsView{TokenRequests: st.Requests, TokenFailures: st.Failures, Rejected: st.Rejected},
		LastError:  errorViewOf(st.LastError),
		NextTry:    optionalTime(st.NextAttempt),
	}
	if !st.Expires.IsZero() {
		v.Token = &tokenView{Obtained: shown(st.Obtained), Expires: shown(st.Expires), Refresh: shown(st.Refresh)}
	}
	return v
}

func (c *activeConnection) scopesView(st token.Status) scopesView {
	granted := st.Granted
	if granted == nil && !st.Expires.IsZero() {
		granted = c.values.Spec.RequestedScopes
	}
	return scopesView{Requested: listed(c.values.Spec.RequestedScopes), Granted: listed(granted), Missing: listed(st.Missing)}
}

func errorViewOf(e *token.StatusError) *errorView {
	if e == nil {
		return nil
	}
	return &errorView{At: shown(e.At), Class: e.Class, Code: optional(e.Code), Message: e.Message}
}

// shown is a time as the API shows it.
func shown(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = shown(t)
	return &t
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// listed makes an empty array of nothing.
func listed(values []string) []string {
	if values == nil {
		return []string{}
	}
	return values
}

// Interface guards
var _ caddy.AdminRouter = (*AdminAPI)(nil)
