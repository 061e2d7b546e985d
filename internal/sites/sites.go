// Package sites finds what the sites of a config probably do not do as meant, in the routes that Caddy has
// loaded. It knows Caddy's http app, and of the plugin only which handler is its own.
package sites

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Warning is something that is probably not meant.
type Warning struct {
	Text       string
	Connection string
	Listen     []string // the addresses of the server
}

// Check returns the warnings about an http app. connectionOf returns the connection of one of the plugin's own
// handlers, and whether a handler is one.
func Check(app *caddyhttp.App, connectionOf func(handler any) (string, bool)) []Warning {
	var warnings []Warning
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		s := &site{server: app.Servers[name], connectionOf: connectionOf}
		covered := s.walk(s.server.Routes, way{})
		for _, w := range s.ways {
			if text := s.describe(w, covered); text != "" {
				warnings = append(warnings, Warning{Text: text, Connection: w.connection, Listen: s.server.Listen})
			}
		}
	}
	return warnings
}

// way is how requests get to a handler of the plugin's: what they must match.
type way struct {
	hosts, paths []string
	connection   string
}

// site is one server while its routes are looked through.
type site struct {
	server       *caddyhttp.Server
	connectionOf func(any) (string, bool)
	ways         []way
	depth        int // of named routes, which may invoke themselves
}

// walk finds the ways to the plugin's handlers, and reports whether every request gets to a handler that
// responds.
func (s *site) walk(routes caddyhttp.RouteList, w way) (covered bool) {
	for _, route := range routes {
		next := w
		conditional := false
		for _, set := range route.MatcherSets {
			hosts, paths := matched(set)
			next.hosts, next.paths = slices.Concat(next.hosts, hosts), slices.Concat(next.paths, paths)
			conditional = true
		}
		if len(next.paths) > len(w.paths) && slices.ContainsFunc(next.paths, func(p string) bool { return p == "*" || p == "/*" }) {
			conditional, next.paths = false, w.paths
		}
		for _, handler := range route.Handlers {
			if s.responds(handler, next) && !conditional {
				covered = true
			}
		}
	}
	return covered
}

// maxDepth bounds how deep named routes invoke each other.
const maxDepth = 10

// responds reports whether a handler responds to every request that it gets.
func (s *site) responds(handler caddyhttp.MiddlewareHandler, w way) bool {
	if name, ours := s.connectionOf(handler); ours {
		w.connection = name
		s.ways = append(s.ways, w)
		return true
	}
	switch handler := handler.(type) {
	case *caddyhttp.Subroute:
		return s.walk(handler.Routes, w)
	case *caddyhttp.Invoke:
		route := s.server.NamedRoutes[handler.Name]
		if route == nil || s.depth == maxDepth {
			return true
		}
		s.depth++
		defer func() { s.depth-- }()
		return s.walk(caddyhttp.RouteList{*route}, w)
	}
	module, ok := handler.(caddy.Module)
	return !ok || !passesOn[module.CaddyModule().ID.Name()]
}

// passesOn are Caddy's handlers that leave the response to the next one.
var passesOn = map[string]bool{
	"authentication": true, "copy_response_headers": true, "encode": true, "headers": true, "intercept": true, "invoke": true,
	"log_append": true, "map": true, "push": true, "request_body": true, "rewrite": true, "templates": true, "tracing": true, "vars": true,
}

// matched returns the hosts and paths that a set of matchers permits.
func matched(set caddyhttp.MatcherSet) (hosts, paths []string) {
	for _, matcher := range set {
		switch m := matcher.(type) {
		case caddyhttp.MatchHost:
			hosts = append(hosts, m...)
		case *caddyhttp.MatchHost:
			hosts = append(hosts, *m...)
		case caddyhttp.MatchPath:
			paths = append(paths, m...)
		case *caddyhttp.MatchPath:
			paths = append(paths, *m...)
		}
	}
	return hosts, paths
}

// describe says what is probably not meant by a way, or "". covered is whether all other requests get
// a response too.
func (s *site) describe(w way, covered bool) string {
	if i := slices.IndexFunc(w.hosts, isInternal); i >= 0 && s.makesCertificates() {
		return "the site address " + w.hosts[i] + " makes Caddy speak HTTPS with a certificate of its own root CA, which apps do not trust and which Caddy installs " +
			"on this machine if it may; write " + s.port() + " as the site address, and bind 127.0.0.1 below it"
	}
	switch {
	case covered:
		return ""
	case len(w.paths) > 0:
		text := "only requests to " + strings.Join(w.paths, " ") + " get to http_helper, all others get an empty response with status 200"
		if slices.ContainsFunc(w.paths, func(path string) bool { return !strings.Contains(path, "*") }) {
			text += "; a path without * matches nothing below it"
		}
		return text
	case len(w.hosts) > 0:
		return "only requests addressed to " + strings.Join(w.hosts, " ") + " get to http_helper, all others get an empty response with status 200; " +
			"write " + s.port() + " as the site address, and limit with bind who can connect"
	}
	return ""
}

// port returns a site address with the server's port only.
func (s *site) port() string {
	for _, listen := range s.server.Listen {
		if i := strings.LastIndex(listen, ":"); i >= 0 {
			return listen[i:]
		}
	}
	return ":8080"
}

// makesCertificates reports whether the server speaks TLS with certificates that Caddy gets by itself.
func (s *site) makesCertificates() bool {
	if s.server.AutoHTTPS != nil && s.server.AutoHTTPS.Disabled {
		return false
	}
	for _, policy := range s.server.TLSConnPolicies {
		if policy.CertSelection == nil {
			return true
		}
	}
	return false
}

// isInternal reports whether no public authority signs certificates for a host, so that Caddy's own does.
func isInternal(host string) bool {
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	return !strings.Contains(host, ".") || slices.ContainsFunc([]string{".localhost", ".local", ".internal", ".home.arpa"}, func(suffix string) bool {
		return strings.HasSuffix(strings.ToLower(host), suffix)
	})
}
