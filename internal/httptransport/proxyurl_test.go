package httptransport

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
)

func TestForwardProxyURL(t *testing.T) {
	t.Setenv("PROXY_URL", "https://app:hunter2@proxy.example:3128")
	t.Setenv("PROXY_PASSWORD", "hunter2")
	t.Setenv("NOT_SET", "")
	const unlike = "network_proxy url: it is not like http://proxy.example:3128"
	for text, want := range map[string]string{
		"http://proxy.example:3128":                       "",
		"http://app:{env.PROXY_PASSWORD}@proxy.example":   "",
		"socks5://app:hunter2@127.0.0.1:1080":             "",
		"socks5h://[::1]:1080":                            "",
		"{env.PROXY_URL}":                                 "",
		"{env.NOT_SET}":                                   "network_proxy url: {env.NOT_SET} is not set or empty",
		"http://{env.NOT_SET}:3128":                       "network_proxy url: {env.NOT_SET} is not set or empty",
		"{file./does/not/exist}":                          "network_proxy url: reading file /does/not/exist",
		"":                                                unlike,
		"proxy.example:3128":                              unlike,
		"app:hunter2@proxy.example:3128":                  unlike,
		"http://app:hunter2 @proxy.example:3128":          unlike,
		"http://app:hunter2@":                             unlike,
		"http://:3128":                                    unlike,
		"ftp://app:hunter2@proxy.example":                 unlike,
		"https://app:{env.PROXY_PASSWORD} @proxy.example": unlike,
	} {
		err := (&ProxyURL{URL: text}).Provision(caddy.Context{})
		switch {
		case (err == nil) != (want == ""), err != nil && !strings.HasPrefix(err.Error(), want):
			t.Errorf("%q: got %v, want %q", text, err, want)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%q: the error quotes the URL: %v", text, err)
		}
	}
}

func TestForwardProxyURLIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "proxy")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("http://app:old@proxy.example\n")
	p := &ProxyURL{URL: "{file." + file + "}"}
	if err := p.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	write("http://app:new@proxy.example\n")
	if u, err := p.ProxyFunc()(nil); err != nil || u.String() != "http://app:new@proxy.example" {
		t.Errorf("got %v, %v", u, err)
	}
	write("")
	_, err := p.ProxyFunc()(nil)
	if cause := neterror.Describe(err); !strings.HasPrefix(cause, "network_proxy url: reading file ") {
		t.Errorf("the app is told %q", cause)
	}
}
