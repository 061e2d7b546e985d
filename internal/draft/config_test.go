package draft

import (
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestQuietly(t *testing.T) {
	before := caddy.Log()
	got, err := Quietly(func() (string, error) {
		if caddy.Log() == before {
			t.Error("the log goes on")
		}
		caddy.Log().Error("nobody reads this")
		return "x", nil
	})
	if got != "x" || err != nil || caddy.Log() != before {
		t.Error(got, err)
	}
}
