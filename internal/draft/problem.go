package draft

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
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
		field := d.fieldOf(e.Error())
		found.add(field, withoutParameter(field, e))
	}
	return found
}

// withoutParameter returns an error about the value of a parameter without the placeholder, which stands for the field
// that it is shown beside, and without the option that has it.
func withoutParameter(field string, err error) error {
	key, ok := strings.CutPrefix(field, parametersID)
	if _, reason, found := strings.Cut(err.Error(), "{param."+key+"}: "); ok && found {
		return errors.New(reason)
	}
	return err
}

// Missing returns the secrets that are still to be filled in before the draft can be tried.
func (d *Draft) Missing() []Problem {
	var found problems
	for _, f := range d.Fields {
		if f.Type == adminapi.TypePassword && f.Value == "" {
			found.add(f.ID(), errors.New("it cannot be tried without this secret"))
		}
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
