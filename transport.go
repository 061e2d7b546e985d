package httphelper

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// Transport is reverse_proxy's transport `http_helper`.
type Transport struct {
	*reverseproxy.HTTPTransport

	// The connection whose token is sent when no handler `http_helper` chose one. Default: such
	// requests are refused.
	Connection string `json:"connection,omitempty"`

	// Whether the upstreams are addresses of the user's rather than the base URL's own, so that
	// one base URL may be dialed at several addresses. Default: false.
	CustomUpstreams bool `json:"custom_upstreams,omitempty"`

	Injection
}

// CaddyModule returns the Caddy module information.
func (Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.http_helper",
		New: func() caddy.Module { return new(Transport) },
	}
}

// UpstreamSource is reverse_proxy's source of upstreams `http_helper`: the address of the base URL
// of the connection that the handler chose for the request.
type UpstreamSource struct{}

// CaddyModule returns the Caddy module information.
func (UpstreamSource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams.http_helper",
		New: func() caddy.Module { return new(UpstreamSource) },
	}
}
