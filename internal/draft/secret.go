package draft

import (
	"errors"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Secret is a secret of a connection, and where it has to be stored: in an environment variable or a file.
type Secret struct {
	Field string // the ID of its field
	Label string
	Env   string // the variable; empty: it is a file
	Path  string // of the file; empty: it is a variable
	Value string // empty: it is stored later
}

// Place returns where the secret is stored, in words.
func (s Secret) Place() string {
	if s.Path != "" {
		return "file " + s.Path
	}
	return "environment variable " + s.Env
}

// placeholder returns what stands for the secret in the Caddyfile.
func (s Secret) placeholder() string {
	if s.Path != "" {
		return "{file." + s.Path + "}"
	}
	return "{env." + s.Env + "}"
}

// Secrets returns the connection's secrets, in the order of the fields.
func (d *Draft) Secrets() []Secret {
	var secrets []Secret
	for _, e := range d.entries() {
		if e.secret != nil {
			secrets = append(secrets, *e.secret)
		}
	}
	return secrets
}

// entry is a field as it is written.
type entry struct {
	Field
	written string  // the value or, for a secret, a placeholder
	secret  *Secret // nil: it is none
}

// entries returns the fields as they are written.
func (d *Draft) entries() []entry {
	entries := make([]entry, len(d.Fields))
	taken := make(map[string]bool)
	for i, field := range d.Fields {
		entries[i] = entry{Field: field, written: field.Value}
		if field.Type == adminapi.TypePassword {
			secret := d.secret(field, taken)
			entries[i].written, entries[i].secret = secret.placeholder(), &secret
		}
	}
	return entries
}

// secret returns where a secret is stored. No two of a connection share a place, which taken is for.
func (d *Draft) secret(field Field, taken map[string]bool) Secret {
	name := d.Name + "_" + field.Key
	if d.SaveDir != "" { // its directory has the connection's name
		name = field.Key
	}
	variable := Unique(variableName(name), "_", taken)
	taken[variable] = true
	file := strings.ToLower(strings.TrimPrefix(variable, "_"))
	s := Secret{Field: field.ID(), Label: field.Label, Value: field.Value}
	switch {
	case d.SaveDir != "":
		s.Path = filepath.Join(d.SaveDir, secretsDir, d.Name, file)
	case d.SecretDir != "":
		s.Path = filepath.Join(d.SecretDir, file)
	default:
		s.Env = variable
	}
	return s
}

// CheckDir checks that the Caddyfile can name files in a directory.
func CheckDir(dir string) error {
	if strings.ContainsAny(dir, "{}") {
		return errors.New("the path has braces, which a placeholder cannot have")
	}
	return subdirective.CheckWord(dir)
}

var notInVariable = regexp.MustCompile(`[^A-Z0-9]+`)

// variableName returns a text as the name of an environment variable.
func variableName(text string) string {
	variable := notInVariable.ReplaceAllString(strings.ToUpper(text), "_")
	if variable == "" || variable[0] <= '9' {
		variable = "_" + variable
	}
	return variable
}
