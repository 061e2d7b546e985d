package console

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

// dialog is the New Connection dialog of a connector: to be filled in, or as a preview.
type dialog struct {
	Prefix   string // of the ids of its controls; a page may have two dialogs
	Label    string // of the connector
	Preview  bool   // nothing can be filled in
	Fields   []fieldView
	Values   []valueView // that the connector sets by itself
	Scopes   []scopeChoice
	Choice   scopeRules
	Defaults string // the default scopes
	Extra    fieldView
	Warnings []string // about the additional scopes
	Typed    int      // characters of the additional scopes
	Limit    int
}

// fieldView is a field with what was filled in.
type fieldView struct {
	ID, Label, Type, Value string
	Hint                   string
	Errors                 []string
	Options                []adminapi.Option
	Kept                   bool // a secret is kept, which is not shown
}

// valueView is a config value.
type valueView struct {
	Label, Value string
	Code         bool // the value is as it is written
}

// scopeChoice is a scope to choose.
type scopeChoice struct {
	Name, Description string
	Required, Chosen  bool
}

// scopeRules are what may be chosen, and what is.
type scopeRules struct {
	Customize, Additional bool // are possible
	Customized            bool
	Delimiter, Help       string
	Errors                []string
}

// newDialog returns the dialog of a draft of a connection. Kept are the IDs of the fields whose secrets
// are kept.
func newDialog(d *draft.Draft, problems []draft.Problem, kept map[string]bool) dialog {
	view := dialogOf(d.Form)
	for i := range d.Fields {
		field := d.Fields[i]
		view.Fields[i].Errors = errorsOf(problems, field.ID())
		view.Fields[i].Kept = kept[field.ID()]
		if field.Type != adminapi.TypePassword {
			view.Fields[i].Value = field.Value
		}
	}
	view.Choice.Customized = d.Customize
	view.Choice.Errors = errorsOf(problems, "scopes")
	for i, scope := range view.Scopes {
		view.Scopes[i].Chosen = scope.Required || slices.Contains(d.Scopes, scope.Name)
	}
	view.Extra.Value, view.Extra.Errors = d.AdditionalScopes, errorsOf(problems, view.Extra.ID)
	if d.WarnAdditionalScopes != nil && d.Customize {
		for _, warning := range d.WarnAdditionalScopes(d.AdditionalScopes) {
			view.Warnings = append(view.Warnings, sentence(warning))
		}
	}
	view.Typed = utf8.RuneCountInString(d.AdditionalScopes)
	return view
}

// dialogOf returns the dialog of a connector with its defaults.
func dialogOf(form adminapi.Connector) dialog {
	view := dialog{
		Label: form.Label,
		Choice: scopeRules{
			Customize: form.Permissions.CustomizeScopes, Additional: form.Permissions.AdditionalScopes,
			Delimiter: form.Permissions.ScopesDelimiter, Help: orEmpty(form.Permissions.ScopesHelp),
		},
		Defaults: scopeNames(form),
		Extra:    fieldView{ID: "additional_scopes", Label: "Additional scopes"},
		Limit:    adminapi.MaxAdditionalScopes,
	}
	for _, field := range form.Fields {
		view.Fields = append(view.Fields, fieldView{
			ID: draft.Field{Field: field}.ID(), Label: field.Label, Type: field.Type, Value: field.Default, Options: field.Options, Hint: fieldHint(field),
		})
	}
	for _, value := range form.ConfigValues {
		view.Values = append(view.Values, configValueView(value))
	}
	for _, scope := range form.Scopes {
		view.Scopes = append(view.Scopes, scopeChoice{Name: scope.Name, Description: orEmpty(scope.Description), Required: scope.Required, Chosen: scope.Required})
	}
	return view
}

func fieldHint(field adminapi.Field) string {
	switch field.Type {
	case adminapi.TypeFile:
		return "The path of a file where the sidecar runs."
	case adminapi.TypePassword:
		return "Leave it empty to store it later, without trying it now."
	default:
		return ""
	}
}

func configValueView(value adminapi.ConfigValue) valueView {
	switch {
	case value.Flow != nil:
		return valueView{Label: value.Label, Value: "computed by the helper flow " + *value.Flow}
	case value.Type == adminapi.TypePassword:
		return valueView{Label: value.Label, Value: "a secret of the connector"}
	default:
		return valueView{Label: value.Label, Value: orEmpty(value.Value), Code: true} // empty: not known now
	}
}

// errorsOf returns what is wrong with a field, as sentences.
func errorsOf(problems []draft.Problem, field string) []string {
	var all []string
	for _, p := range problems {
		if p.Field == field {
			all = append(all, sentence(p.Message))
		}
	}
	return all
}

// elsewhere returns the problems that belong to none of the fields that a page has.
func elsewhere(problems []draft.Problem, shown func(field string) bool) []string {
	var all []string
	for _, p := range problems {
		if !shown(p.Field) {
			all = append(all, sentence(strings.TrimPrefix(p.Message, "connection ")))
		}
	}
	return all
}
