package sites

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// check returns the warnings about a Caddyfile, in which `respond ours` stands for the plugin's handler.
func check(t *testing.T, caddyfile string) []Warning {
	t.Helper()
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("{\n\tadmin off\n\tstorage file_system "+t.TempDir()+"\n}\n"+caddyfile), nil)
	if err != nil {
		t.Fatal(err)
	}
	config := new(caddy.Config)
	if err := json.Unmarshal(adapted, config); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { caddy.Stop() }) //nolint:errcheck // there is nothing to stop but what was provisioned
	app, err := ctx.App("http")
	if err != nil {
		t.Fatal(err)
	}
	return Check(app.(*caddyhttp.App), func(handler any) (string, bool) {
		h, ok := handler.(*caddyhttp.StaticResponse)
		return "c", ok && h.Body == "ours"
	})
}

func TestCheck(t *testing.T) {
	const (
		onlyTo    = "only requests to /a get to http_helper, all others get an empty response with status 200; a path without * matches nothing below it"
		below     = "only requests to /a/* get to http_helper, all others get an empty response with status 200"
		addressed = "only requests addressed to 127.0.0.1 get to http_helper, all others get an empty response with status 200; write :8080 as the site address"
		ownRoot   = "the site address localhost makes Caddy speak HTTPS with a certificate of its own root CA"
	)
	for name, test := range map[string]struct{ caddyfile, want string }{
		"plain":                   {":8080 {\nbind 127.0.0.1\nrespond ours\n}", ""},
		"path":                    {":8080 {\nrespond /a ours\n}", onlyTo},
		"paths below":             {":8080 {\nrespond /a/* ours\n}", below},
		"every path":              {":8080 {\nrespond /* ours\n}", ""},
		"handle_path without *":   {":8080 {\nhandle_path /a {\nrespond ours\n}\n}", onlyTo},
		"handle and the rest":     {":8080 {\nhandle /a/* {\nrespond ours\n}\nhandle {\nrespond 404\n}\n}", ""},
		"handle, the rest passed": {":8080 {\nhandle /a/* {\nrespond ours\n}\nhandle {\nheader X-A 1\n}\n}", below},
		"route":                   {":8080 {\nroute /a/* {\nuri strip_prefix /a\nrespond ours\n}\n}", below},
		"another respond":         {":8080 {\nrespond /a/* ours\nfile_server\n}", ""},
		"method":                  {":8080 {\n@get method GET\nrespond @get ours\n}", ""},
		"host":                    {"http://127.0.0.1:8080 {\nrespond ours\n}", addressed},
		"host and others":         {"http://127.0.0.1:8080 {\nrespond ours\n}\n:8080 {\nrespond 404\n}", ""},
		"others":                  {"http://example.com:8080 {\nrespond theirs\n}", ""},
		"localhost":               {"localhost:8080 {\nrespond ours\n}", ownRoot},
		"localhost in the clear":  {"http://localhost:8080 {\nrespond ours\n}\nhttp://:8080 {\nrespond 404\n}", ""},
		"a public name":           {"example.com {\nrespond ours\n}", "only requests addressed to example.com"},
		"named route":             {"&(r) {\nrespond ours\n}\n:8080 {\ninvoke r\n}", ""},
		"named route, path":       {"&(r) {\nrespond ours\n}\n:8080 {\nhandle /a {\ninvoke r\n}\n}", onlyTo},
	} {
		t.Run(name, func(t *testing.T) {
			warnings := check(t, test.caddyfile)
			switch {
			case test.want == "" && len(warnings) == 0:
			case len(warnings) != 1 || !strings.HasPrefix(warnings[0].Text, test.want) || test.want == "":
				t.Errorf("got %v, want %q", warnings, test.want)
			case warnings[0].Connection != "c" || len(warnings[0].Listen) == 0:
				t.Errorf("got %+v", warnings[0])
			}
		})
	}
}
