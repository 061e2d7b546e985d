package console

import (
	"cmp"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// newConnectorView is the page on which a connector is described. The name of a control is the field of a
// draft's problems.
type newConnectorView struct {
	URL      string
	Methods  []string
	Dialog   *dialog  // preview; nil: not possible yet
	Block    string   // empty: not possible yet
	Complete bool     // nothing is wrong with it
	Result   *checked // of the button; nil: it was another one
	SaveDir  string   // empty: nothing can be saved
	Added    string   // the control to go on with after a row was added

	form     url.Values
	problems []draft.Problem
}

// secretOfConnector stands in the block for a secret of the connector's, which no page shows.
const secretOfConnector = "the secret goes here"

func (p *pages) describeConnector(w http.ResponseWriter, r *http.Request) {
	p.showNewConnector(w, r, &newConnectorView{form: url.Values{}})
}

// changeConnector does what a button of the form says with what was filled in.
func (p *pages) changeConnector(w http.ResponseWriter, r *http.Request) {
	if !p.parse(w, r) {
		return
	}
	view := &newConnectorView{form: r.PostForm}
	action, argument, _ := strings.Cut(r.PostForm.Get("do"), ":")
	switch action {
	case "add":
		view.Added = addRow(view.form, argument)
	case "remove":
		removeRow(view.form, argument)
	}
	config, err := p.config(r.Context())
	if err != nil {
		config = nil // what there is already is not known, and nothing else depends on it
	}
	d := draft.NewConnector(p.options.Configuration, config)
	view.check(r, d)
	save := action == "save" && p.options.saveDir != ""
	switch {
	case save && view.Complete:
		file, err := d.Save(p.options.saveDir)
		if err == nil {
			p.showSavedConnector(w, r, d, file)
			return
		}
		view.Result = &checked{Wrong: true, Title: "Nothing was saved", Lines: sentences(err)}
	case save, action == "check":
		view.Result = newChecked(view.problems)
	default:
		view.problems = nil // somebody is still filling it in
	}
	p.showNewConnector(w, r, view)
}

func (p *pages) showNewConnector(w http.ResponseWriter, r *http.Request, view *newConnectorView) {
	view.URL, view.Methods, view.SaveDir = base(r)+"/new-connector", oauth.MethodNames(), p.options.saveDir
	if !view.form.Has("auth_method") {
		view.form.Set("auth_method", oauth.DefaultMethod)
	}
	p.show(w, r, http.StatusOK, "newconnector", page{Section: "new-connector", Title: "New connector", Data: view})
}

// check checks what was filled in, and makes the previews.
func (v *newConnectorView) check(r *http.Request, d *draft.ConnectorDraft) {
	fillConnector(d, v.form)
	form, problems := d.Form(r.Context())
	for _, problem := range append(problems, headerProblems(v.form)...) {
		v.problems = append(v.problems, inWords(problem))
	}
	v.Complete = len(v.problems) == 0
	if len(form.Fields) > 0 {
		form.Label = cmp.Or(d.Label, d.Name, "…")
		preview := dialogOf(form)
		preview.Preview, preview.Prefix = true, "preview-"
		v.Dialog = &preview
	}
	if d.Name != "" {
		v.Block, _ = d.Block()
	}
}

// fillConnector fills in what a form has.
func fillConnector(d *draft.ConnectorDraft, form url.Values) {
	text := func(name string) string { return strings.TrimSpace(form.Get(name)) }
	d.Name, d.Label = text("name"), text("label")
	d.TokenURL, d.BaseURL = text("token_url"), text("base_url")
	if d.AuthMethod = text("auth_method"); d.AuthMethod == oauth.DefaultMethod {
		d.AuthMethod = "" // needs no line
	}
	d.CustomizeScopes, d.AdditionalScopes = form.Has("customize_scopes"), form.Has("additional_scopes")
	if d.ScopesDelimiter = text("scopes_delimiter"); d.ScopesDelimiter == "space" {
		d.ScopesDelimiter = ""
	}
	d.ScopesHelp = text("scopes_help")
	for i := range rows(form, "scopes") {
		d.Scopes = append(d.Scopes, draft.ScopeDraft{
			Name: text(control("scopes", i, "name")), Description: text(control("scopes", i, "description")), Required: form.Has(control("scopes", i, "required")),
		})
	}
	for i := range rows(form, "parameters") {
		d.Parameters = append(d.Parameters, draft.ParameterDraft{
			Key: text(control("parameters", i, "key")), Type: text(control("parameters", i, "type")), Label: text(control("parameters", i, "label")),
			Options: optionLines(form.Get(control("parameters", i, "options"))), Default: text(control("parameters", i, "default")),
		})
	}
	for i := range rows(form, "config_values") {
		d.ConfigValues = append(d.ConfigValues, configValueOf(form, i))
	}
	d.TokenRequestParams, d.APIHeaders, d.APIQuery = pairs(form, "token_request_params"), pairs(form, "api_headers"), pairs(form, "api_query")
	d.Ping = draft.PingDraft{Method: text("ping.method"), Path: text("ping.path"), Statuses: text("ping.statuses")}
}

// configValueOf returns a config value of a form. A secret is not taken: no page shows it, also not in the
// block.
func configValueOf(form url.Values, i int) draft.ConfigValueDraft {
	text := func(name string) string { return strings.TrimSpace(form.Get(control("config_values", i, name))) }
	value := draft.ConfigValueDraft{
		Key: text("key"), Type: text("type"), Label: text("label"), Hidden: form.Has(control("config_values", i, "hidden")), Source: text("source"),
	}
	if value.Type == adminapi.TypePassword {
		form.Del(control("config_values", i, "value"))
	}
	switch value.Source {
	case draft.SourceRequest:
		value.Method, value.URL, value.Body, value.Pointer = text("method"), text("url"), text("body"), text("pointer")
		value.Headers = pairLines(form.Get(control("config_values", i, "headers")), ":")
	case draft.SourceTemplate:
		value.Template = text("template")
	default:
		if value.Type == adminapi.TypePassword {
			value.Value = map[bool]string{true: secretOfConnector}[value.Key != ""]
			break
		}
		value.Value = text("value")
	}
	return value
}

func pairs(form url.Values, list string) []draft.PairDraft {
	all := make([]draft.PairDraft, rows(form, list))
	for i := range all {
		all[i] = draft.PairDraft{Name: strings.TrimSpace(form.Get(control(list, i, "name"))), Value: strings.TrimSpace(form.Get(control(list, i, "value")))}
	}
	return all
}

// headerProblems finds lines of header fields without a colon. A name alone would be a field with an empty value.
func headerProblems(form url.Values) []draft.Problem {
	var found []draft.Problem
	for i := range rows(form, "config_values") {
		field := control("config_values", i, "headers")
		if form.Get(control("config_values", i, "source")) != draft.SourceRequest {
			continue
		}
		for line := range strings.Lines(form.Get(field)) {
			if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, ":") {
				found = append(found, draft.Problem{Field: field, Message: "a line lacks the colon after the name"})
				break
			}
		}
	}
	return found
}

