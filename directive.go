package httphelper

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/dustin/go-humanize"
)

func init() {
	httpcaddyfile.RegisterDirective("http_helper", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("http_helper", httpcaddyfile.Before, "reverse_proxy")
}

// parseDirective parses the directive `http_helper`. Syntax:
//
//	http_helper [<matcher>] <connection>|<base_url>|<placeholder> {
//	    name                <name>
//	    connections         <names...>
//	    access_token_header <field> [<prefix>]
//	    app_authorization   replace|keep|reject
//	    on_unauthorized     retry|pass
//	    replay_buffer       <size>
//	    allow_clients       [private_ranges] <ranges...>
//	    <subdirectives of a connection without a connector>
//	    <subdirectives of reverse_proxy>
//	}
//
// An argument with `://` is the base URL of a connection that the block defines; `name` names it. One
// with braces is a placeholder that chooses among `connections`. Anything else is the name of a
// connection of the global option.
//
// The directive expands to the handler `http_helper` and a reverse proxy, so that
//
//	http_helper billing {
//	    flush_interval -1
//	}
//
// is, in words that the Caddyfile has only in part, equivalent to:
//
//	route {
//	    <handler http_helper, connection billing>
//	    reverse_proxy <address of billing's base_url> {
//	        flush_interval -1
//	        transport http_helper {
//	            connection billing
//	        }
//	    }
//	}
//
// Without `to` and `dynamic`, the upstream is the address of the base URL: known while adapting, or
// found per request by the upstream source `http_helper`.
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	if !h.Next() {
		return nil, h.ArgErr()
	}
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	h.Next() // the directive's name: ExtractMatcherSet has gone back before it
	dir, err := newDirective(h)
	if err != nil {
		return nil, err
	}
	if err := dir.parse(); err != nil {
		return nil, err
	}
	return dir.route(matcher)
}

// directive is one directive `http_helper` while it is parsed.
type directive struct {
	*subdirective // the directive itself; its owner stands for it in errors

	helper httpcaddyfile.Helper
	app    *App // of the global option
	target string

	handler   Handler
	transport Transport
	proxy     reverseproxy.Handler
	baseURLs  []string            // of the connections there are to choose from
	rest      []caddyfile.Segment // what is left for reverse_proxy
}

func newDirective(h httpcaddyfile.Helper) (*directive, error) {
	d := &directive{helper: h, subdirective: newSubdirective("http_helper", h.NextSegment())}
	if len(d.args) != 1 {
		return nil, d.Err("http_helper takes exactly one argument, a connection, a base URL or a placeholder; addresses to dial are given with the subdirective to")
	}
	d.target = d.args[0]
	var err error
	d.app, err = globalApp(h)
	return d, err
}

// globalApp is what the global option http_helper says.
func globalApp(h httpcaddyfile.Helper) (*App, error) {
	app := new(App)
	option, ok := h.Option("http_helper").(httpcaddyfile.App)
	if !ok {
		return app, nil
	}
	return app, json.Unmarshal(option.Value, app)
}

func (d *directive) parse() error {
	var err error
	switch {
	case strings.Contains(d.target, "://"):
		err = d.parseInline()
	case strings.ContainsAny(d.target, "{}"):
		err = d.parsePlaceholder()
	default:
		err = d.parseNamed()
	}
	if err != nil {
		return err
	}
	return d.parseProxy()
}

// parseInline parses a directive with a base URL, which defines a connection.
func (d *directive) parseInline() error {
	name, err := d.inlineName()
	if err != nil {
		return err
	}
	d.owner = "connection " + name
	if err := checkURL(checkBaseURL, nil)(d.target); err != nil {
		return d.Errf("%s: base URL: %w", d.owner, err)
	}
	conn := new(Connection)
	known := connectionRules(conn)
	conn.BaseURL = d.target
	known["name"] = rule{read: func(*subdirective) error { return nil }}
	known["base_url"] = rule{read: func(s *subdirective) error { return s.errorf("is the argument of http_helper already") }}
	d.handler.Connection, d.handler.Define = name, conn
	d.baseURLs = []string{d.target}
	return d.readOwn(known)
}

// parsePlaceholder parses a directive with a placeholder that chooses a connection per request.
func (d *directive) parsePlaceholder() error {
	d.handler.Connection = d.target
	known := make(rules)
	bind(known, options[Handler]{"connections": {read: d.choices}}, &d.handler)
	d.refuseConnection(known)
	if err := d.readOwn(known); err != nil {
		return err
	}
	if d.handler.Connections == nil {
		return d.Err("http_helper with a placeholder needs connections: the names of those that it may choose")
	}
	return nil
}

