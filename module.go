// Package httphelper is a Caddy plugin: an outbound authenticating reverse proxy that obtains
// OAuth 2.0 client-credentials tokens and puts them into the requests that an app sends to a
// protected API.
package httphelper

import "github.com/caddyserver/caddy/v2"

func init() {
	caddy.RegisterModule(Handler{})
	caddy.RegisterModule(Transport{})
	caddy.RegisterModule(UpstreamSource{})
	caddy.RegisterModule(App{})
}

// Injection says where the token goes and what happens around it. The handler and the transport
// have the same options; in a route made by the directive `http_helper` the handler's count.
type Injection struct {
	// Where the token goes. Default: `Authorization` with the prefix `Bearer` (RFC 6750 §2.1), or
	// `DPoP` for a connection with `dpop` (RFC 9449 §7.1).
	AccessTokenHeader *TokenHeader `json:"access_token_header,omitempty"`

	// What happens to the app's own `Authorization`: `replace` it, `keep` it and send no token, or
	// `reject` the request with 400. Default: `replace`.
	AppAuthorization string `json:"app_authorization,omitempty"`

	// What happens on a 401 of the API: `retry` once with a newer token, or `pass` it on.
	// Default: `retry`.
	OnUnauthorized string `json:"on_unauthorized,omitempty"`

	// How many bytes of a request's body are kept for one replay; a larger body is not replayed.
	// Default: 65536.
	ReplayBuffer *int64 `json:"replay_buffer,omitempty"`

	// Who may call besides loopback and unix sockets: addresses and CIDR ranges. The peer counts,
	// whatever headers say. Default: nobody else.
	AllowClients []string `json:"allow_clients,omitempty"`
}

// TokenHeader is where the token goes.
type TokenHeader struct {
	// The header field. Required.
	Field string `json:"field"`

	// What stands before the token, separated by a space. Default: nothing.
	Prefix string `json:"prefix,omitempty"`
}

// Handler is the handler `http_helper`.
type Handler struct {
	// The connection's name, or a placeholder that is resolved per request to one of
	// `connections`. Required.
	Connection string `json:"connection,omitempty"`

	// Defines the connection named by `connection` in place, without a connector. Default: it is
	// one of the app's.
	Define *Connection `json:"define,omitempty"`

	// The connections that a placeholder may choose. Required with a placeholder.
	Connections []string `json:"connections,omitempty"`

	Injection
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.http_helper",
		New: func() caddy.Module { return new(Handler) },
	}
}
