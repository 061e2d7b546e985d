package draft

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// formOnly is a connector that has a form and checks nothing. What is previewed comes back as it is.
func formOnly(form adminapi.Connector) *Connector {
	return &Connector{Form: form, Preview: func(name string, connection json.RawMessage) (string, error) {
		return name + " " + string(connection), nil
	}}
}

// Secrets of one connection never share a place, whatever the keys are called.
func TestPlacesOfSecrets(t *testing.T) {
	form := adminapi.Connector{Name: "7-up.x", Fields: []adminapi.Field{{Key: "client_secret", Type: adminapi.TypePassword, Fixed: true}}}
	for _, key := range []string{"client_secret", "a-b", "a_b", "A_B"} {
		form.Fields = append(form.Fields, adminapi.Field{Key: key, Type: adminapi.TypePassword})
	}
	d := New(formOnly(form), &Config{Connections: map[string]json.RawMessage{"7-up.x": nil}}, "/run/secrets")
	variables, files := map[string]string{}, map[string]string{}
	for _, s := range d.entries() {
		if other := variables[s.variable]; other != "" {
			t.Errorf("%s and %s share the variable %s", s.Key, other, s.variable)
		}
		if other := files[strings.ToLower(s.storage)]; other != "" {
			t.Errorf("%s and %s share the %s", s.Key, other, s.storage)
		}
		if !regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`).MatchString(s.variable) {
			t.Errorf("%s is no variable", s.variable)
		}
		variables[s.variable], files[strings.ToLower(s.storage)] = s.Key, s.Key
	}
	if d.Name != "7-up.x-2" || len(variables) != 5 {
		t.Errorf("%s: %v", d.Name, variables)
	}
}

// The connection that is previewed and the one in the block are the same.
func TestConnectionOfDraft(t *testing.T) {
	d := New(formOnly(adminapi.Connector{
		Name: "c",
		Fields: []adminapi.Field{
			{Key: "client_id", Type: adminapi.TypeText, Fixed: true},
			{Key: "client_certificate_file", Type: adminapi.TypeFile, Fixed: true},
			{Key: "client_certificate_key_file", Type: adminapi.TypeFile, Fixed: true},
			{Key: "client_id", Type: adminapi.TypePassword},
			{Key: "region", Type: adminapi.TypeDropdown, Default: "eu"},
		},
		Scopes:      []adminapi.Scope{{Name: "a", Required: true}, {Name: "b"}, {Name: "c"}},
		Permissions: adminapi.Permissions{CustomizeScopes: true},
	}), &Config{}, "")
	for i, value := range []string{"me", "c.pem", "k.pem", "hunter2"} {
		d.Fields[i].Value = value
	}
	d.Name, d.Scopes, d.AdditionalScopes = "n", "c", " x y "
	preview, err := d.Preview()
	if want := `n {"additional_scopes":"x y","client_certificate_file":"c.pem","client_certificate_key_file":"k.pem","client_id":"me","connector":"c",` +
		`"parameters":{"client_id":{"value":"{env.N_CLIENT_ID}"},"region":{"value":"eu"}},"scopes":["a","c"]}`; preview != want || err != nil {
		t.Errorf("%s %v", preview, err)
	}
	block, err := d.Block()
	if want := `# Secrets to store:
#   environment variable N_CLIENT_ID: 
connection n c {
	client_id me
	client_certificate c.pem k.pem
	parameter client_id {env.N_CLIENT_ID}
	parameter region eu
	scopes a c
	additional_scopes "x y"
}
`; block != want || err != nil {
		t.Errorf("%s %v", block, err)
	}
}
