package command

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// wizard asks for what a draft consists of.
type wizard struct {
	*draft.Draft
	cmd   *cobra.Command
	ask   func([]*question) error
	piped *lines // nil: a person is there who can be asked again

	which  string // defaultScopes or customizedScopes
	scopes string // those chosen, separated by spaces
}

func newWizard(cmd *cobra.Command, connector *draft.Connector, config *draft.Config) *wizard {
	w := &wizard{Draft: draft.New(connector, config), cmd: cmd, which: defaultScopes}
	w.ask, w.piped = newAsker(cmd)
	return w
}

// Options of the question which scopes are requested.
const (
	defaultScopes    = "default"
	customizedScopes = "customize"
)

// fill asks for everything, and again when the answers do not fit together and a person is there.
// It returns the token request for people.
func (w *wizard) fill() (string, error) {
	if w.piped == nil {
		w.introduce()
	}
	for {
		if err := w.askAll(); err != nil {
			return "", err
		}
		preview, err := w.Preview()
		if err == nil {
			return preview, nil
		}
		if w.piped != nil {
			return "", usageError{err}
		}
		w.cmd.PrintErrln("The answers do not fit:", err)
	}
}

// introduce says what the connector is, and what it sets by itself.
func (w *wizard) introduce() {
	w.cmd.PrintErrf("A connection to %s\n", oneLine(w.Form.Label))
	if len(w.Form.ConfigValues) == 0 {
		return
	}
	w.cmd.PrintErrln("The connector sets by itself:")
	p := newPrinter(w.cmd.ErrOrStderr(), time.Now(), "")
	p.configValues(w.Form.ConfigValues)
	p.flush()
}

// askAll asks all questions, in the order that is documented.
func (w *wizard) askAll() error {
	fields := make([]*question, len(w.Fields))
	for i := range w.Fields {
		fields[i] = w.fieldQuestion(&w.Fields[i])
	}
	if err := w.ask(fields); err != nil {
		return err
	}
	if err := w.askForScopes(); err != nil {
		return err
	}
	return w.ask([]*question{{
		kind: anyText, title: "Name of the connection", value: &w.Name, check: w.CheckName,
		help: "Sites use it: http_helper <name>",
	}})
}

func (w *wizard) fieldQuestion(field *draft.Field) *question {
	q := &question{
		kind: anyText, title: field.Label, value: &field.Value,
		check: func(value string) error { return w.CheckValue(field.Field, value) },
	}
	switch field.Type {
	case adminapi.TypePassword:
		q.kind = secretText
		q.help = "Nothing is shown. Leave it empty to store it later, without trying it now."
	case adminapi.TypeDropdown:
		q.kind, q.options = choice, field.Options
	case adminapi.TypeFile:
		q.help = "The path of a file where the sidecar will run"
	}
	return q
}

// askForScopes asks for the scopes, if the connection may choose. A person decides first whether to choose
// at all. Piped answers say so with the scopes, so that a question has its line in any case.
func (w *wizard) askForScopes() error {
	options, fixed := w.choosableScopes()
	permissions := w.Form.Permissions
	if !permissions.CustomizeScopes || len(options) == 0 && !permissions.AdditionalScopes {
		return nil
	}
	w.Customize = false
	if w.piped == nil {
		if err := w.ask([]*question{w.whichScopes()}); err != nil || w.which == defaultScopes {
			return err
		}
	}
	w.Customize = true
	var questions []*question
	if len(options) > 0 {
		questions = append(questions, w.scopeQuestion(options, fixed))
	}
	if permissions.AdditionalScopes {
		questions = append(questions, w.additionalQuestion())
	}
	if err := w.ask(questions); err != nil {
		return err
	}
	if w.piped != nil && w.isDefault(w.scopes) {
		w.Customize, w.scopes = false, ""
		if w.AdditionalScopes != "" {
			return usageErrorf("Additional scopes: the default scopes have none")
		}
	}
	w.Scopes = strings.Fields(w.scopes)
	return nil
}

// isDefault reports whether a piped answer means the default scopes, and is no scope of this name.
func (w *wizard) isDefault(answer string) bool {
	return answer == defaultScopes && !slices.ContainsFunc(w.Form.Scopes, func(s adminapi.Scope) bool { return s.Name == defaultScopes })
}

func (w *wizard) whichScopes() *question {
	return &question{
		kind: choice, title: "Permissions", value: &w.which, help: w.scopesHelp(),
		options: []adminapi.Option{
			{Value: defaultScopes, Label: "Use default scopes: " + words(w.ChosenScopes())},
			{Value: customizedScopes, Label: "Customize scopes"},
		},
	}
}

func (w *wizard) scopeQuestion(options []adminapi.Option, fixed []string) *question {
	q := &question{
		kind: multiSelect, title: "Scopes", options: options, value: &w.scopes,
		help: strings.Join(append([]string{"Choose no more than is needed.", w.scopesHelp()}, fixed...), "\n"),
	}
	if w.piped != nil {
		q.check = func(answer string) error {
			if w.isDefault(answer) {
				return nil
			}
			return q.offers(strings.Fields(answer)...)
		}
	}
	return q
}

