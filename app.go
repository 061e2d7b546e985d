package httphelper

import (
	"cmp"
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
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
	"github.com/caddy-httphelper/caddy-httphelper/internal/sites"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// App is Caddy's app `http_helper`: the connectors and connections of a config. The handler
// `http_helper` and the transport `http_helper` refer to connections by name.
//
// Provisioning contacts no server, and reports all errors of the config at once.
type App struct {
	// The connectors, by name. A connector describes a service once, for any number of connections. A
	// name consists of letters, digits, dots, hyphens and underscores.
	Connectors map[string]*Connector `json:"connectors,omitempty"`

	// The connections, by name: each uses a connector, or describes a service of its own. Handlers and
	// transports refer to these names.
	Connections map[string]*Connection `json:"connections,omitempty"`

	// How replicas share tokens. Default: none, every process requests tokens of its own, and nothing is
	// stored anywhere.
	ShareTokens *ShareTokens `json:"share_tokens,omitempty"`

	ctx         caddy.Context
	events      *telemetry.Events
	tracing     *telemetry.Tracing
	own         *forward.OwnConnections
	logger      *zap.Logger
	active      map[string]*activeConnection
	listeners   map[string][]string                    // of the servers that use a connection, by its name; nil: not needed yet
	definitions map[string]string                      // the JSON of connections that routes define, by name
	taken       []string                               // addresses on which another process listened before
	checked     []string                               // the connections named by http_helper_health
	transports  map[string]*reverseproxy.HTTPTransport // to token endpoints, by their JSON
	foreign     *foreignHosts                          // by which requests were refused
}

var errNull = errors.New("it is null")

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http_helper",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision checks the connectors and connections and makes the connections usable. They share the
// token sources of the running config.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	a.logger = ctx.Logger()
	a.foreign = &foreignHosts{logger: a.logger}
	a.active = make(map[string]*activeConnection)
	a.definitions = make(map[string]string)
	a.transports = make(map[string]*reverseproxy.HTTPTransport)
	a.tracing = new(telemetry.Tracing)
	if config := configOf(ctx); config != nil && caddy.ActiveContext().Context == nil { // else this process listens itself
		a.taken = sites.Taken(config.AppsRaw["http"])
	}
	a.own = new(forward.OwnConnections)
	var err error
	if a.events, err = telemetry.NewEvents(ctx); err != nil {
		return err
	}
	errs := []error{telemetry.Register(ctx.GetMetricsRegistry(), tokenExpiries, storageDegraded)}
	if a.ShareTokens != nil {
		errs = append(errs, a.ShareTokens.provision(ctx))
	}
	broken := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(a.Connectors)) {
		err := prefixAll("connector "+name, errNull)
		if connector := a.Connectors[name]; connector != nil {
			err = connector.provision(ctx, name)
		}
		broken[name] = err != nil
		errs = append(errs, err)
	}
	// One piece of memory for all, which the garbage collector scans faster than many.
	conns := make([]activeConnection, len(a.Connections))
	for i, name := range slices.Sorted(maps.Keys(a.Connections)) {
		config := a.Connections[name]
		switch {
		case config == nil:
			errs = append(errs, prefixAll("connection "+name, errNull))
		case broken[config.Connector]: // nothing can be said about the connection
		default:
			errs = append(errs, a.activate(&conns[i], name, config))
		}
	}
	a.Connections = nil // active has what is needed of them, and the rest is freed
	return errors.Join(errs...)
}

// activate makes a connection usable, under a name.
func (a *App) activate(conn *activeConnection, name string, config *Connection) error {
	if err := conn.activate(a, name, config); err != nil {
		return prefixAll("connection "+name, err)
	}
	a.active[name] = conn
	return nil
}

// define makes a connection usable that a route defines in place. The same definition may come more
// than once, since Caddy copies the routes of a site to each of its servers.
func (a *App) define(name string, config *Connection) error {
	definition := string(caddyconfig.JSON(config, nil)) // activate fills in defaults
	if a.active[name] == nil {
		a.definitions[name] = definition
		return a.activate(new(activeConnection), name, config)
	}
	if a.definitions[name] != definition {
		return fmt.Errorf("connection %s: the name is taken by another connection", name)
	}
	return nil
}

