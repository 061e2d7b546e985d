// Package draft contains the draft of a connection, which is made by filling in a connector's form. It
// is checked, shown as the token request that follows from it, tried, and written as a block for the
// Caddyfile.
//
// A draft asks and prints nothing itself, so that a terminal and a page can use it alike. It does not
// know the configuration's types: what needs them is in a Connector.
package draft

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Config is the part of Caddy's configuration that drafts are about, by name.
type Config struct {
	Connectors  map[string]json.RawMessage `json:"connectors"`
	Connections map[string]json.RawMessage `json:"connections"`
}

// Connector is what a draft needs of its connector.
type Connector struct {
	Form adminapi.Connector // what the connector asks of a connection

	CheckName             func(string) error // the grammar of a connection's name
	CheckText             func(string) error // the placeholders in a value
	CheckAdditionalScopes func(string) error // additional scopes as somebody typed them

	// Preview checks a connection, which is the JSON of the configuration, as far as that is possible
	// here, and describes its token request. Nobody is contacted, and no secret is in the description.
	Preview func(name string, connection json.RawMessage) (string, error)

	// Refresh makes a token request of a connection of the running config. The error is an *oauth.Error
	// or ctx's.
	Refresh func(ctx context.Context, name string) (adminapi.Connection, error)
}

// Draft is the draft of a connection. Its fields are what was filled in.
type Draft struct {
	*Connector
	Fields           []Field // those of the form
	Name             string
	Scopes           string // those chosen of the connector's, separated by spaces
	AdditionalScopes string // as typed

	config    *Config
	secretDir string // where secrets will be files; empty: they will be variables
}

// Field is a field of the form.
type Field struct {
	adminapi.Field
	Value string // what was filled in; at first the default
}

// New returns a draft for a connector, with the form's defaults. Secrets will be files in
// secretDir or, without one, environment variables.
func New(connector *Connector, config *Config, secretDir string) *Draft {
	d := &Draft{Connector: connector, config: config, secretDir: secretDir}
	for _, field := range d.Form.Fields {
		d.Fields = append(d.Fields, Field{Field: field, Value: field.Default})
	}
	d.Name = Unique(d.Form.Name, "-", config.Connections)
	return d
}

// Unique returns a name or, if that is taken, the name with the first number that makes it unique.
func Unique[V any](name, separator string, taken map[string]V) string {
	candidate := name
	for i := 2; ; i++ {
		if _, found := taken[candidate]; !found {
			return candidate
		}
		candidate = name + separator + strconv.Itoa(i)
	}
}

// CheckValue checks a value that is typed for a field. A secret may be left empty, and is not checked: it
// will not be in the Caddyfile.
func (d *Draft) CheckValue(field adminapi.Field, value string) error {
	switch {
	case field.Type == adminapi.TypePassword:
		return nil
	case value == "":
		return errors.New("a value is needed")
	}
	if err := subdirective.CheckWord(value); err != nil {
		return err
	}
	return d.CheckText(value)
}

// CheckName checks the name of the connection.
func (d *Draft) CheckName(name string) error {
	if _, taken := d.config.Connections[name]; taken {
		return errors.New("there is a connection of this name already")
	}
	return d.Connector.CheckName(name)
}

// Complete reports whether all secrets are filled in, so that the draft can be tried.
func (d *Draft) Complete() bool {
	return !slices.ContainsFunc(d.Fields, func(f Field) bool { return f.Type == adminapi.TypePassword && f.Value == "" })
}

// Preview checks the draft as far as that is possible here, and describes the token request that
// follows from it. Nobody is contacted, and no secret is in it.
func (d *Draft) Preview() (string, error) {
	return d.Connector.Preview(d.Name, d.connection())
}

// Try makes one token request in this process, in a Caddy that does nothing else. It gets the secrets as
// environment variables. The error is an *oauth.Error when there is no token, or ctx's; any other one says
// why trying was not possible.
func (d *Draft) Try(ctx context.Context) (adminapi.Connection, error) {
	tried := *d
	tried.secretDir = ""
	for _, e := range tried.entries() {
		if e.variable == "" {
			continue
		}
		if err := os.Setenv(e.variable, e.Value); err != nil {
			return adminapi.Connection{}, err
		}
	}
	err := caddy.Load(caddyconfig.JSON(map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": json.RawMessage(`{"logs": {"default": {"level": "FATAL"}}}`),
		"apps": map[string]any{"http_helper": Config{
			Connectors:  map[string]json.RawMessage{d.Form.Name: d.config.Connectors[d.Form.Name]},
			Connections: map[string]json.RawMessage{d.Name: tried.connection()},
		}},
	}, nil), true)
	if err != nil {
		return adminapi.Connection{}, errors.New(err.Error()) // whatever it wraps, nothing was requested
	}
	defer func() { _ = caddy.Stop() }()
	return d.Refresh(ctx, d.Name)
}

// connection returns the connection as JSON. Fixed fields have the names of a connection's options.
func (d *Draft) connection() json.RawMessage {
	parameters := make(map[string]any)
	connection := map[string]any{
		"connector":         d.Form.Name,
		"parameters":        parameters,
		"additional_scopes": strings.TrimSpace(d.AdditionalScopes),
	}
	for _, e := range d.entries() {
		if e.Fixed {
			connection[e.Key] = e.written
		} else {
			parameters[e.Key] = map[string]string{"value": e.written}
		}
	}
	if d.Form.Permissions.CustomizeScopes {
		connection["scopes"] = d.chosenScopes()
	}
	return caddyconfig.JSON(connection, nil)
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
	entries := d.entries()
	w := new(subdirective.Writer)
	secrets := slices.DeleteFunc(slices.Clone(entries), func(e entry) bool { return e.storage == "" })
	if len(secrets) > 0 {
		w.Comment("Secrets to store:")
	}
	for _, s := range secrets {
		w.Comment("  %s: %s", s.storage, s.Label)
	}
	w.Block(func() {
		writeFields(w, entries)
		if d.Form.Permissions.CustomizeScopes {
			w.Line(append([]string{"scopes"}, d.chosenScopes()...)...)
		}
		w.Option("additional_scopes", strings.TrimSpace(d.AdditionalScopes))
	}, "connection", d.Name, d.Form.Name)
	return w.Result()
}

// writeFields writes the fields as options of a connection. The Caddyfile has one option for both files of
// a certificate, which are next to each other.
func writeFields(w *subdirective.Writer, entries []entry) {
	certificate := ""
	for _, e := range entries {
		switch {
		case !e.Fixed:
			w.Line("parameter", e.Key, e.written)
		case e.Key == "client_certificate_file":
			certificate = e.written
		case e.Key == "client_certificate_key_file":
			w.Option("client_certificate", certificate, e.written)
		default:
			w.Option(e.Key, e.written)
		}
	}
}
