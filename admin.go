package httphelper

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// AdminAPI is the part of Caddy's admin API that shows connections and acts on them. Responses are JSON
// without secrets.
//
//   - `GET /http_helper/connections` and `/http_helper/connections/{name}`: the state of connections
//   - `GET /http_helper/connections/{name}/values`: its parameters and visible config values
//   - `GET /http_helper/connections/{name}/events`: what has happened to a connection lately
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
	const (
		connection = adminapi.ConnectionsPath + "/{name}"
		connector  = adminapi.ConnectorsPath + "/{name}"
	)
	return []caddy.AdminRoute{
		adminRoute(adminapi.ConnectionsPath, http.MethodGet, listConnections),
		adminRoute(connection, http.MethodGet, ofConnection(showConnection)),
		adminRoute(connection+adminapi.ValuesPart, http.MethodGet, ofConnection(showValues)),
		adminRoute(connection+adminapi.EventsList, http.MethodGet, ofConnection(listEvents)),
		adminRoute(connection+adminapi.RefreshAction, http.MethodPost, ofConnection(refreshConnection)),
		adminRoute(connection+adminapi.PingAction, http.MethodPost, ofConnection(pingConnection)),
		adminRoute(adminapi.ConnectorsPath, http.MethodGet, listConnectors),
		adminRoute(connector, http.MethodGet, showConnector),
	}
}

// adminHandler responds to a request with a value, as JSON.
type adminHandler = func(http.ResponseWriter, *http.Request) (any, error)

// adminRoute returns a route for one method, whose response is JSON.
func adminRoute(pattern, method string, respond adminHandler) caddy.AdminRoute {
	handler := func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != method && (r.Method != http.MethodHead || method != http.MethodGet) {
			w.Header().Set("Allow", method)
			return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("the method must be %s, not %s", method, r.Method)}
		}
		value, err := respond(w, r)
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

// activeApp returns the app of the running config, or an empty one. It is looked up per request, since
// the admin endpoint outlives configs, also rejected ones.
func activeApp() *App {
	app, err := caddy.ActiveContext().AppIfConfigured("http_helper")
	if err != nil {
		return new(App)
	}
	return app.(*App)
}

// tokenExpiries yields the running config's connections with the expiry of their live tokens.
func tokenExpiries() iter.Seq2[string, time.Time] {
	return func(yield func(string, time.Time) bool) {
		for name, conn := range activeApp().active {
			if expires := conn.tokens.source.Status().Expires; !expires.IsZero() && !yield(name, expires) {
				return
			}
		}
	}
}

// ofConnection returns a handler of requests that name a connection.
func ofConnection(respond func(http.ResponseWriter, *http.Request, *activeConnection) (any, error)) adminHandler {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		conn, err := find("connection", r.PathValue("name"), activeApp().active)
		if err != nil {
			return nil, err
		}
		return respond(w, r, conn)
	}
}

// find returns what has a name, or the admin API's error that there is none.
func find[V any](what, name string, known map[string]V) (V, error) {
	found, ok := known[name]
	if !ok {
		names := slices.Sorted(maps.Keys(known))
		return found, caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("there is no %s %q%s", what, name, subdirective.Instead(name, names, listNames(names)))}
	}
	return found, nil
}

func listConnections(http.ResponseWriter, *http.Request) (any, error) {
	app := activeApp()
	list := make([]adminapi.Connection, 0, len(app.active))
	for _, name := range slices.Sorted(maps.Keys(app.active)) {
		list = append(list, app.active[name].view())
	}
	return list, nil
}

func showConnection(_ http.ResponseWriter, _ *http.Request, conn *activeConnection) (any, error) {
	return conn.view(), nil
}

// showValues shows the values that people may see. No server is contacted.
func showValues(_ http.ResponseWriter, _ *http.Request, conn *activeConnection) (any, error) {
	shown := adminapi.Values{Parameters: []adminapi.ParameterValue{}, ConfigValues: []adminapi.ConfigValue{}}
	if conn.connector == nil {
		return shown, nil
	}
	view := conn.values.View()
	for _, p := range conn.connector.Parameters {
		value := adminapi.ParameterValue{Key: p.Key, Type: p.Type, Label: cmp.Or(p.Label, p.Key)}
		if current, ok := view.Value(placeholder.Param, p.Key); ok {
			value.Value = &current
		}
		shown.Parameters = append(shown.Parameters, value)
	}
	for _, value := range conn.connector.visibleValues() {
		value.Value = nil // as it is written
		if current, ok := view.Value(placeholder.Config, value.Key); ok {
			value.Value = &current
		}
		shown.ConfigValues = append(shown.ConfigValues, value)
	}
	return shown, nil
}

