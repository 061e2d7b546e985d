package draft

import (
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Problem is what is wrong with a draft, and where.
type Problem struct {
	// The ID of a Field, `name`, `scopes` or `additional_scopes`; of a ConnectorDraft, see there. It is empty
	// when nothing of the draft alone is to blame.
	Field string

	Message string // a whole sentence or its end, after the label of the field
}

// parametersID begins the ID of a parameter's field.
const parametersID = "parameters."

// problems collects problems.
type problems []Problem

// add adds the errors that were joined, as problems of a field.
func (p *problems) add(field string, err error) {
	for _, e := range subdirective.Flatten(err) {
		if one := (Problem{field, e.Error()}); !slices.Contains(*p, one) {
			*p = append(*p, one)
		}
	}
}

// Problems returns what is wrong with the draft, by the checks that load a config. An empty secret is no
// problem; see Complete.
func (d *Draft) Problems() []Problem {
	var found problems
	for _, f := range d.Fields {
		found.add(f.ID(), d.CheckValue(f.Field, f.Value))
	}
	if d.customizes() {
		found.add("additional_scopes", subdirective.CheckWord(d.AdditionalScopes))
		found.add("additional_scopes", d.CheckAdditionalScopes(d.AdditionalScopes))
	}
	found.add("name", d.CheckName(d.Name))
	if len(found) > 0 {
		return found // what else there may be follows from these
	}
	_, err := d.Preview()
	if err == nil {
		_, err = d.Block()
	}
	for _, e := range subdirective.Flatten(err) {
		found.add(d.fieldOf(e.Error()), e)
	}
	return found
}

// parameterNamed matches a parameter's placeholder.
var parameterNamed = regexp.MustCompile(`\{param\.([A-Za-z0-9_-]+)\}`)

// fieldOf returns the ID of the field that an error is about: it begins with the option, or names the
// parameter whose value does not fit.
func (d *Draft) fieldOf(message string) string {
	option, key := optionAndKey(message)
	id := option
	if option == "parameter" {
		id = parametersID + key
	}
	switch {
	case id == "scopes", id == "additional_scopes":
		return id
	case d.has(id):
		return id
	case d.has(id + "_file"):
		return id + "_file"
	}
	for _, named := range parameterNamed.FindAllStringSubmatch(message, -1) {
		if id := parametersID + named[1]; d.has(id) {
			return id
		}
	}
	return ""
}

func (d *Draft) has(id string) bool {
	return slices.ContainsFunc(d.Fields, func(f Field) bool { return f.ID() == id })
}

// optionAndKey returns the option that an error begins with, and what follows, up to a colon or the next
// word.
func optionAndKey(message string) (option, key string) {
	head, _, _ := strings.Cut(message, ":")
	words := append(strings.Fields(head), "", "")
	return words[0], words[1]
}
