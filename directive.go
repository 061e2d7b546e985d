package httphelper

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
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
//	    on_rate_limit       pass|retry [<wait>]
//	    replay_buffer       <size>
//	    allow_clients       [private_ranges] <ranges...>
//	    allow_hosts         <hosts...>|*
//	    caller_token_file   <path>
//	    use_reverse_proxy
//	    <subdirectives of a connection without a connector>
//	    <subdirectives of reverse_proxy>
//	}
//
// An argument with `://` is the base URL of a connection that the block defines; `name` names it. One
// with braces is a placeholder that chooses among `connections`. Anything else is the name of a
// connection of the global option.
//
// The directive expands to the handler `http_helper`, which forwards requests itself. With subdirectives
// of reverse_proxy other than `transport http` and `flush_interval`, it expands to the handler and a
// reverse proxy, so that
//
//	http_helper billing {
//	    lb_retries 2
//	}
//
// is, in words that the Caddyfile has only in part, equivalent to:
//
//	route {
//	    <handler http_helper, connection billing>
//	    reverse_proxy <address of billing's base_url> {
//	        lb_retries 2
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
	return dir.route(matcher), nil
}

// directive is one directive `http_helper` while it is parsed.
type directive struct {
	*subdirective.Subdirective // the directive itself

	helper httpcaddyfile.Helper
	app    *App // a copy of the global option's
	target string

	handler   Handler
	transport Transport
	proxy     reverseproxy.Handler
	conns     []*configuredConnection // that may be chosen
	known     subdirective.Rules      // the options that are not reverse_proxy's
	rest      []caddyfile.Segment     // what is left for reverse_proxy

	useReverseProxy bool // it forwards even without options of its own
}

func newDirective(h httpcaddyfile.Helper) (*directive, error) {
	d := &directive{helper: h, app: new(App), Subdirective: subdirective.Parse("http_helper", h.NextSegment())}
	if len(d.Args) != 1 {
		return nil, d.Err("http_helper takes exactly one argument: a connection, a base URL or a placeholder; addresses to dial are given with the subdirective to")
	}
	d.target = d.Args[0]
	if option, ok := h.Option("http_helper").(httpcaddyfile.App); ok {
		return d, json.Unmarshal(option.Value, d.app)
	}
	return d, nil
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
	if len(d.conns) == 0 {
		return err // the rest depends on the connection
	}
	err = errors.Join(err, d.parseProxy())
	var invalid error
	if d.handler.Define != nil {
		_, invalid = d.conns[0].parse()
	}
	err = subdirective.JoinChecks(err, errors.Join(d.Located(d.Owner, invalid), d.check()))
	if err == nil {
		return nil
	}
	for _, conn := range d.conns {
		err = errors.Join(err, d.Located("connection "+conn.name, conn.unreadable()))
	}
	return err
}

// parseInline parses a directive with a base URL, which defines a connection.
func (d *directive) parseInline() error {
	conn := new(Connection)
	name, err := d.inlineName()
	d.Owner = "connection " + name
	err = errors.Join(err, d.NeedsBlock())
	d.handler.Connection, d.handler.Define = name, conn
	known := connectionRules(conn)
	known["name"] = subdirective.Rule{Read: func(*subdirective.Subdirective) error { return nil }}
	known["base_url"] = subdirective.Rule{Read: func(s *subdirective.Subdirective) error { return s.Errorf("is the argument of http_helper already") }}
	err = errors.Join(err, d.readOwn(known))
	conn.BaseURL = d.target
	copied := new(Connection) // checking fills in defaults
	if err := json.Unmarshal(caddyconfig.JSON(conn, nil), copied); err != nil {
		return err
	}
	configured, errConfigure := d.app.configure(name, copied)
	d.conns = append(d.conns, configured)
	return errors.Join(err, errConfigure)
}

// parsePlaceholder parses a directive with a placeholder that chooses a connection per request.
func (d *directive) parsePlaceholder() error {
	d.handler.Connection = d.target
	known := make(subdirective.Rules)
	subdirective.Bind(known, subdirective.Options[Handler]{"connections": {Read: d.choices}}, &d.handler)
	d.refuseConnection(known)
	err := d.readOwn(known)
	if d.handler.Connections == nil && err == nil {
		return d.Err("http_helper with a placeholder needs connections: the names of those that it may choose")
	}
	return err
}

