package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// App is Caddy's app `http_helper`: the connectors and connections of one config. Handlers and
// transports find connections here by name.
//
// Loading a config contacts nobody. All that is wrong with it is reported at once.
type App struct {
	// How services are authenticated against, by name.
	Connectors map[string]*Connector `json:"connectors,omitempty"`

	// The uses of connectors, by name.
	Connections map[string]*Connection `json:"connections,omitempty"`

	ctx         caddy.Context
	events      *telemetry.Events
	tracing     *telemetry.Tracing
	logger      *zap.Logger
	active      map[string]*activeConnection
	definitions map[string]string                      // JSON of the connections that routes define
	checked     []string                               // connections that health checks name
	transports  map[string]*reverseproxy.HTTPTransport // towards token endpoints, by configuration
}

var errNull = errors.New("it is null")

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http_helper",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision checks connectors and connections and makes them usable. Connections take the tokens
// that those of the running config hold.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Logger()
	a.active = make(map[string]*activeConnection)
	a.definitions = make(map[string]string)
	a.transports = make(map[string]*reverseproxy.HTTPTransport)
	a.tracing = new(telemetry.Tracing)
	var err error
	if a.events, err = telemetry.NewEvents(ctx); err != nil {
		return err
	}
	errs := []error{telemetry.Register(ctx.GetMetricsRegistry(), tokenExpiries)}
	broken := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(a.Connectors)) {
		err := prefixAll("connector "+name, errNull)
		if connector := a.Connectors[name]; connector != nil {
			err = connector.provision(ctx, name)
		}
		broken[name] = err != nil
		errs = append(errs, err)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Connections)) {
		config := a.Connections[name]
		switch {
		case config == nil:
			errs = append(errs, prefixAll("connection "+name, errNull))
		case broken[config.Connector]: // it cannot be judged by that
		default:
			_, err := a.activate(name, config)
			errs = append(errs, err)
		}
	}
	a.Connections = nil // active has what is needed of them
	return errors.Join(errs...)
}

// activate makes a connection usable under a name.
func (a *App) activate(name string, config *Connection) (*activeConnection, error) {
	conn := new(activeConnection)
	if err := conn.activate(a, name, config); err != nil {
		return nil, prefixAll("connection "+name, err)
	}
	a.active[name] = conn
	return conn, nil
}

// define makes a connection usable that a route defines. The same definition may come more than
// once: Caddy copies the routes of a site to each of its servers.
func (a *App) define(name string, config *Connection) (*activeConnection, error) {
	definition := string(caddyconfig.JSON(config, nil)) // activating fills it in
	conn := a.active[name]
	switch {
	case conn == nil:
		a.definitions[name] = definition
		return a.activate(name, config)
	case a.definitions[name] == definition:
		return conn, nil
	default:
		return nil, fmt.Errorf("connection %s: the name is taken by another connection", name)
	}
}

// connection finds a connection by its name.
func (a *App) connection(name string) (*activeConnection, error) {
	if conn := a.active[name]; conn != nil {
		return conn, nil
	}
	return nil, fmt.Errorf("there is no connection %q; %s", name, listNames(slices.Sorted(maps.Keys(a.active))))
}

// tokenTransport is the http transport towards token endpoints that raw configures. Connections
// with the same configuration share it.
func (a *App) tokenTransport(raw json.RawMessage) (*reverseproxy.HTTPTransport, error) {
	if t := a.transports[string(raw)]; t != nil {
		return t, nil
	}
	t, err := a.newTokenTransport(raw)
	if err == nil {
		a.transports[string(raw)] = t
	}
	return t, err
}

func (a *App) newTokenTransport(raw json.RawMessage) (*reverseproxy.HTTPTransport, error) {
	t := new(reverseproxy.HTTPTransport)
	if len(raw) > 0 {
		if err := caddy.StrictUnmarshalJSON(raw, t); err != nil {
			return nil, fmt.Errorf("token_transport: %v", err)
		}
	}
	if err := httptransport.Provision(a.ctx, t); err != nil {
		return nil, fmt.Errorf("token_transport: %v", err)
	}
	// What a server sends on an idle connection, such as the rest of a response that quotes the
	// request, would be logged by net/http.
	t.Transport.DisableKeepAlives = true
	// Responses are small. Those that are compressed all the same are decompressed in oauth.ReadBody.
	t.Transport.DisableCompression = true
	if t.Transport.MaxResponseHeaderBytes == 0 {
		t.Transport.MaxResponseHeaderBytes = oauth.MaxResponseBytes
	}
	return t, nil
}

