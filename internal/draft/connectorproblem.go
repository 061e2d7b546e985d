package draft

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// problems returns the problems that loading the connector found, at their fields, and those that only a
// Caddyfile has.
func (d *ConnectorDraft) problems(loading error) []Problem {
	var found problems
	if _, taken := d.config.Connectors[d.Name]; taken {
		found.add("name", errTaken("connector"))
	}
	if _, err := d.Ping.statuses(); err != nil {
		found.add("ping.statuses", err)
	}
	for _, text := range d.texts() {
		if err := subdirective.CheckWord(text.value); err != nil {
			found.add(text.field, err)
		}
	}
	for _, err := range subdirective.Flatten(loading) {
		found.add(d.fieldOf(err.Error()), withoutOption(err))
	}
	return found
}

// textOf is the text of a field.
type textOf struct{ field, value string }

// texts returns all texts that are written into the Caddyfile.
func (d *ConnectorDraft) texts() []textOf {
	all := []textOf{
		{"name", d.Name},
		{"label", d.Label},
		{"token_url", d.TokenURL},
		{"base_url", d.BaseURL},
		{"scopes_help", d.ScopesHelp},
		{"ping.method", d.Ping.Method},
		{"ping.path", d.Ping.Path},
	}
	for i, s := range d.Scopes {
		all = append(all, inRowOf("scopes", i, textOf{"name", s.Name}, textOf{"description", s.Description})...)
	}
	for i, p := range d.Parameters {
		all = append(all, inRowOf("parameters", i, p.texts()...)...)
	}
	for i, v := range d.ConfigValues {
		all = append(all, inRowOf("config_values", i, v.texts()...)...)
	}
	for _, list := range []struct {
		name  string
		pairs []PairDraft
	}{{"token_request_params", d.TokenRequestParams}, {"api_headers", d.APIHeaders}, {"api_query", d.APIQuery}} {
		for i, p := range list.pairs {
			all = append(all, inRowOf(list.name, i, textOf{"name", p.Name}, textOf{"value", p.Value})...)
		}
	}
	return all
}

// inRowOf returns texts with the names of their fields in a row.
func inRowOf(list string, i int, texts ...textOf) []textOf {
	for n := range texts {
		texts[n].field = rowField(list, i, texts[n].field)
	}
	return texts
}

func (p ParameterDraft) texts() []textOf {
	all := append(make([]textOf, 0, 3+2*len(p.Options)), textOf{"key", p.Key}, textOf{"label", p.Label}, textOf{"default", p.Default})
	for _, o := range p.Options {
		all = append(all, textOf{"options", o.Value}, textOf{"options", o.Label})
	}
	return all
}

// texts returns the texts that count with the value's source.
func (v ConfigValueDraft) texts() []textOf {
	all := []textOf{{"key", v.Key}, {"label", v.Label}}
	switch v.Source {
	case SourceRequest:
		all = append(all, textOf{"method", v.Method}, textOf{"url", v.URL}, textOf{"body", v.Body}, textOf{"pointer", v.Pointer})
		for _, h := range v.Headers {
			all = append(all, textOf{"headers", h.Name}, textOf{"headers", h.Value})
		}
	case SourceTemplate:
		all = append(all, textOf{"template", v.Template})
	default:
		all = append(all, textOf{"value", v.Value})
	}
	return all
}

// rowField returns the field of a row, or without a name that of the whole row.
func rowField(list string, i int, name string) string {
	return strings.TrimSuffix(list+"."+strconv.Itoa(i)+"."+name, ".")
}

// plainOptions are those whose field has the same name.
var plainOptions = []string{
	"label", "base_url", "token_url", "auth_method", "customize_scopes", "additional_scopes", "scopes_delimiter", "scopes_help",
}

// fieldOf returns the field that an error of loading is about. It begins with its option, which may be that
// of a row.
func (d *ConnectorDraft) fieldOf(message string) string {
	option, _ := optionAndKey(message)
	_, reason, _ := strings.Cut(message, ": ")
	switch {
	case strings.HasPrefix(message, "a name consists of"):
		return "name"
	case slices.Contains(plainOptions, option):
		return option
	}
	switch option {
	case "scope":
		return inRow("scopes", d.aboutScope(message), scopePart(message))
	case "parameter":
		i := lastIndex(d.Parameters, func(p ParameterDraft) bool { return !p.empty() && isAbout(message, option, p.Key) })
		return inRow("parameters", i, part(reason, parameterParts))
	case "config_value":
		return inRow("config_values", d.aboutConfigValue(message, option), part(reason, configValueParts))
	case "flow":
		return d.flowField(d.aboutConfigValue(message, option), reason)
	case "token_request_param":
		return pairField("token_request_params", d.TokenRequestParams, option, message)
	case "api_header":
		return pairField("api_headers", d.APIHeaders, option, message)
	case "api_query":
		return pairField("api_query", d.APIQuery, option, message)
	case "ping":
		return part(reason, pingParts)
	}
	return ""
}