// optionLines reads the options of a dropdown: one on a line, as value or as value = label.
func optionLines(text string) []draft.OptionDraft {
	lines := pairLines(text, "=")
	options := make([]draft.OptionDraft, len(lines))
	for i, p := range lines {
		options[i] = draft.OptionDraft{Value: p.Name, Label: p.Value}
	}
	return options
}

// pairLines reads pairs: one on a line, with a separator between name and value.
func pairLines(text, separator string) []draft.PairDraft {
	var all []draft.PairDraft
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, separator)
		all = append(all, draft.PairDraft{Name: strings.TrimSpace(name), Value: strings.TrimSpace(value)})
	}
	return all
}

// lists are the lists of the form, with the control of a row that somebody fills in first.
var lists = map[string]string{
	"scopes": "name", "parameters": "key", "config_values": "key", "token_request_params": "name", "api_headers": "name", "api_query": "name",
}

// maxRows bounds a list.
const maxRows = 200

// control returns the name of a control in a row or, without a name of its own, that of the row.
func control(list string, i int, name string) string {
	return strings.TrimSuffix(list+"."+strconv.Itoa(i)+"."+name, ".")
}

// rows returns how many rows of a list a form has.
func rows(form url.Values, list string) int {
	n := 0
	for n < maxRows && form.Has(control(list, n, lists[list])) {
		n++
	}
	return n
}

