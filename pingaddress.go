package httphelper

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// dialInfoKey is where reverse_proxy tells its transport which address to dial.
const dialInfoKey caddy.CtxKey = "reverse_proxy.dial_info"

// dialing is a context in which a transport dials what it dials for the connection's requests: the
// first upstream that the config names, or the base URL's own address.
func (c *activeConnection) dialing(ctx context.Context, target *apiTarget) context.Context {
	info := reverseproxy.DialInfo{Network: "tcp", Address: target.dial}
	if address, err := caddy.ParseNetworkAddress(caddy.NewReplacer().ReplaceAll(c.upstream, "")); c.upstream != "" && err == nil {
		info = reverseproxy.DialInfo{Network: address.Network, Address: address.JoinHostPort(0)}
	}
	return context.WithValue(ctx, dialInfoKey, info)
}

// findUpstreams looks for the connections' upstreams in the routes, because reverse_proxy tells
// them to no transport before it sends a request.
func (a *App) findUpstreams() {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return
	}
	servers := app.(*caddyhttp.App).Servers
	for _, name := range sortedKeys(servers) {
		findUpstreams(servers[name].Routes)
		for _, route := range sortedKeys(servers[name].NamedRoutes) {
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
