// Package draft contains the draft of a connection, which is made by filling in a connector's form. It
// is checked, shown as the token request that follows from it, tried, and written as a block for the
// Caddyfile.
//
// A draft asks and prints nothing itself, so that a terminal and a page can use it alike. It does not
// know the configuration's types: what needs them is behind the interface Connector.
package draft

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Config is the part of Caddy's configuration that drafts are about, by name.
type Config struct {
	Connectors  map[string]json.RawMessage `json:"connectors"`
	Connections map[string]json.RawMessage `json:"connections"`
}

// Connector is what a draft needs of its connector. Connections are passed as the JSON of the
// configuration.
type Connector interface {
	// Form returns what the connector asks of a connection.
	Form() adminapi.Connector

	// CheckName checks the grammar of a connection's name.
	CheckName(name string) error

	// CheckText checks the placeholders in a value.
	CheckText(value string) error

	// CheckAdditionalScopes checks additional scopes as somebody typed them.
	CheckAdditionalScopes(typed string) error

	// Preview checks a connection as far as that is possible here, and describes its token request.
	// Nobody is contacted, and no secret is in the description.
	Preview(name string, connection json.RawMessage) (string, error)

	// Try makes one token request in this process, in a Caddy that does nothing else. The error says
	// why that was not possible, or it is ctx's.
	Try(ctx context.Context, name string, connection json.RawMessage) (Trial, error)
}

// Trial is the result of a token request.
type Trial struct {
	Failure    error // why there is no token; nil: there is one
	Connection adminapi.Connection
}

// Draft is the draft of a connection. Its fields are what was filled in.
type Draft struct {
	Form             adminapi.Connector
	Name             string
	Scopes           string // those chosen of the connector's, separated by spaces
	AdditionalScopes string // as typed

	connector Connector
	taken     map[string]bool    // names of connections
	values    map[string]*string // by fieldID
	secretDir string             // where secrets will be files; empty: they will be variables
}

// New returns a draft for a connector, with the form's defaults. Secrets will be files in
// secretDir or, without one, environment variables.
func New(connector Connector, config *Config, secretDir string) *Draft {
	d := &Draft{
		Form: connector.Form(), connector: connector, secretDir: secretDir,
		taken: make(map[string]bool), values: make(map[string]*string),
	}
	for name := range config.Connections {
		d.taken[name] = true
	}
	for _, field := range d.Form.Fields {
		value := ""
		if field.Default != nil {
			value = *field.Default
		}
		d.values[fieldID(field)] = &value
	}
	d.Name = Unique(d.Form.Name, "-", d.taken)
	return d
}

// Unique returns a name or, if that is taken, the name with the first number that makes it unique.
func Unique(name, separator string, taken map[string]bool) string {
	unique := name
	for i := 2; taken[unique]; i++ {
		unique = name + separator + strconv.Itoa(i)
	}
	return unique
}

// fieldID identifies a field: a parameter may have the key of a fixed one.
func fieldID(f adminapi.Field) string {
	if f.Fixed {
		return f.Key
	}
	return "parameter " + f.Key
}

// Value returns where the value of a field of the form is filled in.
func (d *Draft) Value(field adminapi.Field) *string { return d.values[fieldID(field)] }

// CheckValue checks the value of a field. A secret may be left empty, and is not checked: it will not
// be in the Caddyfile.
func (d *Draft) CheckValue(field adminapi.Field, value string) error {
	switch {
	case field.Type == adminapi.TypePassword:
		return nil
	case field.Type == adminapi.TypeDropdown:
		values := make([]string, len(field.Options))
		for i, o := range field.Options {
			values[i] = o.Value
		}
		return subdirective.OneOf(values...)(value)
	case value == "":
		return errors.New("a value is needed")
	default:
		return d.connector.CheckText(value)
	}
}

// CheckName checks the name of the connection.
func (d *Draft) CheckName(name string) error {
	if d.taken[name] {
		return errors.New("there is a connection of this name already")
	}
	return d.connector.CheckName(name)
}

