package draft

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
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

// TestNamesThatAreTaken: also those of connections that a handler defines in place.
func TestNamesThatAreTaken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	const config = `{"apps": {
		"http_helper": {"connections": {"acme": {}}},
		"http": {"servers": {"a": {"routes": [{"handle": [{"handler": "subroute", "routes": [{"handle": [
			{"handler": "http_helper", "connection": "acme-2", "define": {}}, {"handler": "http_helper", "connection": "elsewhere"}
		]}]}]}]}}}
	}}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := ReadConfig(file, "")
	if err != nil {
		t.Fatal(err)
	}
	d := New(&Connector{Form: adminapi.Connector{Name: "acme"}, CheckName: func(string) error { return nil }}, read)
	if d.Name != "acme-3" {
		t.Errorf("the name is %s", d.Name)
	}
	for name, free := range map[string]bool{"acme": false, "acme-2": false, "elsewhere": true} {
		if err := d.CheckName(name); (err == nil) != free {
			t.Errorf("%s: %v", name, err)
		}
	}
}
