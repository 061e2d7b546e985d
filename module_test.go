package httphelper

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestFlowModules(t *testing.T) {
	for id, want := range map[string]string{"http_helper.flows.request": "*flows.Request", "http_helper.flows.template": "*flows.Template"} {
		module, err := caddy.GetModule(id)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%T", module.New()); got != want {
			t.Errorf("%s is %s", id, got)
		}
	}
}

// TestConfigOfContext fails when Caddy renames the private field that the warning about the admin
// endpoint depends on.
func TestConfigOfContext(t *testing.T) {
	loadCaddyfile(t, "{\n\thttp_helper\n}\n")
	t.Cleanup(func() { _ = caddy.Stop() })
	config := configOf(caddy.ActiveContext())
	if config == nil {
		t.Fatal("caddy.Context has no field cfg of type *caddy.Config any more: see configOf")
	}
	if config.Admin == nil || !config.Admin.Disabled {
		t.Errorf("the admin part is %+v, not that of the loaded config", config.Admin)
	}
	if config := configOf(caddy.Context{Context: t.Context()}); config != nil {
		t.Errorf("a context without a config has %+v", config)
	}
}

func TestTCPAdmin(t *testing.T) {
	t.Setenv("ADMIN_ADDRESS", "127.0.0.1:2020")
	for name, test := range map[string]struct {
		config *caddy.Config
		want   string
	}{
		"no config":   {nil, ""},
		"default":     {new(caddy.Config), caddy.DefaultAdminListen},
		"no address":  {&caddy.Config{Admin: new(caddy.AdminConfig)}, caddy.DefaultAdminListen},
		"off":         {&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true, Listen: "localhost:2019"}}, ""},
		"TCP":         {&caddy.Config{Admin: &caddy.AdminConfig{Listen: "localhost:1234"}}, "localhost:1234"},
		"placeholder": {&caddy.Config{Admin: &caddy.AdminConfig{Listen: "{env.ADMIN_ADDRESS}"}}, "127.0.0.1:2020"},
		"unix socket": {&caddy.Config{Admin: &caddy.AdminConfig{Listen: "unix//run/admin.sock|0200"}}, ""},
		"fd":          {&caddy.Config{Admin: &caddy.AdminConfig{Listen: "fd/3"}}, ""},
	} {
		if got := tcpAdmin(test.config); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// TestListNames: an error about a name that does not exist is of bounded length.
func TestListNames(t *testing.T) {
	var many []string
	for i := range 12 {
		many = append(many, fmt.Sprintf("c%d", i))
	}
	for names, want := range map[int]string{
		0: "there is none", 1: "there is c0", 2: "there are c0, c1",
		12: "there are c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more",
	} {
		if got := listNames(many[:names]); got != want {
			t.Errorf("%d: %s", names, got)
		}
	}
}

// TestMistakesAreReportedTogether: one attempt names every mistake (rule 23).
func TestMistakesAreReportedTogether(t *testing.T) {
	for _, test := range []struct{ name, parameters string }{
		{"api", `"a": {"value": "{env.UNSET_A}"}, "b": {"value": "{env.UNSET_B}"}`},
		{"bad name", `"a": {"value": "x"}, "c": {"value": "y"}`},
	} {
		config := fmt.Sprintf(`{"admin": {"disabled": true}, "apps": {"http_helper": {
			"connectors": {"k": {"base_url": "https://api.example", "token_url": "https://auth.example/token", "auth_method": "client_secret_basic", "parameters": [{"key": "a", "type": "text"}, {"key": "b", "type": "text"}]}},
			"connections": {%q: {"connector": "k", "client_id": "id", "client_secret": "secret", "parameters": {%s}}}
		}}}`, test.name, test.parameters)
		err := caddy.Load([]byte(config), true)
		_ = caddy.Stop()
		wants := []string{"parameter a", "parameter b"}
		if test.name != "api" {
			wants = []string{"a name consists of", "parameter b", "parameter c"}
		}
		for _, want := range wants {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("connection %q: %v names no %s", test.name, err, want)
			}
		}
	}
}