// addRow adds a row to a list, and returns the control to go on with.
func addRow(form url.Values, list string) (first string) {
	n := rows(form, list)
	if lists[list] == "" || n == maxRows {
		return ""
	}
	first = control(list, n, lists[list])
	form.Set(first, "")
	return first
}

// removeRow removes a row, which is named by its list and number.
func removeRow(form url.Values, row string) {
	list, number, _ := strings.Cut(row, ".")
	removed, err := strconv.Atoi(number)
	n := rows(form, list)
	if err != nil || removed < 0 || removed >= n {
		return
	}
	moved := make(url.Values)
	for name, values := range form {
		i, part, ok := inList(name, list)
		if !ok {
			continue
		}
		form.Del(name)
		switch {
		case i < removed:
			moved[name] = values
		case i > removed:
			moved[control(list, i-1, part)] = values
		}
	}
	maps.Copy(form, moved)
}

// inList takes the name of a control in a row apart.
func inList(name, list string) (i int, part string, ok bool) {
	number, ok := strings.CutPrefix(name, list+".")
	if !ok {
		return 0, "", false
	}
	number, part, ok = strings.Cut(number, ".")
	i, err := strconv.Atoi(number)
	return i, part, ok && err == nil
}

// Rows returns the numbers of the rows of a list.
func (v *newConnectorView) Rows(list string) []int {
	numbers := make([]int, rows(v.form, list))
	for i := range numbers {
		numbers[i] = i
	}
	return numbers
}

// Text returns a field of the form.
func (v *newConnectorView) Text(id, label, hint string) fieldView {
	return fieldView{ID: id, Label: label, Hint: hint, Value: v.form.Get(id), Errors: errorsOf(v.problems, id)}
}

// In returns a field of a row.
func (v *newConnectorView) In(list string, i int, name, label, hint string) fieldView {
	return v.Text(control(list, i, name), label, hint)
}

// choiceView is a field whose value is one of some options.
type choiceView struct {
	fieldView

	Class   string // for the style sheet and the script
	Options []adminapi.Option
}

// Choice returns a field with options, of which each has a value and a label in turn.
func (v *newConnectorView) Choice(field fieldView, class string, options ...string) choiceView {
	choice := choiceView{fieldView: field, Class: class}
	for pair := range slices.Chunk(options, 2) {
		choice.Options = append(choice.Options, adminapi.Option{Value: pair[0], Label: pair[1]})
	}
	return choice
}

// pairsView is a list of names and values.
type pairsView struct {
	List, Title, Noun, Hint string
	Rows                    []pairView
}

// pairView is a row of it.
type pairView struct{ Name, Value, Row fieldView }

// Pairs returns a list of names and values.
func (v *newConnectorView) Pairs(list, title, noun, hint string) pairsView {
	view := pairsView{List: list, Title: title, Noun: noun, Hint: hint}
	for i := range rows(v.form, list) {
		view.Rows = append(view.Rows, pairView{v.In(list, i, "name", "Name", ""), v.In(list, i, "value", "Value", ""), v.In(list, i, "", "the "+noun, "")})
	}
	return view
}
