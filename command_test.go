package httphelper

import (
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

func TestTokenRequestByMethod(t *testing.T) {
	for method, want := range map[string][]string{
		"client_secret_basic": {"Authorization: Basic with id and (the client secret)"},
		"client_secret_post":  {"client_id = id", "client_secret = (the client secret)"},
		"client_secret_jwt":   {"client_id = id", "client_assertion = (signed, a new one each time)"},
		"private_key_jwt":     {"client_id = id", "client_assertion = (signed, a new one each time)"},
		"tls_client_auth":     {"client_id = id"},
		"none":                {"client_id = id"},
	} {
		connector := &Connector{Service: Service{AuthMethod: method, BaseURL: "https://api.example", TokenURL: "https://auth.example/token?key=query-secret"}}
		if err := connector.checkAlone("c"); err != nil {
			t.Fatal(err)
		}
		d := draft.New(connector.forDraft(), new(draft.Config))
		for i := range d.Fields {
			d.Fields[i].Value = "id"
		}
		preview, err := d.Preview()
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		for _, text := range append(want, "POST https://auth.example/token\n", "grant_type = client_credentials") {
			if !strings.Contains(preview, text) {
				t.Errorf("%s: %q is not in\n%s", method, text, preview)
			}
		}
		if strings.Contains(preview, "query-secret") || strings.Contains(preview, "scope") {
			t.Errorf("%s:\n%s", method, preview)
		}
	}
}
