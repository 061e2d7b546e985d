package draft

import (
	"path"
	"regexp"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// entry is a field as it is written.
type entry struct {
	Field
	written string // the value or, for a secret, a placeholder

	// Of a secret; empty for others.
	variable string // its environment variable
	storage  string // where it has to be stored, in words
}

// entries returns the fields as they are written.
func (d *Draft) entries() []entry {
	entries := make([]entry, len(d.Fields))
	taken := make(map[string]bool)
	for i, field := range d.Fields {
		e := entry{Field: field, written: field.Value}
		if field.Type == adminapi.TypePassword {
			e.variable = Unique(variableName(d.Name+"_"+field.Key), "_", taken)
			taken[e.variable] = true
			e.written, e.storage = "{env."+e.variable+"}", "environment variable "+e.variable
			if d.secretDir != "" {
				file := path.Join(d.secretDir, strings.ToLower(strings.TrimPrefix(e.variable, "_")))
				e.written, e.storage = "{file."+file+"}", "file "+file
			}
		}
		entries[i] = e
	}
	return entries
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
