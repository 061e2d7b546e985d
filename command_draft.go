package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
)

// draft is a connection that a person is about to describe.
type draft struct {
	ctx       caddy.Context
	connector *Connector
	raw       json.RawMessage // the connector, as configured
	form      formView
	taken     map[string]bool // names of connections
	dir       string          // where secrets will be files; empty: they will be variables

	answers    map[string]*string // by the key of the form's field
	scopes     string             // separated by spaces
	additional string
	name       string
}

func newDraft(ctx caddy.Context, connector *Connector, raw json.RawMessage, taken map[string]bool, dir string) *draft {
	d := &draft{ctx: ctx, connector: connector, raw: raw, form: connector.form(), taken: taken, dir: dir, answers: make(map[string]*string)}
	for _, field := range d.form.Fields {
		answer := orZero(field.Default)
		d.answers[field.id()] = &answer
	}
	d.name = numbered(connector.name, taken)
	return d
}

// id tells fields apart; a parameter may have the key of a fixed one.
func (f fieldView) id() string {
	if f.Fixed {
		return f.Key
	}
	return "parameter " + f.Key
}

// pages are the questions, in the order that is documented.
func (d *draft) pages() [][]*question {
	fields := make([]*question, len(d.form.Fields))
	for i, field := range d.form.Fields {
		fields[i] = d.fieldQuestion(field)
	}
	pages := [][]*question{fields}
	if scopes := d.scopeQuestions(); len(scopes) > 0 {
		pages = append(pages, scopes)
	}
	return append(pages, []*question{{
		kind: askText, title: "Name of the connection", answer: &d.name, check: d.checkName,
		help: "Sites use it: http_helper <name>",
	}})
}

func (d *draft) fieldQuestion(field fieldView) *question {
	q := &question{kind: askText, title: field.Label, answer: d.answers[field.id()], check: checkAnswer}
	switch field.Type {
	case typePassword:
		q.kind, q.check = askSecret, nil
		q.help = "Nothing is shown. Leave it empty to store it later, without trying it now."
	case typeDropdown:
		q.kind, q.options = askChoice, field.Options
	case typeFile:
		q.help = "The path of a file where the sidecar will run"
	}
	return q
}

// checkAnswer checks what will stand in the Caddyfile as it is.
func checkAnswer(answer string) error {
	if answer == "" {
		return errors.New("an answer is needed")
	}
	return placeholders()(answer)
}

// scopeQuestions are about the scopes that the connection may choose.
func (d *draft) scopeQuestions() []*question {
	var questions []*question
	if options, fixed := d.choosableScopes(); d.form.Permissions.CustomizeScopes && len(options) > 0 {
		questions = append(questions, &question{
			kind: askTicks, title: "Scopes", options: options, answer: &d.scopes,
			help: strings.Join(append([]string{"Choose no more than is needed."}, fixed...), "\n"),
		})
	}
	if d.form.Permissions.AdditionalScopes {
		questions = append(questions, &question{
			kind: askLong, title: "Additional scopes", limit: maxAdditionalScopes, answer: &d.additional, check: d.checkAdditional,
			help: "Scopes that are not in the list, separated by a " + d.form.Permissions.ScopesDelimiter + ". May be empty." + d.scopesHelp(),
		})
	}
	return questions
}

func (d *draft) scopesHelp() string {
	if d.form.Permissions.ScopesHelp == nil {
		return ""
	}
	return " See " + *d.form.Permissions.ScopesHelp
}

// choosableScopes are the scopes to choose from, and lines about those that are fixed.
func (d *draft) choosableScopes() (options []optionView, fixed []string) {
	for _, s := range d.form.Scopes {
		label := s.Name
		if s.Description != nil {
			label += ": " + *s.Description
		}
		if s.Required {
			fixed = append(fixed, "✓ "+label+" (always asked for)")
			continue
		}
		options = append(options, optionView{Value: s.Name, Label: label})
	}
	return options, fixed
}

func (d *draft) checkAdditional(typed string) error {
	if n := utf8.RuneCountInString(typed); n > maxAdditionalScopes {
		return fmt.Errorf("%d characters are more than the %d that are allowed", n, maxAdditionalScopes)
	}
	if strings.Contains(typed, "{") {
		return placeholders()(typed) // the value may not be known here
	}
	_, _, err := splitScopes(typed, d.connector.ScopesDelimiter)
	return err
}

func (d *draft) checkName(name string) error {
	if d.taken[name] {
		return errors.New("there is a connection of this name already")
	}
	return validName(name)
}

