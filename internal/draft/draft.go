// Package draft contains the drafts of a connection and of a connector, which are made by filling in forms.
// A connection's is checked, shown as the token request that follows from it, tried, written as a block for
// the Caddyfile, and saved.
//
// A draft asks and prints nothing itself, so that a terminal and a page can use it alike. It does not
// know the configuration's types: what needs them is in a Connector.
package draft

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Connector is what a draft needs of its connector.
type Connector struct {
	Form adminapi.Connector // what the connector asks of a connection

	CheckName             func(string) error // the grammar of a connection's name
	CheckText             func(string) error // the placeholders in a value
	CheckAdditionalScopes func(string) error // additional scopes as somebody typed them

	// WarnAdditionalScopes returns what is probably a mistake in additional scopes; nil: nothing ever is.
	WarnAdditionalScopes func(string) []string

	// Preview checks a connection, which is the JSON of the configuration, as far as that is possible
	// here, and describes its token request. Nobody is contacted, and no secret is in the description.
	Preview func(name string, connection json.RawMessage) (string, error)

	// Refresh makes a token request of a connection of the running config. The error is an *oauth.Error
	// or ctx's.
	Refresh func(ctx context.Context, name string) (adminapi.Connection, error)

	// Ping makes the request that proves a connection of the running config. It is nil for a connector
	// without one.
	Ping func(ctx context.Context, name string) adminapi.Ping
}

// Draft is the draft of a connection. Its fields are what was filled in.
type Draft struct {
	*Connector
	Fields []Field // those of the form
	Name   string

	// Whether scopes are chosen, where the form permits it. Otherwise the connection requests the default
	// scopes, all of the connector's, and the two fields below do not count.
	Customize        bool
	Scopes           []string // those chosen of the connector's; the required ones need not be among them
	AdditionalScopes string   // as typed

	// Where secrets will be: below SaveDir, which is absolute and where Save writes, or as files in
	// SecretDir, or without either as environment variables.
	SaveDir, SecretDir string

	config *Config
}

// Field is a field of the form.
type Field struct {
	adminapi.Field
	Value string // what was filled in; at first the default
}

// ID identifies the field in its form, and in a Problem: a parameter may have the key of a fixed field.
func (f Field) ID() string {
	if f.Fixed {
		return f.Key
	}
	return parametersID + f.Key
}

// New returns a draft for a connector, with the form's defaults and a name that the config does not have.
func New(connector *Connector, config *Config) *Draft {
	d := &Draft{Connector: connector, config: config}
	for _, field := range d.Form.Fields {
		d.Fields = append(d.Fields, Field{Field: field, Value: field.Default})
	}
	d.Name = Unique(d.Form.Name, "-", config.names())
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

// CheckValue checks a value that is typed for a field. A secret may be left empty: it will not be in the
// Caddyfile.
func (d *Draft) CheckValue(field adminapi.Field, value string) error {
	switch {
	case strings.ContainsFunc(value, unicode.IsControl):
		return errControl
	case field.Type == adminapi.TypePassword:
		return nil
	case value == "":
		return errors.New("a value is needed")
	case field.Type == adminapi.TypeDropdown:
		return subdirective.OneOf(values(field.Options)...)(value)
	}
	if err := subdirective.CheckWord(value); err != nil {
		return err
	}
	return d.CheckText(value)
}

func values(options []adminapi.Option) []string {
	all := make([]string, len(options))
	for i, o := range options {
		all[i] = o.Value
	}
	return all
}

// CheckName checks the name of the connection.
func (d *Draft) CheckName(name string) error {
	if d.config.names()[name] {
		return errTaken("connection")
	}
	if d.SaveDir != "" && filepath.IsLocal(name) {
		if _, err := os.Lstat(d.blockFile(name)); err == nil {
			return errTaken("file")
		}
	}
	return d.Connector.CheckName(name)
}

// Complete reports whether all secrets are filled in, so that the draft can be tried.
func (d *Draft) Complete() bool { return len(d.Missing()) == 0 }

// Preview checks the draft as far as that is possible here, and describes the token request that
// follows from it. Nobody is contacted, and no secret is in it.
func (d *Draft) Preview() (string, error) {
	return d.Connector.Preview(d.Name, d.connection(func(e entry) string { return e.written }))
}

// connection returns the connection as JSON, with what is written for each field. Fixed fields have the
// names of a connection's options.
func (d *Draft) connection(written func(entry) string) json.RawMessage {
	parameters := make(map[string]any)
	connection := map[string]any{"connector": d.Form.Name, "parameters": parameters}
	for _, e := range d.entries() {
		if e.Fixed {
			connection[e.Key] = written(e)
		} else {
			parameters[e.Key] = map[string]string{"value": written(e)}
		}
	}
	if d.customizes() {
		connection["scopes"] = d.ChosenScopes()
		connection["additional_scopes"] = strings.TrimSpace(d.AdditionalScopes)
	}
	return caddyconfig.JSON(connection, nil)
}

// customizes reports whether the connection chooses its scopes.
func (d *Draft) customizes() bool { return d.Customize && d.Form.Permissions.CustomizeScopes }

// ChosenScopes returns those of the connector's scopes that are requested, in its order: with the default
// scopes all of them.
func (d *Draft) ChosenScopes() []string {
	chosen := []string{}
	for _, s := range d.Form.Scopes {
		if !d.customizes() || s.Required || slices.Contains(d.Scopes, s.Name) {
			chosen = append(chosen, s.Name)
		}
	}
	return chosen
}

// Block returns the connection as a block for the Caddyfile, with comments on where its secrets are.
func (d *Draft) Block() (string, error) {
	entries := d.entries()
	w := new(subdirective.Writer)
	d.comments(w)
	w.Block(func() {
		writeFields(w, entries)
		if d.customizes() {
			w.Line(append([]string{"scopes"}, d.ChosenScopes()...)...)
			w.Option("additional_scopes", strings.TrimSpace(d.AdditionalScopes))
		}
	}, "connection", d.Name, d.Form.Name)
	return w.Result()
}

// comments writes which secrets are stored where, and which have to be.
func (d *Draft) comments(w *subdirective.Writer) {
	var stored, missing []Secret
	for _, s := range d.Secrets() {
		if d.SaveDir != "" && s.Value != "" {
			stored = append(stored, s)
		} else {
			missing = append(missing, s)
		}
	}
	list := func(title string, secrets []Secret) {
		if len(secrets) > 0 {
			w.Comment("%s", title)
		}
		for _, s := range secrets {
			w.Comment("  %s: %s", s.Place(), s.Label)
		}
	}
	list("Secrets:", stored)
	list("Secrets to store:", missing)
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
