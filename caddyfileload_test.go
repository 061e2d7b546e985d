package httphelper

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
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
	if n, _ := telemetry.InUse.References("a-whole"); n != 0 {
		t.Errorf("%d configs use a connection of none", n)
	}
}

// TestUnusableCredentialsNameTheOption: the one that was used, when the config is loaded.
func TestUnusableCredentialsNameTheOption(t *testing.T) {
	dir := t.TempDir()
	keystest.PutFile(t, filepath.Join(dir, "short"), "hunter2")
	keystest.PutFile(t, filepath.Join(dir, "weak"), string(keystest.PEM(t, "weak")))
	keystest.PutFile(t, filepath.Join(dir, "key"), string(keystest.PEM(t, "ec256")))
	for options, want := range map[string]string{
		"client_secret_jwt\nclient_secret_file $DIR/short":             "client_secret_file: HS256 needs",
		"client_secret_jwt\nclient_secret {file.$DIR/short}":           "client_secret: HS256 needs",
		"private_key_jwt\nclient_key_file $DIR/short":                  "client_key_file: neither",
		"private_key_jwt\nclient_key_file $DIR/weak":                   "client_key_file: an RSA key",
		"private_key_jwt\nclient_key {file.$DIR/weak}":                 "client_key: an RSA key",
		"private_key_jwt\nclient_key_file $DIR/key\nsigning_alg ES512": "client_key_file: its algorithm",
		"private_key_jwt\nclient_assertion_file $DIR/key":              "client_assertion_file: not an assertion",
	} {
		err := validate(t, inGlobal(strings.ReplaceAll("connection orders {\nbase_url https://api.example\ntoken_url https://auth.example/token\nclient_id app\nauth_method "+options+"\n}", "$DIR", dir)))
		if err == nil || !strings.Contains(err.Error(), "connection orders: "+want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error %v", options, err)
		}
	}
}

// TestCertificateNeedsTLS: over http nothing would be proved.
func TestCertificateNeedsTLS(t *testing.T) {
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	issuer := oauthtest.NewIssuer(t, oauthtest.OauthPlace, strings.Replace(oauthtest.PlainMetadata, "{", `{"token_endpoint_auth_methods_supported":["tls_client_auth"],`, 1))
	caddyfile := func(endpoint string) string {
		return "SITE {\n\thttp_helper http://127.0.0.1:1 {\n" + endpoint + "\nauth_method tls_client_auth\nclient_id app\nclient_certificate " + certFile + " " + keyFile + "\n}\n}\n"
	}
	err := tryCaddyfile(onPort(caddyfile("token_url http://127.0.0.1:1/token"), "http://"+freeAddress(t)))
	if err == nil || !strings.Contains(err.Error(), "no client certificate is shown") {
		t.Errorf("error %v", err)
	}
	site := runSidecar(t, caddyfile("issuer "+issuer.URL))
	resp, _ := call(t, http.MethodGet, site, nil)
	if status := resp.Header.Get("Proxy-Status"); resp.StatusCode != http.StatusBadGateway || !strings.Contains(status, "no client certificate is shown") {
		t.Errorf("status %d, %q", resp.StatusCode, status)
	}
	if got := len(issuer.All()); got != 1 {
		t.Errorf("%d requests, want only that for the metadata", got)
	}
}