// aboutScope returns the index of the scope that an error is about, or -1. A scope may have colons in its name. An
// error that names none is about the first that is no scope, or that is there again.
func (d *ConnectorDraft) aboutScope(message string) int {
	const again = "is defined twice"
	i := lastIndex(d.Scopes, func(s ScopeDraft) bool {
		return s.Name != "" && (isAbout(message, "scope", s.Name) || message == "scope "+s.Name+" "+again)
	})
	switch {
	case i >= 0:
		return i
	case strings.HasSuffix(message, again):
		return lastIndex(d.Scopes, func(s ScopeDraft) bool { return s.Name != "" && d.countScopes(s.Name) > 1 })
	default:
		return slices.IndexFunc(d.Scopes, func(s ScopeDraft) bool { return s != (ScopeDraft{}) && !oauth.IsScope(s.Name) })
	}
}

func (d *ConnectorDraft) countScopes(name string) int {
	n := 0
	for _, s := range d.Scopes {
		if s.Name == name {
			n++
		}
	}
	return n
}

// isAbout reports whether an error is about the option of a name.
func isAbout(message, option, name string) bool {
	head := option + " " + name + ": "
	return len(message) > len(head) && strings.EqualFold(message[:len(head)], head)
}

// aboutConfigValue returns the index of the config value that an error is about, or -1.
func (d *ConnectorDraft) aboutConfigValue(message, option string) int {
	return lastIndex(d.ConfigValues, func(v ConfigValueDraft) bool { return !v.empty() && isAbout(message, option, v.Key) })
}

// inRow returns the field of a row, or "" when there is none of this index.
func inRow(list string, i int, name string) string {
	if i < 0 {
		return ""
	}
	return rowField(list, i, name)
}

func lastIndex[T any](rows []T, matches func(T) bool) int {
	for i, r := range slices.Backward(rows) {
		if matches(r) {
			return i
		}
	}
	return -1
}

// wordPart maps a word in the reason of an error to a part of a row.
type wordPart struct{ word, part string }

var (
	parameterParts = []wordPart{
		{"the type", "type"},
		{"the default", "default"},
		{"option", "options"},
		{"", "key"},
	}
	configValueParts = []wordPart{
		{"the type", "type"},
		{"the key", "key"},
		{"a key consists", "key"},
		{"", "value"},
	}
	requestParts = []wordPart{
		{"url", "url"},
		{"URL", "url"},
		{"the method", "method"},
		{"pointer", "pointer"},
		{"header", "headers"},
		{"body", "body"},
		{"a key consists", "key"},
		{"the name", "key"},
		{"", "url"},
	}
	pingParts = []wordPart{
		{"the method", "ping.method"},
		{"status", "ping.statuses"},
		{"", "ping.path"},
	}
)

// part returns the part of the first word that is in the reason.
func part(reason string, parts []wordPart) string {
	for _, p := range parts {
		if strings.Contains(reason, p.word) {
			return p.part
		}
	}
	return ""
}

func scopePart(message string) string {
	if strings.Contains(message, "required needs") {
		return "required"
	}
	return "name"
}

// flowField returns the field that an error about the flow of a config value is about.
func (d *ConnectorDraft) flowField(i int, reason string) string {
	if i >= 0 && d.ConfigValues[i].Source == SourceTemplate {
		return inRow("config_values", i, "template")
	}
	if field := d.fieldWithParameter(i, reason); field != "" {
		return inRow("config_values", i, field)
	}
	return inRow("config_values", i, part(reason, requestParts))
}

// fieldWithParameter returns the field of a config value that has the parameter which an error says does not
// exist, or "" if it says something else.
func (d *ConnectorDraft) fieldWithParameter(i int, reason string) string {
	rest, ok := strings.CutPrefix(reason, "there is no parameter ")
	if !ok || i < 0 {
		return ""
	}
	name := strings.TrimRight(strings.FieldsFunc(rest, func(r rune) bool { return r == ' ' || r == ';' || r == ',' })[0], ":.")
	for _, text := range d.ConfigValues[i].texts() {
		if strings.Contains(text.value, "{param."+strings.Trim(name, `"`)+"}") {
			return text.field
		}
	}
	return ""
}

// pairField returns the field of the pair that an error is about. One that names none is about the first
// name that is none.
func pairField(list string, pairs []PairDraft, option, message string) string {
	if i := lastIndex(pairs, func(p PairDraft) bool { return p.Name != "" && isAbout(message, option, p.Name) }); i >= 0 {
		return inRow(list, i, "value")
	}
	i := lastIndex(pairs, func(p PairDraft) bool {
		head := option + ": " + p.Name + " "
		return p.Name != "" && len(message) > len(head) && strings.EqualFold(message[:len(head)], head)
	})
	if i < 0 {
		i = slices.IndexFunc(pairs, func(p PairDraft) bool { return p != (PairDraft{}) && !httpguts.ValidHeaderFieldName(p.Name) })
	}
	return inRow(list, i, "name")
}

// loadingModule matches how Caddy says which module an error of loading comes from.
var loadingModule = regexp.MustCompile(`^loading module '[^']*': (provision [a-z_.]+: )?`)

// rowOptions are the options that errors name with the key or name of their row.
var rowOptions = []string{"scope ", "parameter ", "config_value ", "flow ", "token_request_param ", "api_header ", "api_query "}

// withoutOption returns an error without the option that it begins with, which is shown beside its field, and
// without Caddy's words about modules.
func withoutOption(err error) error {
	option, reason, ok := strings.Cut(err.Error(), ": ")
	inRow := slices.ContainsFunc(rowOptions, func(row string) bool { return strings.HasPrefix(option, row) })
	if !ok || strings.Contains(option, " ") && !inRow {
		return err
	}
	return errors.New(loadingModule.ReplaceAllString(reason, ""))
}