// choices are the connections that a placeholder may choose.
func (d *directive) choices(s *subdirective, h *Handler) error {
	names, err := s.some()
	if err != nil {
		return err
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return s.errorf("the same connection is named more than once")
		}
		if err := d.choose(name); err != nil {
			return s.wrap(err)
		}
	}
	h.Connections = names
	return nil
}

// parseNamed parses a directive with the name of a connection.
func (d *directive) parseNamed() error {
	if err := d.choose(d.target); err != nil {
		return d.Errf("http_helper: %w", err)
	}
	d.owner = "connection " + d.target
	d.handler.Connection = d.target
	known := make(rules)
	d.refuseConnection(known)
	return d.readOwn(known)
}

// choose finds a connection of the global option.
func (d *directive) choose(name string) error {
	if err := validName(name); err != nil {
		return err
	}
	conn := d.app.Connections[name]
	if conn == nil {
		return fmt.Errorf("there is no connection %s in the global option http_helper", name)
	}
	base := conn.BaseURL
	if connector := d.app.Connectors[conn.Connector]; connector != nil {
		base = connector.BaseURL
	}
	d.baseURLs = append(d.baseURLs, base)
	return nil
}

// refuseConnection makes errors of subdirectives that only a directive with a base URL may have.
func (d *directive) refuseConnection(known rules) {
	const why = "belongs to the connection in the global option; only with a base URL it stands here"
	refuse(known, connectionOptions, why)
	refuse(known, answerOptions, why)
	refuse(known, connectorOptions, why)
	refuse(known, serviceOptions(), why)
	refuse(known, options[Connection]{"name": {}}, "is only for connections that a base URL defines here")
}

// readOwn reads our subdirectives and keeps the others for reverse_proxy.
func (d *directive) readOwn(known rules) error {
	bind(known, injectionOptions, &d.handler.Injection)
	refuse(known, options[Handler]{"connections": {}}, "is only for a placeholder that chooses among them")
	own, rest := d.split(known)
	d.rest = rest
	return known.readAll(d.owner, own)
}

// parseProxy hands the rest to reverse_proxy.
func (d *directive) parseProxy() error {
	for _, segment := range d.rest {
		if err := d.checkProxyOption(newSubdirective(d.owner, segment)); err != nil {
			return err
		}
	}
	if err := unmarshalAll(&d.proxy, d.with(d.rest)); err != nil {
		return fmt.Errorf("%s: %w", d.owner, err)
	}
	if err := d.proxy.FinalizeUnmarshalCaddyfile(d.helper); err != nil {
		return fmt.Errorf("%s: %w", d.owner, err)
	}
	if err := d.wrapTransport(); err != nil {
		return err
	}
	if err := d.checkHealth(); err != nil {
		return err
	}
	d.addUpstream()
	return nil
}

// checkProxyOption refuses what would move the request away from the base URL.
func (d *directive) checkProxyOption(s *subdirective) error {
	switch {
	case s.name == "rewrite":
		return s.errorf("is not possible: requests stay under base_url; to change the path before, use the directives uri or rewrite")
	case s.name == "transport" && (len(s.args) == 0 || s.args[0] != "http"):
		return s.errorf("only transport http is possible; its options become those of our own")
	case s.name == "to":
		return d.checkUpstreams(s)
	case !strings.HasPrefix(s.name, "@") && !likeOption.MatchString(s.name):
		return s.unrecognized()
	default:
		return nil
	}
}

// checkUpstreams checks that addresses to dial do not contradict the base URL's scheme.
func (d *directive) checkUpstreams(s *subdirective) error {
	for _, address := range s.args {
		scheme, _, ok := strings.Cut(address, "://")
		if !ok {
			continue
		}
		for _, base := range d.baseURLs {
			baseScheme := schemeOf(base)
			if baseScheme == "https" && scheme != "https" || baseScheme == "http" && scheme == "https" {
				return s.errorf("base_url is %s, so an address cannot be %s; leave its scheme out and give a port", baseScheme, scheme)
			}
		}
	}
	return nil
}

// wrapTransport makes the transport that reverse_proxy has parsed part of ours.
func (d *directive) wrapTransport() error {
	inner := new(reverseproxy.HTTPTransport)
	if d.proxy.TransportRaw != nil {
		if err := json.Unmarshal(d.proxy.TransportRaw, inner); err != nil {
			return d.Errf("%s: transport: %w", d.owner, err)
		}
	}
	if err := d.decideTLS(inner); err != nil {
		return err
	}
	d.transport.HTTPTransport = inner
	if d.handler.Connections == nil {
		d.transport.Connection = d.handler.Connection
	}
	d.transport.Connections = d.handler.Connections
	d.transport.AccessTokenHeader = d.handler.AccessTokenHeader
	return nil
}