// secret is a secret that is not written into the Caddyfile.
type secret struct {
	label, value string
	variable     string // its environment variable
	file         string // its file; empty: it is in the variable
}

func (s *secret) placeholder() string {
	if s.file != "" {
		return "{file." + s.file + "}"
	}
	return "{env." + s.variable + "}"
}

var notInVariable = regexp.MustCompile(`[^A-Z0-9]+`)

// variableFor makes the name of an environment variable that is not taken.
func variableFor(name string, taken map[string]bool) string {
	variable := notInVariable.ReplaceAllString(strings.ToUpper(name), "_")
	if variable[0] <= '9' {
		variable = "_" + variable
	}
	unique := variable
	for i := 2; taken[unique]; i++ {
		unique = variable + "_" + strconv.Itoa(i)
	}
	return unique
}

// secrets are the answers that are secret, by the id of their field.
func (d *draft) secrets() map[string]*secret {
	secrets := make(map[string]*secret)
	taken := make(map[string]bool)
	for _, field := range d.form.Fields {
		if field.Type != typePassword {
			continue
		}
		variable := variableFor(d.name+"_"+field.Key, taken)
		taken[variable] = true
		s := &secret{label: field.Label, value: *d.answers[field.id()], variable: variable}
		if d.dir != "" {
			s.file = path.Join(d.dir, strings.ToLower(strings.TrimPrefix(variable, "_")))
		}
		secrets[field.id()] = s
	}
	return secrets
}

// complete tells whether all secrets are known.
func (d *draft) complete() bool {
	for _, s := range d.secrets() {
		if s.value == "" {
			return false
		}
	}
	return true
}

// connection is the connection with its secrets in the places that place says.
func (d *draft) connection(place func(*secret) string) *Connection {
	value := func(id string) string { return orZero(d.answers[id]) }
	secrets := d.secrets()
	c := &Connection{
		Connector:                d.connector.name,
		ClientID:                 value("client_id"),
		ClientKeyFile:            value("client_key_file"),
		ClientCertificateFile:    value("client_certificate_file"),
		ClientCertificateKeyFile: value("client_certificate_key_file"),
		AdditionalScopes:         strings.TrimSpace(d.additional),
		Parameters:               make(map[string]ParameterValue),
	}
	if s := secrets["client_secret"]; s != nil {
		c.ClientSecret = place(s)
	}
	for _, p := range d.connector.Parameters {
		id := fieldView{Key: p.Key}.id()
		answer := value(id)
		if s := secrets[id]; s != nil {
			answer = place(s)
		}
		c.Parameters[p.Key] = ParameterValue{Value: answer}
	}
	if d.connector.CustomizeScopes {
		c.Scopes = d.chosenScopes()
	}
	return c
}

// chosenScopes are all that are asked for of the connector's, in its order.
func (d *draft) chosenScopes() []string {
	chosen := []string{}
	for _, s := range d.connector.Scopes {
		if s.Required || slices.Contains(strings.Fields(d.scopes), s.Name) {
			chosen = append(chosen, s.Name)
		}
	}
	return chosen
}

// block is the connection for the Caddyfile, and what to store where.
func (d *draft) block() (string, error) {
	c := d.connection((*secret).placeholder)
	w := new(caddyfileWriter)
	d.writeSecrets(w)
	w.block(func() {
		w.given("client_id", c.ClientID)
		w.given("client_secret", c.ClientSecret)
		w.given("client_key_file", c.ClientKeyFile)
		if c.ClientCertificateFile != "" {
			w.line("client_certificate", c.ClientCertificateFile, c.ClientCertificateKeyFile)
		}
		for _, p := range d.connector.Parameters {
			w.line("parameter", p.Key, c.Parameters[p.Key].Value)
		}
		if c.Scopes != nil {
			w.line(append([]string{"scopes"}, c.Scopes...)...)
		}
		w.given("additional_scopes", c.AdditionalScopes)
	}, "connection", d.name, d.connector.name)
	return w.result()
}

func (d *draft) writeSecrets(w *caddyfileWriter) {
	secrets := d.secrets()
	if len(secrets) == 0 {
		return
	}
	w.comment("Secrets to store:")
	for _, field := range d.form.Fields {
		s := secrets[field.id()]
		switch {
		case s == nil:
		case s.file != "":
			w.comment("  file %s: %s", s.file, s.label)
		default:
			w.comment("  environment variable %s: %s", s.variable, s.label)
		}
	}
}
