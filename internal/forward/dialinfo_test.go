package forward

import (
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// TestDialInfoIsWhatReverseProxyReads fails when Caddy renames its context key, which is private.
func TestDialInfoIsWhatReverseProxyReads(t *testing.T) {
	want := reverseproxy.DialInfo{Network: "tcp", Address: "127.0.0.1:1"}
	ctx := WithDialInfo(t.Context(), want)
	if got, ok := reverseproxy.GetDialInfo(ctx); !ok || got != want {
		t.Errorf("reverse_proxy reads %v, %v", got, ok)
	}
	if got, ok := reverseproxy.GetDialInfo(withoutDialInfo(ctx)); ok {
		t.Errorf("reverse_proxy still reads %v", got)
	}
}