// decideTLS turns TLS on as the base URL says.
func (d *directive) decideTLS(inner *reverseproxy.HTTPTransport) error {
	clear := !slices.ContainsFunc(d.baseURLs, func(base string) bool { return schemeOf(base) != "http" })
	switch {
	case clear && inner.TLS != nil:
		return d.Errf("%s: transport: base_url is http, so there can be no TLS options", d.owner)
	case clear:
		return nil
	case inner.TLS == nil:
		inner.TLS = new(reverseproxy.TLSConfig)
	}
	if inner.TLS.ServerName != "" {
		return d.Errf("%s: transport: tls_server_name is not possible: the certificate must be that of base_url's host", d.owner)
	}
	if len(inner.TLS.ExceptPorts) > 0 {
		return d.Errf("%s: transport: tls_except_ports is not possible: base_url decides on TLS", d.owner)
	}
	return nil
}

// checkHealth checks that active health checks have one place to go.
func (d *directive) checkHealth() error {
	if d.proxy.HealthChecks == nil || d.proxy.HealthChecks.Active == nil {
		return nil
	}
	if d.handler.Connections != nil {
		return d.Err("http_helper: active health checks need one connection, not a placeholder")
	}
	if strings.ContainsAny(d.baseURLs[0], "{}") {
		return d.Errf("%s: active health checks need a base_url without placeholders", d.owner)
	}
	return nil
}

// addUpstream makes the base URL's own address the upstream unless there are others.
func (d *directive) addUpstream() {
	active := new(reverseproxy.ActiveHealthChecks)
	if d.proxy.HealthChecks != nil && d.proxy.HealthChecks.Active != nil {
		active = d.proxy.HealthChecks.Active
	}
	given := len(d.proxy.Upstreams) > 0 || d.proxy.DynamicUpstreamsRaw != nil
	d.transport.CustomUpstreams = given || active.Port != 0 || active.Upstream != ""
	if given {
		return
	}
	if len(d.baseURLs) == 1 && d.handler.Connections == nil && !strings.ContainsAny(d.baseURLs[0], "{}") {
		if u, err := url.Parse(d.baseURLs[0]); err == nil {
			d.proxy.Upstreams = reverseproxy.UpstreamPool{{Dial: hostPort(u)}}
			return
		}
	}
	d.proxy.DynamicUpstreamsRaw = caddyconfig.JSONModuleObject(UpstreamSource{}, "source", "http_helper", nil)
}

// schemeOf is a URL's scheme, or nothing where a placeholder decides on it.
func schemeOf(rawURL string) string {
	scheme, _, ok := strings.Cut(rawURL, "://")
	if !ok || strings.ContainsAny(scheme, "{}") {
		return ""
	}
	return strings.ToLower(scheme)
}

// route is what the directive expands to.
func (d *directive) route(matcher caddy.ModuleMap) ([]httpcaddyfile.ConfigValue, error) {
	d.proxy.TransportRaw = caddyconfig.JSONModuleObject(d.transport, "protocol", "http_helper", nil)
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		caddyconfig.JSONModuleObject(d.handler, "handler", "http_helper", nil),
		caddyconfig.JSONModuleObject(d.proxy, "handler", "reverse_proxy", nil),
	}}
	if d.helper.IsNamedRoute() {
		// Caddy keeps only the first handler of a named route with one directive.
		subroute := caddyhttp.Subroute{Routes: caddyhttp.RouteList{route}}
		route = caddyhttp.Route{HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(subroute, "handler", "subroute", nil)}}
	}
	if matcher != nil {
		route.MatcherSetsRaw = []caddy.ModuleMap{matcher}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// stateKey is where a Helper's State keeps the names of the connections there are.
const stateKey = "http_helper.names"

// inlineName names the connection that a directive with a base URL defines.
func (d *directive) inlineName() (string, error) {
	taken := d.takenNames()
	name, err := d.explicitName()
	if err != nil {
		return "", err
	}
	if name == "" {
		name = numbered(hostName(d.target), taken)
	} else if taken[name] {
		return "", d.Errf("http_helper: name: there is a connection %s already", name)
	}
	taken[name] = true
	return name, nil
}

func (d *directive) explicitName() (string, error) {
	for _, segment := range d.block {
		if segment.Directive() != "name" {
			continue
		}
		s := newSubdirective("http_helper", segment)
		name, err := s.one()
		if err == nil {
			if invalid := validName(name); invalid != nil {
				err = s.wrap(invalid)
			}
		}
		return name, err
	}
	return "", nil
}

// takenNames are the names of the connections known so far, shared by all directives.
func (d *directive) takenNames() map[string]bool {
	taken, ok := d.helper.State[stateKey].(map[string]bool)
	if ok {
		return taken
	}
	taken = make(map[string]bool)
	for name := range d.app.Connections {
		taken[name] = true
	}
	// Named routes are parsed before all sites, with a State of their own.
	routes, _ := d.helper.Option("named_routes").(map[string]*caddyhttp.Route)
	for _, route := range routes {
		for _, raw := range route.HandlersRaw {
			collectNames(raw, taken)
		}
	}
	d.helper.State[stateKey] = taken
	return taken
}

// collectNames finds the connections that are defined anywhere in a handler.
func collectNames(raw json.RawMessage, names map[string]bool) {
	var config any
	if json.Unmarshal(raw, &config) == nil {
		walkNames(config, names)
	}
}

func walkNames(config any, names map[string]bool) {
	switch config := config.(type) {
	case []any:
		for _, child := range config {
			walkNames(child, names)
		}
	case map[string]any:
		if name, ok := config["connection"].(string); ok && config["handler"] == "http_helper" {
			names[name] = true
		}
		for _, child := range config {
			walkNames(child, names)
		}
	}
}

// notInName is what stands in a host, possibly with placeholders, but cannot stand in a name.
var notInName = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// authority is the part of a URL between // and the path, possibly with placeholders.
var authority = regexp.MustCompile(`^(?:\{[^}]*\}|[^/?#\\])*`)

// port is at the end of an authority.
var port = regexp.MustCompile(`:[0-9]*$`)

// hostName is a name made of a URL's host.
func hostName(rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "://")
	host := port.ReplaceAllString(authority.FindString(rest), "")
	host = host[strings.LastIndex(host, "@")+1:]
	name := strings.Trim(notInName.ReplaceAllString(host, "-"), "-._")
	if name == "" {
		return "connection"
	}
	return name
}