// CheckAdditionalScopes checks additional scopes as somebody typed them.
func (d *Draft) CheckAdditionalScopes(typed string) error {
	return d.connector.CheckAdditionalScopes(typed)
}

// Preview checks the draft as far as that is possible here, and describes the token request that
// follows from it. Nobody is contacted, and no secret is in it.
func (d *Draft) Preview() (string, error) {
	connection, err := d.connection((*secret).placeholder)
	if err != nil {
		return "", err
	}
	return d.connector.Preview(d.Name, connection)
}

// Try makes one token request in this process, which gets the secrets as environment variables. The
// error says why that was not possible, or it is ctx's.
func (d *Draft) Try(ctx context.Context) (Trial, error) {
	for _, s := range d.secrets() {
		if err := os.Setenv(s.variable, s.value); err != nil {
			return Trial{}, err
		}
	}
	connection, err := d.connection(func(s *secret) string { return "{env." + s.variable + "}" })
	if err != nil {
		return Trial{}, err
	}
	return d.connector.Try(ctx, d.Name, connection)
}

// connection returns the connection as JSON, with what place returns instead of its secrets. Fixed fields
// have the names of a connection's options.
func (d *Draft) connection(place func(*secret) string) (json.RawMessage, error) {
	secrets := d.secrets()
	parameters := make(map[string]any)
	connection := map[string]any{
		"connector":         d.Form.Name,
		"parameters":        parameters,
		"additional_scopes": strings.TrimSpace(d.AdditionalScopes),
	}
	for _, field := range d.Form.Fields {
		value := *d.Value(field)
		if s := secrets[fieldID(field)]; s != nil {
			value = place(s)
		}
		if field.Fixed {
			connection[field.Key] = value
		} else {
			parameters[field.Key] = map[string]string{"value": value}
		}
	}
	if d.Form.Permissions.CustomizeScopes {
		connection["scopes"] = d.chosenScopes()
	}
	return json.Marshal(connection)
}

// chosenScopes returns those of the connector's scopes that are requested, in its order.
func (d *Draft) chosenScopes() []string {
	chosen := []string{}
	for _, s := range d.Form.Scopes {
		if s.Required || slices.Contains(strings.Fields(d.Scopes), s.Name) {
			chosen = append(chosen, s.Name)
		}
	}
	return chosen
}

// Block returns the connection as a block for the Caddyfile, with comments on what to store where.
func (d *Draft) Block() (string, error) {
	secrets := d.secrets()
	w := new(subdirective.Writer)
	d.writeSecrets(w, secrets)
	w.Block(func() {
		for _, field := range d.Form.Fields {
			value := *d.Value(field)
			if s := secrets[fieldID(field)]; s != nil {
				value = s.placeholder()
			}
			d.writeField(w, field, value)
		}
		if d.Form.Permissions.CustomizeScopes {
			w.Line(append([]string{"scopes"}, d.chosenScopes()...)...)
		}
		w.Option("additional_scopes", strings.TrimSpace(d.AdditionalScopes))
	}, "connection", d.Name, d.Form.Name)
	return w.Result()
}

// writeField writes a field as an option of a connection. The Caddyfile has one option for both files
// of a certificate.
func (d *Draft) writeField(w *subdirective.Writer, field adminapi.Field, value string) {
	const certificateFile, keyFile = "client_certificate_file", "client_certificate_key_file"
	switch {
	case !field.Fixed:
		w.Line("parameter", field.Key, value)
	case field.Key == certificateFile && value != "":
		w.Line("client_certificate", value, *d.values[keyFile])
	case field.Key != certificateFile && field.Key != keyFile:
		w.Option(field.Key, value)
	}
}

func (d *Draft) writeSecrets(w *subdirective.Writer, secrets map[string]*secret) {
	if len(secrets) == 0 {
		return
	}
	w.Comment("Secrets to store:")
	for _, field := range d.Form.Fields {
		if s := secrets[fieldID(field)]; s != nil {
			w.Comment("  %s: %s", s.storage(), field.Label)
		}
	}
}