func listEvents(_ http.ResponseWriter, _ *http.Request, conn *activeConnection) (any, error) {
	past := conn.forward.Metrics.History()
	events := make([]adminapi.Event, 0, len(past))
	for _, p := range past {
		event := adminapi.Event{At: p.At.UTC(), Kind: p.Kind.String(), Status: optional(int(p.Status)), Code: optional(p.Code), Count: int(p.Count)}
		if p.Kind == telemetry.TokenObtained || p.Kind == telemetry.TokenFailed {
			seconds := p.Duration.Seconds()
			event.Duration = &seconds
		}
		events = append(events, event)
	}
	return events, nil
}

// refreshConnection replaces a token, even in a back-off. If that fails, the response has the status that
// an app would get.
func refreshConnection(w http.ResponseWriter, r *http.Request, conn *activeConnection) (any, error) {
	if err := conn.tokens.refresh(r.Context()); err != nil {
		failed := forward.NoTokenError(conn.name, err)
		if failed.RetryAfter > 0 {
			w.Header().Set("Retry-After", forward.RetryAfterSeconds(failed.RetryAfter))
		}
		return nil, caddy.APIError{HTTPStatus: failed.Status, Err: errors.New(failed.Details)}
	}
	return conn.view(), nil
}

// view returns the connection as it is now. No server is contacted.
func (c *activeConnection) view() adminapi.Connection {
	st := c.tokens.source.Status()
	urls := c.values.View()
	v := adminapi.Connection{
		Name:        c.name,
		Connector:   optional(c.connector.nameOrNone()),
		State:       st.State,
		AuthMethod:  c.service.authMethod(),
		TokenURL:    optional(urls.TokenURL()),
		BaseURL:     urls.BaseURL(),
		Scopes:      c.scopesView(st),
		Counts:      adminapi.Counts{TokenRequests: st.Requests, TokenFailures: st.Failures, Rejected: st.Rejected, Adopted: st.Adoptions},
		LastError:   failure(st.LastError),
		NextAttempt: optional(shown(st.NextAttempt)),
		Shared:      c.sharedView(),
		Allow:       allowView(c.allowed),
	}
	if c.connector != nil {
		v.ConnectorAllow = allowView(c.connector.Allow)
	}
	if !st.Expires.IsZero() {
		v.Token = &adminapi.Token{Obtained: shown(st.Obtained), Expires: shown(st.Expires), Refresh: shown(st.Refresh), Source: adminapi.SourceOwn}
		if st.Adopted {
			v.Token.Source = adminapi.SourceShared
		}
	}
	return v
}

// sharedView says whether replicas share the connection's token.
func (c *activeConnection) sharedView() adminapi.Shared {
	if c.tokens.user.Shared == nil {
		return adminapi.Shared{State: adminapi.SharedOff}
	}
	state, lastError := c.tokens.shares.fleet.State()
	return adminapi.Shared{State: state, LastError: optional(lastError)}
}

func (c *activeConnection) scopesView(st token.Status) adminapi.Scopes {
	scopes := adminapi.Scopes{Requested: listed(c.values.Spec.RequestedScopes), Granted: listed(st.Granted), Missing: listed(st.Missing)}
	if st.Expires.IsZero() {
		return scopes
	}
	confirmed := st.Granted != nil
	if scopes.Confirmed = &confirmed; !confirmed {
		scopes.Granted = scopes.Requested
	}
	return scopes
}

func failure(e *token.StatusError) *adminapi.Failure {
	if e == nil {
		return nil
	}
	return &adminapi.Failure{At: shown(e.At), Class: e.Class, Code: optional(e.Code), Message: e.Message}
}