// Start lets the connections' settings count, and fetches the tokens of those that are kept warm.
func (a *App) Start() error {
	if err := a.checkHealthNames(); err != nil {
		return err
	}
	a.findUpstreams()
	for _, name := range slices.Sorted(maps.Keys(a.active)) {
		conn := a.active[name]
		if err := conn.providePingTransport(a.ctx); err != nil {
			return err
		}
		conn.tokens.source.Start(conn.tokens.user)
		conn.watchCertificate()
	}
	a.logger.Info("connections loaded", zap.Int("connections", len(a.active)), zap.String("version", version()))
	if address := tcpAdmin(a.ctx); address != "" && len(a.active) > 0 {
		a.logger.Warn("whoever reaches Caddy's admin endpoint can read the secrets of connections; "+
			"give it a unix socket (admin unix//path/to/admin.sock) or turn it off (admin off)", zap.String("admin", address))
	}
	return nil
}

// version is the plugin's version in this build.
func version() string {
	const module = "github.com/caddy-httphelper/caddy-httphelper"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			return dep.Version
		}
	}
	return info.Main.Version
}

// Stop implements caddy.App. Requests that still run go on using their connections.
func (a *App) Stop() error { return nil }

// Cleanup lets go of the connections' tokens; a newer config that uses them holds them itself.
func (a *App) Cleanup() error {
	for _, conn := range a.active {
		conn.release()
	}
	for _, t := range a.transports {
		_ = t.Cleanup()
	}
	return nil
}

// tcpAdmin is the address of the admin endpoint, if that is on TCP. A module has no other view of
// the admin part of its config than this one.
func tcpAdmin(ctx caddy.Context) string {
	address := caddy.DefaultAdminListen
	config := reflect.ValueOf(ctx).FieldByName("cfg")
	if !config.IsValid() || config.IsNil() {
		return ""
	}
	if admin := config.Elem().FieldByName("Admin"); admin.IsValid() && !admin.IsNil() {
		if disabled := admin.Elem().FieldByName("Disabled"); disabled.IsValid() && disabled.Bool() {
			return ""
		}
		if listen := admin.Elem().FieldByName("Listen"); listen.IsValid() && listen.String() != "" {
			address = caddy.NewReplacer().ReplaceAll(listen.String(), "")
		}
	}
	parsed, err := caddy.ParseNetworkAddress(address)
	if err == nil && (parsed.IsUnixNetwork() || parsed.IsFdNetwork()) {
		return ""
	}
	return address
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)

// dialInfo is the address that the connection's requests are sent to: the first upstream that the
// config names, or that of the base URL.
func (c *activeConnection) dialInfo(target *forward.Target) reverseproxy.DialInfo {
	address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(c.upstream, ""))
	if c.upstream == "" || err != nil {
		return reverseproxy.DialInfo{Network: "tcp", Address: target.Dial}
	}
	return reverseproxy.DialInfo{Network: address.Network, Address: address.JoinHostPort(0)}
}

// findUpstreams looks for the connections' upstreams in the routes, because reverse_proxy tells
// them to no transport before it sends a request.
func (a *App) findUpstreams() {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	servers := app.(*caddyhttp.App).Servers
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		findUpstreams(servers[name].Routes)
		for _, route := range slices.Sorted(maps.Keys(servers[name].NamedRoutes)) {
			findUpstreams(caddyhttp.RouteList{*servers[name].NamedRoutes[route]})
		}
	}
}

func findUpstreams(routes caddyhttp.RouteList) {
	for _, route := range routes {
		for _, handler := range route.Handlers {
			switch handler := handler.(type) {
			case *caddyhttp.Subroute:
				findUpstreams(handler.Routes)
			case *reverseproxy.Handler:
				rememberUpstream(handler)
			}
		}
	}
}

func rememberUpstream(handler *reverseproxy.Handler) {
	t, ok := handler.Transport.(*Transport)
	if !ok || len(handler.Upstreams) == 0 || !t.CustomUpstreams {
		return
	}
	for _, conn := range t.conns {
		if conn.upstream == "" {
			conn.upstream = handler.Upstreams[0].Dial
		}
	}
}

var (
	nameGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

	// Errors do not quote what they are about: a value in the wrong place may be a secret.
	errName = errors.New("a name consists of letters, digits, dots, hyphens and underscores, and begins with a letter or digit")
)

// validName checks the name of a connector or connection.
func validName(name string) error {
	if !nameGrammar.MatchString(name) {
		return errName
	}
	return nil
}

// namesInError is how many names an error counts up.
const namesInError = 10

// listNames counts up what there is, for an error about a name that is not there.
func listNames(names []string) string {
	switch more := len(names) - namesInError; {
	case more > 0:
		return fmt.Sprintf("there are %s and %d more", strings.Join(names[:namesInError], ", "), more)
	case len(names) > 1:
		return "there are " + strings.Join(names, ", ")
	case len(names) == 1:
		return "there is " + names[0]
	default:
		return "there is none"
	}
}

// prefixAll says of each error where it happened.
func prefixAll(where string, errs ...error) error {
	var all []error
	for _, err := range errs {
		for _, e := range subdirective.Flatten(err) {
			all = append(all, fmt.Errorf("%s: %w", where, e))
		}
	}
	return errors.Join(all...)
}