// numbered is name, or name with a number when that is taken.
func numbered(name string, taken map[string]bool) string {
	unique := name
	for i := 2; taken[unique]; i++ {
		unique = name + "-" + strconv.Itoa(i)
	}
	return unique
}

// injectionOptions are the subdirectives that the directive and the transport share.
var injectionOptions = options[Injection]{
	"access_token_header": {read: accessTokenHeader},
	"app_authorization":   checkedText(func(i *Injection) *string { return &i.AppAuthorization }, oneOf(authorizationReplace, authorizationKeep, authorizationReject)),
	"on_unauthorized":     checkedText(func(i *Injection) *string { return &i.OnUnauthorized }, oneOf(unauthorizedRetry, unauthorizedPass)),
	"replay_buffer":       {read: replayBuffer},
	"allow_clients":       {read: allowClients},
}

func accessTokenHeader(s *subdirective, i *Injection) error {
	if len(s.args) < 1 || len(s.args) > 2 {
		return s.errorf("takes a header field and, if any, a prefix")
	}
	header := &TokenHeader{Field: s.args[0]}
	if len(s.args) == 2 {
		header.Prefix = s.args[1]
	}
	if err := header.check(); err != nil {
		return s.wrap(err)
	}
	i.AccessTokenHeader = header
	return nil
}

func replayBuffer(s *subdirective, i *Injection) error {
	value, err := s.one()
	if err != nil {
		return err
	}
	bytes, err := humanize.ParseBytes(value)
	if err != nil || bytes > math.MaxInt64 {
		return s.errorf("must be a size, such as 64KiB or 0")
	}
	size := int64(bytes)
	i.ReplayBuffer = &size
	return nil
}

func allowClients(s *subdirective, i *Injection) error {
	ranges, err := s.some()
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if r == "private_ranges" {
			i.AllowClients = append(i.AllowClients, caddyhttp.PrivateRangesCIDR()...)
			continue
		}
		if _, err := parsePrefix(r); err != nil {
			return s.errorf("must be IP addresses, CIDR ranges or private_ranges")
		}
		i.AllowClients = append(i.AllowClients, r)
	}
	return nil
}

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
	s := newSubdirective("transport", d.NextSegment())
	if err := s.none(); err != nil {
		return err
	}
	t.HTTPTransport = new(reverseproxy.HTTPTransport)
	t.CustomUpstreams = true
	known := make(rules)
	bind(known, injectionOptions, &t.Injection)
	bind(known, options[Transport]{"connection": checkedText(func(t *Transport) *string { return &t.Connection }, validName)}, t)
	own, rest := s.split(known)
	if err := known.readAll("transport http_helper", own); err != nil {
		return err
	}
	return unmarshalAll(t.HTTPTransport, s.with(rest))
}

// UnmarshalCaddyfile sets up the upstream source from Caddyfile tokens. Syntax:
//
//	dynamic http_helper
func (*UpstreamSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	s := newSubdirective("dynamic", d.NextSegment())
	if len(s.block) > 0 {
		return s.errorf("has no options")
	}
	return s.none()
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*UpstreamSource)(nil)
)
