package httphelper

import (
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// dialInfo is the address that the connection's requests are sent to: the first upstream that the
// config names, or that of the base URL.
func (c *activeConnection) dialInfo(target *apiTarget) reverseproxy.DialInfo {
	address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(c.upstream, ""))
	if c.upstream == "" || err != nil {
		return reverseproxy.DialInfo{Network: "tcp", Address: target.dial}
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