// use returns the connections with the names, which a handler or transport with a policy uses.
func (a *App) use(p *RequestPolicy, names ...string) ([]*activeConnection, error) {
	p.foreign = a.foreign
	var conns []*activeConnection
	var errs []error
	for _, name := range names {
		conn, err := a.connection(name)
		if err == nil {
			err = conn.use(p)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		conns = append(conns, conn)
	}
	return conns, errors.Join(errs...)
}

// connection returns the connection with a name.
func (a *App) connection(name string) (*activeConnection, error) {
	return find("connection", name, a.active)
}

// tokenTransport returns the http transport to token endpoints that raw configures. Connections with
// the same configuration share it.
func (a *App) tokenTransport(raw json.RawMessage) (*reverseproxy.HTTPTransport, error) {
	config := cmp.Or(string(raw), "{}")
	if t := a.transports[config]; t != nil {
		return t, nil
	}
	t := new(reverseproxy.HTTPTransport)
	err := caddy.StrictUnmarshalJSON([]byte(config), t)
	if err == nil {
		err = httptransport.Provision(a.ctx, t)
	}
	if err != nil {
		return nil, fmt.Errorf("token_transport: %v", err)
	}
	// net/http logs what a server sends on an idle connection, which may quote the request.
	t.Transport.DisableKeepAlives = true
	// Responses are small. A compressed one is decompressed in oauth.ReadBody.
	t.Transport.DisableCompression = true
	if t.Transport.MaxResponseHeaderBytes == 0 {
		t.Transport.MaxResponseHeaderBytes = oauth.MaxResponseBytes
	}
	a.transports[config] = t
	return t, nil
}

// Start puts the connections' settings into effect, and fetches the tokens of those with `warm`.
func (a *App) Start() error {
	if err := a.checkHealthNames(); err != nil {
		return err
	}
	if a.ShareTokens != nil {
		a.ShareTokens.fleet.Start()
	}
	for _, name := range slices.Sorted(maps.Keys(a.active)) {
		if err := a.active[name].start(a.ctx); err != nil {
			return err
		}
	}
	a.logger.Info("connections loaded", zap.Int("connections", len(a.active)), zap.String("version", version()))
	a.warnAboutSites()
	if len(a.taken) > 0 {
		a.logger.Warn("another process listens there already, and gets some of the requests; "+
			"if it is a sidecar with the same admin socket, this one has taken that over: stop one of them", zap.Strings("listen", a.taken))
	}
	if address := tcpAdmin(configOf(a.ctx)); address != "" && len(a.active) > 0 {
		a.logger.Warn("anyone who reaches Caddy's admin endpoint can read the secrets of connections; "+
			"give it a unix socket (admin unix//path/to/admin.sock) or turn it off (admin off)", zap.String("admin", address))
	}
	return nil
}

// warnAboutSites warns about sites that probably do not do what is meant.
func (a *App) warnAboutSites() {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	warnings := sites.Check(app.(*caddyhttp.App), func(handler any) (string, bool) {
		h, ok := handler.(*Handler)
		if !ok {
			return "", false
		}
		return h.Connection, true
	})
	for _, w := range warnings {
		a.logger.Warn(w.Text, zap.String("connection", w.Connection), zap.Strings("listen", w.Listen))
	}
}

// Stop releases the locks of shared tokens: Caddy may clean up its own storage before this app, and locks that
// nobody releases hold up other replicas. Requests in flight may still use the connections.
func (a *App) Stop() error {
	if a.ShareTokens != nil {
		a.ShareTokens.fleet.ReleaseLocks()
	}
	return nil
}

// Cleanup releases the connections' token sources. A newer config that uses the same ones has
// acquired them itself.
func (a *App) Cleanup() error {
	for _, conn := range a.active {
		conn.release()
	}
	for _, t := range a.transports {
		_ = t.Cleanup()
	}
	if a.ShareTokens != nil {
		a.ShareTokens.stop()
	}
	return nil
}

// version returns the plugin's version in this build.
func version() string {
	const module = "github.com/caddy-httphelper/caddy-httphelper"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if i := slices.IndexFunc(info.Deps, func(dep *debug.Module) bool { return dep.Path == module }); i >= 0 {
		return info.Deps[i].Version
	}
	return info.Main.Version
}

// configOf returns the config that a context belongs to, or nil. Caddy has no accessor for it, so its
// private field is read: if Caddy renames that, there is no warning about the admin endpoint, and
// TestConfigOfContext fails.
func configOf(ctx caddy.Context) *caddy.Config {
	field := reflect.ValueOf(ctx).FieldByName("cfg")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*caddy.Config]() {
		return nil
	}
	return (*caddy.Config)(field.UnsafePointer())
}

// tcpAdmin returns the address of a config's admin endpoint if that is on TCP, and otherwise "".
func tcpAdmin(config *caddy.Config) string {
	if config == nil {
		return ""
	}
	admin := cmp.Or(config.Admin, new(caddy.AdminConfig))
	if admin.Disabled {
		return ""
	}
	address := caddy.NewReplacer().ReplaceAll(cmp.Or(admin.Listen, caddy.DefaultAdminListen), "")
	parsed, err := caddy.ParseNetworkAddress(address)
	if err == nil && (parsed.IsUnixNetwork() || parsed.IsFdNetwork()) {
		return ""
	}
	return address
}

var (
	nameGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

	// errName does not quote the name: what is in its place may be a secret.
	errName = errors.New("a name consists of letters, digits, dots, hyphens and underscores, and begins with a letter or digit")
)

// validName checks the grammar of a connector's or connection's name.
func validName(name string) error {
	if !nameGrammar.MatchString(name) {
		return errName
	}
	return nil
}

// namesInError is how many names an error lists.
const namesInError = 10

// listNames lists the names that exist, for an error about one that does not.
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

// unknownName returns the error about a name of which there is nothing, where those of names are.
func unknownName(what, name, where string, names []string) error {
	if len(names) == 0 {
		return fmt.Errorf("there is no %s %s%s", what, shownName(name), where)
	}
	return fmt.Errorf("there is no %s %s%s%s", what, shownName(name), where, subdirective.Instead(name, names, listNames(names)))
}

// shownName returns a name as an error shows it: what is in its place may be a secret.
func shownName(name string) string { return nameOr(name, "of this name") }

// nameOr returns a name, or another text if the name may be a secret.
func nameOr(name, otherwise string) string {
	if redact.PlausibleName(name) {
		return name
	}
	return otherwise
}

// prefixAll prefixes each of the joined errors with where it is.
func prefixAll(where string, errs ...error) error {
	var all []error
	for _, err := range errs {
		for _, e := range subdirective.Flatten(err) {
			all = append(all, fmt.Errorf("%s: %w", where, e))
		}
	}
	return errors.Join(all...)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
