package httphelper

import (
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys/keystest"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

// TestAliasesAreForClientsWithACertificate, whatever their method.
func TestAliasesAreForClientsWithACertificate(t *testing.T) {
	certFile, keyFile := keystest.WriteCertificate(t, t.TempDir(), "first")
	plain, mutual := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse)), oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	issuer := oauthtest.NewIssuerURL(t, `{"issuer":"ISSUER","token_endpoint":"`+plain.URL+`","mtls_endpoint_aliases":{"token_endpoint":"`+mutual.URL+`"}}`)
	connection := "connection %s {\nbase_url http://127.0.0.1:1\nissuer " + issuer + "\nclient_id app\nclient_secret s3cret\n%s\n}\n"
	loadCaddyfile(t, "{\n\thttp_helper {\n"+fmt.Sprintf(connection, "without", "")+
		fmt.Sprintf(connection, "with", "client_certificate "+certFile+" "+keyFile)+"}\n}\n")
	t.Cleanup(func() { _ = caddy.Stop() })
	for name, endpoint := range map[string]*oauthtest.Endpoint{"without": plain, "with": mutual} {
		if err := activeApp().active[name].refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		endpoint.Only(t)
	}
}
