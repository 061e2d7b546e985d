package draft

import (
	"path"
	"regexp"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// secret is a secret of a draft. It is not written into the Caddyfile.
type secret struct {
	value    string
	variable string // its environment variable
	file     string // its file; empty: it is in the variable
}

// placeholder returns the placeholder for the secret in a Caddyfile.
func (s *secret) placeholder() string {
	if s.file != "" {
		return "{file." + s.file + "}"
	}
	return "{env." + s.variable + "}"
}

// storage returns where the secret has to be stored.
func (s *secret) storage() string {
	if s.file != "" {
		return "file " + s.file
	}
	return "environment variable " + s.variable
}

// secrets returns the secrets of the draft, by the fieldID of their field.
func (d *Draft) secrets() map[string]*secret {
	secrets := make(map[string]*secret)
	taken := make(map[string]bool)
	for _, field := range d.Form.Fields {
		if field.Type != adminapi.TypePassword {
			continue
		}
		variable := Unique(variableName(d.Name+"_"+field.Key), "_", taken)
		taken[variable] = true
		s := &secret{value: *d.Value(field), variable: variable}
		if d.secretDir != "" {
			s.file = path.Join(d.secretDir, strings.ToLower(strings.TrimPrefix(variable, "_")))
		}
		secrets[fieldID(field)] = s
	}
	return secrets
}

var notInVariable = regexp.MustCompile(`[^A-Z0-9]+`)

// variableName returns a text as the name of an environment variable.
func variableName(text string) string {
	variable := notInVariable.ReplaceAllString(strings.ToUpper(text), "_")
	if variable[0] <= '9' {
		variable = "_" + variable
	}
	return variable
}

// Complete reports whether all secrets are filled in, so that the draft can be tried.
func (d *Draft) Complete() bool {
	for _, s := range d.secrets() {
		if s.value == "" {
			return false
		}
	}
	return true
}