// scopesHelp says where to ask for scopes that the connector lacks.
func (w *wizard) scopesHelp() string {
	if page := w.Form.Permissions.ScopesHelp; page != nil {
		return "A scope is missing? See " + *page
	}
	return ""
}

func (w *wizard) additionalQuestion() *question {
	help := "Scopes that are not in the list, separated by a " + w.Form.Permissions.ScopesDelimiter + ". May be empty."
	if page := w.Form.Permissions.ScopesHelp; page != nil {
		help += " See " + *page
	}
	return &question{
		kind: limitedText, title: "Additional scopes", limit: adminapi.MaxAdditionalScopes, help: help,
		value: &w.AdditionalScopes, check: w.CheckAdditionalScopes,
	}
}

// choosableScopes are the scopes to choose from, and lines about those that are fixed.
func (w *wizard) choosableScopes() (options []adminapi.Option, fixed []string) {
	for _, s := range w.Form.Scopes {
		label := s.Name
		if s.Description != nil {
			label += ": " + *s.Description
		}
		if s.Required {
			fixed = append(fixed, "✓ "+label+" (always requested)")
			continue
		}
		options = append(options, adminapi.Option{Value: s.Name, Label: label})
	}
	return options, fixed
}

// askToTry asks whether to make the token request. A person is not asked when it cannot be made.
func (w *wizard) askToTry() (bool, error) {
	answer := no
	if w.piped != nil || w.Complete() {
		q := &question{kind: yesOrNo, title: "Make this request once now, to try it?", value: &answer}
		if w.Ping != nil {
			q.help = "The connector's ping follows, with the token."
		}
		if err := w.ask([]*question{q}); err != nil {
			return false, err
		}
	}
	if w.piped == nil {
		return answer == yes, nil
	}
	return answer == yes, w.piped.finish()
}

// errCredentials is the error of a trial that failed by what was filled in, which was reported.
var errCredentials = fmt.Errorf("%w: no token", errReported)

// tryUntil tries the connection, again as long as it fails by what was filled in and a person types the secrets again.
func (w *wizard) tryUntil() error {
	for {
		failed := w.try()
		if w.piped != nil || !errors.Is(failed, errCredentials) {
			return failed
		}
		again, secrets := no, w.secretQuestions()
		questions := []*question{{kind: yesOrNo, title: "Type the secrets again, and try once more?", value: &again}}
		if len(secrets) == 0 || w.ask(questions) != nil || again == no || w.ask(secrets) != nil {
			return failed
		}
	}
}

func (w *wizard) secretQuestions() []*question {
	var questions []*question
	for i := range w.Fields {
		if w.Fields[i].Type == adminapi.TypePassword {
			questions = append(questions, w.fieldQuestion(&w.Fields[i]))
		}
	}
	return questions
}

// try makes the token request and the ping, and reports their results. The block is printed all the same,
// also when somebody interrupts.
func (w *wizard) try() error {
	if !w.Complete() {
		return usageErrorf("it cannot be tried, because a secret was left empty")
	}
	ctx, stop := signal.NotifyContext(w.cmd.Context(), os.Interrupt)
	defer stop()
	trial, err := w.Try(ctx)
	failure, failed := errors.AsType[*oauth.Error](err)
	switch {
	case err != nil && errors.Is(err, ctx.Err()):
		w.cmd.PrintErr("\nNot tried to the end.\n\n")
		return errReported
	case failed:
		w.cmd.PrintErrf("It does not work: %v\n\n", failure)
		if failure.Class == oauth.ClassConfiguration {
			return errCredentials
		}
		return errReported
	case err != nil:
		return err
	}
	w.report(trial)
	if !trial.Working() {
		return errReported
	}
	return nil
}

// report says what a trial has shown. There is a token.
func (w *wizard) report(trial draft.Trial) {
	conn := trial.Connection
	if trial.Working() {
		w.cmd.PrintErrln("It works: there is a token.")
	} else {
		w.cmd.PrintErrln("There is a token, but it does not work.")
	}
	if lifetime := trial.Lifetime(); lifetime != "" {
		w.cmd.PrintErrf("It lives %s.\n", lifetime)
	}
	w.cmd.PrintErrf("Scopes granted: %s\n", grantedWords(conn.Scopes))
	if len(conn.Scopes.Missing) > 0 {
		w.cmd.PrintErrf("Scopes not granted: %s\n", words(conn.Scopes.Missing))
	}
	if trial.Ping != nil {
		p := newPrinter(w.cmd.ErrOrStderr(), time.Now(), "")
		p.ping("The ping", *trial.Ping)
		p.flush()
	}
	w.cmd.PrintErrln()
}

// save writes the files, if they are wanted.
func (w *wizard) save() error {
	if w.SaveDir == "" {
		return nil
	}
	files, err := w.Save()
	for _, file := range files {
		w.cmd.PrintErrln("Written:", file)
	}
	if err != nil {
		return err
	}
	line, err := draft.ImportLine(w.SaveDir)
	if err != nil {
		return err
	}
	w.cmd.PrintErrf("\nTo use it, have this line inside the global option http_helper:\n\n  %s\n\nThen run:\n\n  %s\n",
		line, draft.ReloadCommand(w.cmd.Flag("config").Value.String(), w.cmd.Flag("adapter").Value.String()))
	return nil
}
