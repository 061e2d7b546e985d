package draft

import (
	"encoding/json"
	"errors"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// formOnly is a connector that has a form and checks nothing. What is previewed comes back as it is.
func formOnly(form adminapi.Connector) *Connector {
	anything := func(string) error { return nil }
	return &Connector{
		Form: form, CheckName: anything, CheckText: anything, CheckAdditionalScopes: anything,
		Preview: func(name string, connection json.RawMessage) (string, error) {
			return name + " " + string(connection), nil
		},
	}
}

// Secrets of one connection never share a place, whatever the keys are called.
func TestPlacesOfSecrets(t *testing.T) {
	form := adminapi.Connector{Name: "7-up.x", Fields: []adminapi.Field{{Key: "client_secret", Type: adminapi.TypePassword, Fixed: true}}}
	for _, key := range []string{"client_secret", "a-b", "a_b", "A_B"} {
		form.Fields = append(form.Fields, adminapi.Field{Key: key, Type: adminapi.TypePassword})
	}
	d := New(formOnly(form), &Config{Connections: map[string]json.RawMessage{"7-up.x": nil}})
	if d.Name != "7-up.x-2" {
		t.Errorf("the name is %s", d.Name)
	}
	variable := regexp.MustCompile(`^[A-Z_][A-Z0-9_]*$`)
	for dirs, places := range map[[2]string]*regexp.Regexp{
		{"", ""}:             variable,
		{"/run/secrets", ""}: regexp.MustCompile(`^/run/secrets/7_up_x_2_[a-z0-9_]+$`),
		{"", "/srv"}:         regexp.MustCompile(`^/srv/secrets/7-up.x-2/[a-z0-9_]+$`),
	} {
		d.SecretDir, d.SaveDir = dirs[0], dirs[1]
		taken := map[string]string{}
		for _, s := range d.Secrets() {
			place := s.Env + s.Path
			if other := taken[place]; other != "" || !places.MatchString(place) {
				t.Errorf("%s is in %s, as is %q", s.Field, place, other)
			}
			taken[place] = s.Field
		}
		if len(taken) != 5 {
			t.Errorf("%v: %v", dirs, taken)
		}
	}
}

// scoped is a connector with scopes to choose.
func scoped() adminapi.Connector {
	return adminapi.Connector{
		Name: "c",
		Fields: []adminapi.Field{
			{Key: "client_id", Type: adminapi.TypeText, Fixed: true},
			{Key: "client_certificate_file", Type: adminapi.TypeFile, Fixed: true},
			{Key: "client_certificate_key_file", Type: adminapi.TypeFile, Fixed: true},
			{Key: "client_id", Type: adminapi.TypePassword},
			{Key: "region", Type: adminapi.TypeDropdown, Default: "eu", Options: []adminapi.Option{{Value: "eu"}, {Value: "us"}}},
		},
		Scopes:      []adminapi.Scope{{Name: "a", Required: true}, {Name: "b"}, {Name: "c"}},
		Permissions: adminapi.Permissions{CustomizeScopes: true, AdditionalScopes: true},
	}
}

// The connection that is previewed and the one in the block are the same.
func TestConnectionOfDraft(t *testing.T) {
	d := New(formOnly(scoped()), &Config{})
	for i, value := range []string{"me", "c.pem", "k.pem", "hunter2"} {
		d.Fields[i].Value = value
	}
	d.Name, d.Customize, d.Scopes, d.AdditionalScopes = "n", true, []string{"c"}, " x y "
	preview, err := d.Preview()
	if want := `n {"additional_scopes":"x y","client_certificate_file":"c.pem","client_certificate_key_file":"k.pem","client_id":"me","connector":"c",` +
		`"parameters":{"client_id":{"value":"{env.N_CLIENT_ID}"},"region":{"value":"eu"}},"scopes":["a","c"]}`; preview != want || err != nil {
		t.Errorf("%s %v", preview, err)
	}
	const head = "# Secrets to store:\n#   environment variable N_CLIENT_ID: \n"
	const body = `connection n c {
	client_id me
	client_certificate c.pem k.pem
	parameter client_id {env.N_CLIENT_ID}
	parameter region eu
`
	block, err := d.Block()
	if want := head + body + "\tscopes a c\n\tadditional_scopes \"x y\"\n}\n"; block != want || err != nil {
		t.Errorf("%s %v", block, err)
	}

	d.Customize = false // what was chosen does not count
	preview, err = d.Preview()
	if strings.Contains(preview, "scopes") || err != nil {
		t.Errorf("%s %v", preview, err)
	}
	block, err = d.Block()
	if want := head + body + "}\n"; block != want || err != nil || !reflect.DeepEqual(d.ChosenScopes(), []string{"a", "b", "c"}) {
		t.Errorf("%s %v %v", block, err, d.ChosenScopes())
	}
}

// Every problem is at its field, and what only follows from one is not there.
func TestProblemsOfAConnection(t *testing.T) {
	connector := formOnly(scoped())
	connector.CheckAdditionalScopes = func(string) error { return errors.New("these are no scopes") }
	d := New(connector, &Config{Connections: map[string]json.RawMessage{"taken": nil}})
	d.Name, d.Customize = "taken", true
	for i, value := range []string{"", "c\x00", "k.pem", "hunter2\n", "asia"} {
		d.Fields[i].Value = value
	}
	want := []Problem{
		{"client_id", "a value is needed"},
		{"client_certificate_file", "there is a control character in it"},
		{"parameters.client_id", "there is a control character in it"},
		{"parameters.region", "must be one of eu, us"},
		{"additional_scopes", "these are no scopes"},
		{"name", "there is a connection of this name already"},
	}
	if got := d.Problems(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	d = New(connector, &Config{})
	for i, value := range []string{"me", "c.pem", "k.pem", "", "eu"} {
		d.Fields[i].Value = value
	}
	if got := d.Problems(); len(got) > 0 || d.Complete() {
		t.Errorf("%v", got)
	}
	for message, field := range map[string]string{
		"parameter region: it does not fit":              "parameters.region",
		"client_id: it does not fit":                     "client_id",
		"client_certificate: it does not fit":            "client_certificate_file",
		"scopes: none":                                   "scopes",
		"base_url: {param.region} leads to another host": "parameters.region",
		"base_url: {param.other} leads to another host":  "",
		"something else":                                 "",
	} {
		connector.Preview = func(string, json.RawMessage) (string, error) { return "", errors.New(message) }
		if got := d.Problems(); !reflect.DeepEqual(got, []Problem{{field, message}}) {
			t.Errorf("%s: %v", message, got)
		}
	}
}