// choices reads the connections that a placeholder may choose.
func (d *directive) choices(s *subdirective.Subdirective, h *Handler) error {
	names, err := s.SomeArgs()
	if err != nil {
		return err
	}
	var errs []error
	for i, name := range names {
		err := d.choose(name)
		if err == nil && slices.Contains(names[:i], name) {
			err = fmt.Errorf("%s is named more than once", name)
		}
		errs = append(errs, s.Wrap(err))
	}
	h.Connections = names
	return errors.Join(errs...)
}

// parseNamed parses a directive with the name of a connection.
func (d *directive) parseNamed() error {
	if err := d.choose(d.target); err != nil {
		return d.WrapErr(fmt.Errorf("http_helper: %w; a base URL begins with https://", err))
	}
	d.Owner = "connection " + d.target
	d.handler.Connection = d.target
	known := make(subdirective.Rules)
	d.refuseConnection(known)
	return d.readOwn(known)
}

// choose adds a connection of the global option to those that may be chosen.
func (d *directive) choose(name string) error {
	if err := validName(name); err != nil {
		return err
	}
	config := d.app.Connections[name]
	if config == nil {
		names := slices.Sorted(maps.Keys(d.app.Connections))
		if strings.Contains(name, ".") && subdirective.Nearest(name, names) == "" {
			names = nil // it is probably the host of a URL
		}
		return unknownName("connection", name, " in the global option http_helper", names)
	}
	configured, err := d.app.configure(name, config)
	if err == nil {
		d.conns = append(d.conns, configured)
	}
	return err
}

// refuseConnection makes errors of subdirectives that only a directive with a base URL may have.
func (d *directive) refuseConnection(known subdirective.Rules) {
	const why = "belongs to the connection in the global option; only with a base URL it stands here"
	subdirective.Refuse(known, connectionOptions, why)
	subdirective.Refuse(known, formOptions, why)
	subdirective.Refuse(known, connectorOptions, why)
	subdirective.Refuse(known, serviceOptions(), why)
	subdirective.Refuse(known, subdirective.Options[Connection]{"name": {}}, "is only for connections that a base URL defines here")
}

// readOwn reads the subdirectives of http_helper and keeps the others for reverse_proxy.
func (d *directive) readOwn(known subdirective.Rules) error {
	subdirective.Bind(known, policyOptions, &d.handler.RequestPolicy)
	subdirective.Bind(known, subdirective.Options[directive]{"use_reverse_proxy": subdirective.BoolOption(func(d *directive) *bool { return &d.useReverseProxy })}, d)
	subdirective.Refuse(known, subdirective.Options[Handler]{"connections": {}}, "is only for a placeholder that chooses among them")
	own, rest := d.Split(known)
	d.known, d.rest = known, rest
	return known.ReadAll(d.Owner, own)
}

// parseProxy hands the rest to reverse_proxy.
func (d *directive) parseProxy() error {
	errs := make([]error, 0, len(d.rest)+2)
	for _, segment := range d.rest {
		errs = append(errs, d.checkProxyOption(subdirective.Parse(d.Owner, segment)))
	}
	errs = append(errs, subdirective.CheckOnce(d.Owner, d.rest, repeatableProxyOptions...), d.unmarshalProxy())
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := d.proxy.FinalizeUnmarshalCaddyfile(d.helper); err != nil {
		return fmt.Errorf("%s: %w", d.Owner, err)
	}
	if err := d.wrapTransport(); err != nil {
		return err
	}
	return d.chooseUpstreams()
}

// proxyOptions are options of reverse_proxy that may be meant by a misspelled one.
var proxyOptions = strings.Fields(`dynamic fail_duration flush_interval handle_response header_down header_up health_body
	health_follow_redirects health_headers health_interval health_method health_passes health_port health_request_body
	health_status health_timeout health_upstream health_uri lb_policy lb_retries lb_retry_match lb_try_duration
	lb_try_interval max_fails method replace_status request_buffers response_buffers stream_buffer_size stream_close_delay
	stream_timeout to transport trusted_proxies unhealthy_latency unhealthy_request_count unhealthy_status verbose_logs`)

// repeatableProxyOptions are options of reverse_proxy that add to those before, or that it refuses itself when they
// are there again.
var repeatableProxyOptions = strings.Fields(`dynamic handle_response header_down header_up lb_policy lb_retry_match
	replace_status to trusted_proxies unhealthy_status verbose_logs`)

