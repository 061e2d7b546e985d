package forward

import (
	"context"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// dialInfoKey is the context key under which reverse_proxy tells its transport what to dial. Caddy
// exports reverseproxy.GetDialInfo to read it, but nothing to set it; a test compares the two.
const dialInfoKey caddy.CtxKey = "reverse_proxy.dial_info"

// WithDialInfo returns a context in which an http transport dials the address in info, as in a request
// of reverse_proxy.
func WithDialInfo(ctx context.Context, info reverseproxy.DialInfo) context.Context {
	return context.WithValue(ctx, dialInfoKey, info)
}

// withoutDialInfo returns a context in which an http transport dials the address of the URL.
func withoutDialInfo(ctx context.Context) context.Context {
	return context.WithValue(ctx, dialInfoKey, nil)
}
