package draft

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// formOnly is a connector that has a form and checks nothing. What is previewed comes back as it is.
type formOnly struct{ form adminapi.Connector }

func (f formOnly) Form() adminapi.Connector           { return f.form }
func (f formOnly) CheckName(string) error             { return nil }
func (f formOnly) CheckText(string) error             { return nil }
func (f formOnly) CheckAdditionalScopes(string) error { return nil }
func (f formOnly) Preview(name string, connection json.RawMessage) (string, error) {
	return name + " " + string(connection), nil
}

func (f formOnly) Try(context.Context, string, json.RawMessage) (Trial, error) {
	return Trial{}, errors.New("not here")
}

// Secrets of one connection never share a place, whatever the keys are called.
func TestPlacesOfSecrets(t *testing.T) {
	form := adminapi.Connector{Name: "7-up.x", Fields: []adminapi.Field{{Key: "client_secret", Type: adminapi.TypePassword, Fixed: true}}}
	for _, key := range []string{"client_secret", "a-b", "a_b", "A_B"} {
		form.Fields = append(form.Fields, adminapi.Field{Key: key, Type: adminapi.TypePassword})
	}
	d := New(formOnly{form}, &Config{Connections: map[string]json.RawMessage{"7-up.x": nil}}, "/run/secrets")
	variables, files := map[string]string{}, map[string]string{}
	for id, s := range d.secrets() {
		if other := variables[s.variable]; other != "" {
			t.Errorf("%s and %s share the variable %s", id, other, s.variable)
		}
		if other := files[strings.ToLower(s.file)]; other != "" {
			t.Errorf("%s and %s share the file %s", id, other, s.file)
		}
		if !regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`).MatchString(s.variable) {
			t.Errorf("%s is no variable", s.variable)
		}
		variables[s.variable], files[strings.ToLower(s.file)] = id, id
	}
	if d.Name != "7-up.x-2" || len(variables) != 5 {
		t.Errorf("%s: %v", d.Name, variables)
	}
}

// The connection that is previewed and the one in the block are the same.
func TestConnectionOfDraft(t *testing.T) {
	preset := "eu"
	d := New(formOnly{adminapi.Connector{
		Name: "c",
		Fields: []adminapi.Field{
			{Key: "client_id", Type: adminapi.TypeText, Fixed: true},
			{Key: "client_certificate_file", Type: adminapi.TypeFile, Fixed: true},
			{Key: "client_certificate_key_file", Type: adminapi.TypeFile, Fixed: true},
			{Key: "client_id", Type: adminapi.TypePassword},
			{Key: "region", Type: adminapi.TypeDropdown, Default: &preset},
		},
		Scopes:      []adminapi.Scope{{Name: "a", Required: true}, {Name: "b"}, {Name: "c"}},
		Permissions: adminapi.Permissions{CustomizeScopes: true},
	}}, &Config{}, "")
	for i, value := range []string{"me", "c.pem", "k.pem", "hunter2"} {
		*d.Value(d.Form.Fields[i]) = value
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