// unmarshalProxy lets reverse_proxy read the rest. It stops at its first error, so after one it is given each
// option alone.
func (d *directive) unmarshalProxy() error {
	whole := d.Unmarshal(&d.proxy, d.rest)
	if whole == nil {
		return nil
	}
	var errs []error
	for _, segment := range d.rest {
		option := subdirective.Parse(d.Owner, segment)
		err := d.Unmarshal(new(reverseproxy.Handler), []caddyfile.Segment{segment})
		switch {
		case err == nil:
		case isUnrecognized(err) && !isUnrecognized(d.Unmarshal(new(reverseproxy.HTTPTransport), []caddyfile.Segment{segment})):
			errs = append(errs, option.Errorf("belongs to transport http for the API, to token_transport for the token endpoint"))
		case strings.HasPrefix(err.Error(), "unrecognized subdirective "+option.Name), strings.HasPrefix(err.Error(), d.Owner+": unrecognized"):
			errs = append(errs, option.Unrecognized(append(d.known.Names(), proxyOptions...)))
		default:
			errs = append(errs, fmt.Errorf("%s: %w", d.Owner, err))
		}
	}
	if len(errs) == 0 {
		return fmt.Errorf("%s: %w", d.Owner, whole)
	}
	return errors.Join(errs...)
}

// isUnrecognized tells whether a module of Caddy does not know a subdirective.
func isUnrecognized(err error) bool {
	return err != nil && strings.HasPrefix(err.Error(), "unrecognized subdirective ")
}

// checkProxyOption refuses what would move the request away from the base URL, or have no effect.
func (d *directive) checkProxyOption(s *subdirective.Subdirective) error {
	switch {
	case s.Name == "rewrite":
		return s.Errorf("is not possible here: requests stay under base_url; change the path before, with the directives uri or rewrite")
	case s.Name == "transport" && (len(s.Args) == 0 || s.Args[0] != "http"):
		return s.Errorf("only transport http is possible; its options become those of our own")
	case s.Name == "transport":
		return subdirective.CheckOnce(d.Owner+": transport", s.Block)
	case s.Name == "to":
		return d.checkAddresses(s)
	case s.Name == "header_up" && len(s.Args) > 0:
		return d.checkHeaderUp(s)
	default:
		return nil
	}
}

// checkHeaderUp refuses what would have no effect, because the sidecar decides on the field.
func (d *directive) checkHeaderUp(s *subdirective.Subdirective) error {
	field := httpguard.WithHyphens(http.CanonicalHeaderKey(strings.TrimLeft(strings.TrimSuffix(s.Args[0], ":"), "+-?>")))
	keeps := d.handler.AppAuthorization == authorizationKeep
	switch {
	case field == "Host":
		return s.Errorf("has no effect on Host, which is the host of base_url; to is for another address to dial")
	case field == "Authorization" && keeps:
		return nil
	case httpguard.SameField(field, d.handler.tokenField()):
		return s.Errorf("has no effect on %s, where the token goes; see access_token_header", field)
	case field == "Authorization":
		return s.Errorf("has no effect on Authorization, which the API gets only with app_authorization keep; api_header sets other credentials")
	case forward.IsCallerField(field):
		return s.Errorf("has no effect on %s, which never reaches the API", field)
	case field == "Content-Length" || field == "Transfer-Encoding":
		return s.Errorf("has no effect on %s, which follows from the body", field)
	}
	sets := func(c *configuredConnection) bool {
		return slices.ContainsFunc(c.service.APIHeaders, func(f Field) bool { return strings.EqualFold(f.Name, field) })
	}
	if slices.ContainsFunc(d.conns, sets) && !slices.ContainsFunc(d.conns, func(c *configuredConnection) bool { return !sets(c) }) {
		return s.Errorf("has no effect on %s, which api_header sets", field)
	}
	return nil
}

// checkAddresses checks that addresses to dial do not contradict the base URLs.
func (d *directive) checkAddresses(s *subdirective.Subdirective) error {
	for _, conn := range d.conns {
		base := schemeOf(conn.service.BaseURL)
		for _, address := range s.Args {
			scheme, _, given := strings.Cut(address, "://")
			switch {
			case given && base != "" && (base == "https") != (scheme == "https"):
				return s.Errorf("base_url is %s, so the scheme of an address cannot be another; leave it out and give a port", base)
			case !given && base != "http" && lacksPort(address):
				return s.Errorf("an address needs a port, such as 443")
			}
		}
	}
	return nil
}