// shown returns a time as the admin API shows it.
func shown(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

// optional returns nil for a zero value, so that the JSON has null.
func optional[T comparable](value T) *T {
	if value == *new(T) {
		return nil
	}
	return &value
}

// listed returns an empty list instead of nil, so that the JSON has an array.
func listed(values []string) []string { return append([]string{}, values...) }

func listConnectors(http.ResponseWriter, *http.Request) (any, error) {
	app := activeApp()
	list := make([]adminapi.Connector, 0, len(app.Connectors))
	for _, name := range slices.Sorted(maps.Keys(app.Connectors)) {
		list = append(list, app.form(app.Connectors[name]))
	}
	return list, nil
}

func showConnector(_ http.ResponseWriter, r *http.Request) (any, error) {
	app := activeApp()
	connector, err := find("connector", r.PathValue("name"), app.Connectors)
	if err != nil {
		return nil, err
	}
	return app.form(connector), nil
}

func (a *App) form(c *Connector) adminapi.Connector {
	form := c.form()
	for _, name := range slices.Sorted(maps.Keys(a.active)) {
		if a.active[name].connector == c {
			form.Connections = append(form.Connections, name)
		}
	}
	return form
}

// form returns what the connector asks of a new connection.
func (c *Connector) form() adminapi.Connector {
	return adminapi.Connector{
		Name:         c.name,
		Label:        cmp.Or(c.Label, c.name),
		AuthMethod:   c.authMethod(),
		TokenURL:     optional(resolve.WithoutQuery(c.TokenURL)),
		BaseURL:      resolve.WithoutQuery(c.BaseURL),
		Fields:       append(c.fixedFields(), c.parameterFields()...),
		ConfigValues: c.visibleValues(),
		Allow:        allowView(c.Allow),
		Scopes:       c.scopeViews(),
		Permissions: adminapi.Permissions{
			CustomizeScopes:  c.CustomizeScopes,
			AdditionalScopes: c.AdditionalScopes,
			ScopesDelimiter:  cmp.Or(c.ScopesDelimiter, delimiterSpace),
			ScopesHelp:       optional(c.ScopesHelp),
		},
		Connections: []string{},
	}
}

// fixedFields returns the fields for the credentials that the authentication method needs.
func (c *Connector) fixedFields() []adminapi.Field {
	fields := []adminapi.Field{{Key: "client_id", Type: typeText, Label: cmp.Or(c.ClientIDLabel, "Client ID"), Fixed: true}}
	method, _ := oauth.Method(c.AuthMethod)
	if method.NeedsSecret {
		fields = append(fields, adminapi.Field{Key: "client_secret", Type: typePassword, Label: cmp.Or(c.ClientSecretLabel, "Client secret"), Fixed: true})
	}
	if method.NeedsKey {
		fields = append(fields, adminapi.Field{Key: "client_key_file", Type: adminapi.TypeFile, Label: "Private key file", Fixed: true})
	}
	if method.NeedsCertificate {
		fields = append(fields,
			adminapi.Field{Key: "client_certificate_file", Type: adminapi.TypeFile, Label: "Client certificate file", Fixed: true},
			adminapi.Field{Key: "client_certificate_key_file", Type: adminapi.TypeFile, Label: "Client certificate's key file", Fixed: true})
	}
	return fields
}

func (c *Connector) parameterFields() []adminapi.Field {
	fields := make([]adminapi.Field, 0, len(c.Parameters))
	for _, p := range c.Parameters {
		field := adminapi.Field{Key: p.Key, Type: p.Type, Label: cmp.Or(p.Label, p.Key), Default: p.Default}
		for _, o := range p.Options {
			field.Options = append(field.Options, adminapi.Option{Value: o.Value, Label: cmp.Or(o.Label, o.Value)})
		}
		fields = append(fields, field)
	}
	return fields
}

func (c *Connector) visibleValues() []adminapi.ConfigValue {
	values := []adminapi.ConfigValue{}
	for _, v := range c.ConfigValues {
		if v.Hidden {
			continue
		}
		view := adminapi.ConfigValue{Key: v.Key, Type: v.Type, Label: cmp.Or(v.Label, v.Key), Flow: optional(v.Flow)}
		if v.Type != typePassword {
			view.Value = optional(v.Value)
		}
		values = append(values, view)
	}
	return values
}

func (c *Connector) scopeViews() []adminapi.Scope {
	scopes := make([]adminapi.Scope, 0, len(c.Scopes))
	for _, s := range c.Scopes {
		scopes = append(scopes, adminapi.Scope{Name: s.Name, Required: s.Required, Description: optional(s.Description)})
	}
	return scopes
}

func pingConnection(_ http.ResponseWriter, r *http.Request, conn *activeConnection) (any, error) {
	return conn.pingView(r.Context()), nil
}

// pingView makes the request that proves the connection, and returns its result as it may be shown.
func (c *activeConnection) pingView(ctx context.Context) adminapi.Ping {
	p := c.ping(ctx)
	return adminapi.Ping{Working: p.Working, Response: adminapi.PingResponse{StatusCode: p.Status, Message: p.Message, Body: p.Body}}
}

// ping makes the request that proves the connection, in the same way as the app's requests. Without a
// configured ping, a token is proof.
func (c *activeConnection) ping(ctx context.Context) forward.PingResult {
	current, err := c.tokens.source.Token(ctx)
	if err != nil {
		return forward.FailedPing("there is no token: %v", oauth.AsError(err))
	}
	ping := c.service.Ping
	if ping == nil {
		return forward.PingResult{Working: true, Message: c.aboutToken() + "; no request was made to the API, because no ping is configured"}
	}
	target, err := c.forward.Target(ctx)
	if err != nil {
		return forward.FailedPing("what requests to the API are made of is not known: %v", oauth.AsError(err))
	}
	return c.pingTransport.Ping(ctx, forward.PingRequest{
		Method: cmp.Or(ping.Method, http.MethodGet), Path: ping.Path, Statuses: ping.Statuses,
		Connection: &c.forward, Options: c.pingOptions, Target: target, Dial: c.dialInfo(target), Token: current,
		RequestedScopes: c.values.Spec.RequestedScopes, MissingScopes: c.tokens.source.Status().Missing,
		Secrets: c.values.KnownSecrets(),
	})
}

// aboutToken says of a connection with a usable token how that came.
func (c *activeConnection) aboutToken() string {
	if failed := c.tokens.source.Status().LastError; failed != nil {
		return "the current token is usable, but getting a new one failed: " + failed.Message
	}
	return "a token was obtained"
}

// Interface guards
var _ caddy.AdminRouter = (*AdminAPI)(nil)
