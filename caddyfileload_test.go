package httphelper

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// validate does what `caddy validate` does with a Caddyfile.
func validate(t *testing.T, caddyfile string) error {
	t.Helper()
	adapted, err := adapt(caddyfile)
	if err != nil {
		t.Fatalf("adapting: %v", err)
	}
	cfg := new(caddy.Config)
	if err := json.Unmarshal([]byte(adapted), cfg); err != nil {
		t.Fatal(err)
	}
	return caddy.Validate(cfg)
}

// TestCaddyfileLoads loads what Caddyfiles come to. A site with several addresses, and a named route
// that several sites invoke, come to copies of the same routes: the connection that is defined there
// is still one connection.
func TestCaddyfileLoads(t *testing.T) {
	t.Setenv("SECRET", "x")
	t.Setenv("HOST", "api.example.com")
	const inline = `http_helper https://api.example.com {
		token_url https://auth.example.com/token
		client_id app
		client_secret {env.SECRET}
	}
`
	for name, caddyfile := range map[string]string{
		"inline":            inInline(""),
		"named":             inSite("http_helper orders"),
		"late base URL":     inSite("http_helper late"),
		"http":              inSite("http_helper local"),
		"placeholder":       inSite("http_helper {header.X-Connection} {\n\tconnections orders local late\n}"),
		"health checks":     inSite("http_helper orders {\n\thealth_uri /up\n}"),
		"upstreams":         inSite("http_helper orders {\n\tto 10.0.0.1:443 10.0.0.2:443\n}"),
		"transport by hand": inSite("reverse_proxy https://api.example.com {\n\ttransport http_helper {\n\t\tconnection orders\n\t}\n}"),
		"two servers":       "http://a.example:8080, http://b.example:8081 {\n\t" + inline + "}\nhttp://c.example:8081 {\n\trespond hi\n}\n",
		"named route":       "&(api) {\n\t" + inline + "}\n:8080 {\n\tinvoke api\n}\n:8081 {\n\tinvoke api\n}\n",
		"snippet":           "(api) {\n\t" + inline + "}\n:8080 {\n\timport api\n}\n:8081 {\n\timport api\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			if err := validate(t, caddyfile); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNullIsAnError and no panic, after which the connections before it would be held for ever.
func TestNullIsAnError(t *testing.T) {
	t.Setenv("SECRET", "x")
	const whole = `{"token_url": "https://auth.example/token", "base_url": "https://api.example", "client_id": "x", "client_secret": "{env.SECRET}"}`
	config := `{"apps": {"http_helper": {
		"connectors": {"empty": null},
		"connections": {"a-whole": ` + whole + `, "b-empty": null, "c-dependent": {"connector": "empty", "client_id": "x"}}}}}`
	cfg := new(caddy.Config)
	if err := json.Unmarshal([]byte(config), cfg); err != nil {
		t.Fatal(err)
	}
	err := caddy.Validate(cfg)
	want := "connector empty: it is null\nconnection b-empty: it is null"
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	if n, _ := metricsInUse.References("a-whole"); n != 0 {
		t.Errorf("%d configs use a connection of none", n)
	}
}