// lacksPort reports whether reverse_proxy would complete an address with port 80.
func lacksPort(address string) bool {
	network, host, port, err := caddy.SplitNetworkAddress(address)
	return err == nil && port == "" && !strings.Contains(host, "{") && !caddy.IsUnixNetwork(network) && !caddy.IsFdNetwork(network)
}

// schemeOf returns a URL's scheme, or "" if a placeholder decides on it.
func schemeOf(rawURL string) string {
	scheme, _, ok := strings.Cut(rawURL, "://")
	if !ok || strings.ContainsAny(scheme, "{}") {
		return ""
	}
	return strings.ToLower(scheme)
}

// wrapTransport wraps the http transport that reverse_proxy has parsed.
func (d *directive) wrapTransport() error {
	inner := new(reverseproxy.HTTPTransport)
	if d.proxy.TransportRaw != nil {
		if err := json.Unmarshal(d.proxy.TransportRaw, inner); err != nil {
			return err
		}
	}
	d.transport.HTTPTransport = inner
	if d.handler.Connections == nil {
		d.transport.Connection = d.handler.Connection
	}
	d.transport.Connections = d.handler.Connections
	// For health checks, which no handler sees.
	d.transport.AccessTokenHeader = d.handler.AccessTokenHeader
	return d.decideTLS(inner)
}

// decideTLS turns TLS on as the base URLs say.
func (d *directive) decideTLS(inner *reverseproxy.HTTPTransport) error {
	inTheClear := !slices.ContainsFunc(d.conns, func(c *configuredConnection) bool { return schemeOf(c.service.BaseURL) != "http" })
	if inTheClear {
		if inner.TLS != nil {
			return d.Located(d.Owner, errors.New("transport: base_url is http, so there cannot be options of TLS"))
		}
		return nil
	}
	inner.TLS = cmp.Or(inner.TLS, new(reverseproxy.TLSConfig))
	if len(inner.TLS.ExceptPorts) > 0 {
		return d.Located(d.Owner, errors.New("transport: tls_except_ports is not possible, since base_url decides on TLS"))
	}
	return nil
}

// chooseUpstreams makes the base URL's own address the upstream, unless there are others.
func (d *directive) chooseUpstreams() error {
	given := len(d.proxy.Upstreams) > 0 || d.proxy.DynamicUpstreamsRaw != nil
	d.transport.CustomUpstreams = given
	fixed := d.fixedAddress()
	if checks := d.proxy.HealthChecks; checks != nil && checks.Active != nil {
		if fixed == "" {
			return d.Located(d.Owner, errors.New("active health checks need one connection, with a base_url without placeholders"))
		}
		d.transport.CustomUpstreams = given || checks.Active.Port != 0 || checks.Active.Upstream != ""
	}
	switch {
	case given:
	case fixed != "":
		d.proxy.Upstreams = reverseproxy.UpstreamPool{{Dial: fixed}}
	default:
		d.proxy.DynamicUpstreamsRaw = caddyconfig.JSONModuleObject(UpstreamSource{}, "source", "http_helper", nil)
	}
	return nil
}

// fixedAddress returns the address of the base URL, or "" if it is not known while adapting.
func (d *directive) fixedAddress() string {
	if d.handler.Connections != nil || strings.ContainsAny(d.conns[0].service.BaseURL, "{}") {
		return ""
	}
	base, err := url.Parse(d.conns[0].service.BaseURL)
	if err != nil {
		return ""
	}
	return net.JoinHostPort(strings.ToLower(base.Hostname()), httpguard.Port(base))
}

// check compares the options of the directive with those of its connections.
func (d *directive) check() error {
	errs := make([]error, len(d.conns))
	for i, conn := range d.conns {
		err := conn.accepts(&d.handler.RequestPolicy)
		if d.transport.HTTPTransport != nil { // otherwise it could not be read
			err = errors.Join(err, conn.acceptsTransport(d.transport.HTTPTransport, nil))
		}
		errs[i] = d.Located("connection "+conn.name, err)
	}
	return errors.Join(errs...)
}

// route returns the route that the directive expands to.
func (d *directive) route(matcher caddy.ModuleMap) []httpcaddyfile.ConfigValue {
	if d.forwardsItself() {
		d.handler.Transport, d.handler.FlushInterval = d.transport.HTTPTransport, d.proxy.FlushInterval
		route := caddyhttp.Route{HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(d.handler, "handler", "http_helper", nil)}}
		return routeValue(route, matcher)
	}
	d.transport.HeaderUp = d.proxy.Headers != nil && d.proxy.Headers.Request != nil
	d.transport.LoadBalancing = d.proxy.LoadBalancing != nil
	d.proxy.TransportRaw = caddyconfig.JSONModuleObject(d.transport, "protocol", "http_helper", nil)
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		caddyconfig.JSONModuleObject(d.handler, "handler", "http_helper", nil),
		caddyconfig.JSONModuleObject(d.proxy, "handler", "reverse_proxy", nil),
	}}
	if d.helper.IsNamedRoute() {
		// Of a named route with a single directive, Caddy keeps only the first handler.
		subroute := caddyhttp.Subroute{Routes: caddyhttp.RouteList{route}}
		route = caddyhttp.Route{HandlersRaw: []json.RawMessage{caddyconfig.JSONModuleObject(subroute, "handler", "subroute", nil)}}
	}
	return routeValue(route, matcher)
}

// forwardsItself reports whether the handler forwards requests without reverse_proxy: no option needs it.
func (d *directive) forwardsItself() bool {
	return !d.useReverseProxy && d.transport.ProxyProtocol == "" && !slices.ContainsFunc(d.rest, func(option caddyfile.Segment) bool {
		return option.Directive() != "transport" && option.Directive() != "flush_interval"
	})
}

func routeValue(route caddyhttp.Route, matcher caddy.ModuleMap) []httpcaddyfile.ConfigValue {
	if matcher != nil {
		route.MatcherSetsRaw = []caddy.ModuleMap{matcher}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}
}

// stateKey is the key of the connections' names in a Helper's State.
const stateKey = "http_helper.names"

// inlineName returns the name of the connection that a directive with a base URL defines. There is one
// also with an error.
func (d *directive) inlineName() (string, error) {
	taken := d.takenNames()
	var name string
	free := func(name string) error {
		if taken[name] {
			return fmt.Errorf("there is a connection %s already", name)
		}
		return validName(name)
	}
	known := make(subdirective.Rules)
	subdirective.Bind(known, subdirective.Options[string]{"name": subdirective.CheckedString(func(name *string) *string { return name }, free)}, &name)
	own, _ := d.Split(known)
	err := known.ReadAll("http_helper", own[:min(1, len(own))]) // a second one is an error later
	if name == "" {
		name = draft.Unique(hostName(d.target), "-", taken)
	}
	taken[name] = true
	return name, err
}

// takenNames returns the names of the connections known so far. All directives share the map.
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
	var routes any
	if json.Unmarshal(caddyconfig.JSON(d.helper.Option("named_routes"), nil), &routes) == nil {
		collectNames(routes, taken)
	}
	d.helper.State[stateKey] = taken
	return taken
}

// collectNames finds the connections that handlers and transports anywhere in a config name.
func collectNames(config any, names map[string]bool) {
	switch config := config.(type) {
	case []any:
		for _, child := range config {
			collectNames(child, names)
		}
	case map[string]any:
		if config["handler"] == "http_helper" || config["protocol"] == "http_helper" {
			chosen, _ := config["connections"].([]any)
			for _, name := range append(chosen, config["connection"]) {
				if name, ok := name.(string); ok {
					names[name] = true
				}
			}
		}
		for _, child := range config {
			collectNames(child, names)
		}
	}
}

// notInName matches what a host, possibly with placeholders, may have and a name may not.
var notInName = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// authority matches the part of a URL between // and the path, possibly with placeholders.
var authority = regexp.MustCompile(`^(?:\{[^}]*\}|[^/?#\\])*`)

// port matches the port at the end of an authority.
var port = regexp.MustCompile(`:(?:[0-9]*|\{[^}]*\})$`)

// hostName returns a name for a connection, made of a URL's host.
func hostName(rawURL string) string {
	_, rest, _ := strings.Cut(rawURL, "://")
	host := port.ReplaceAllString(authority.FindString(rest), "")
	host = host[strings.LastIndex(host, "@")+1:]
	return cmp.Or(strings.Trim(notInName.ReplaceAllString(host, "-"), "-._"), "connection")
}
