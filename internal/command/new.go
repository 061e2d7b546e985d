package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

func newCommand(find FindConnector) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "new <connector>",
		Short: "Asks a connector's questions and prints a connection for the Caddyfile",
		Long: `
Asks what a connector asks of every connection, shows the token request that follows
from the answers, makes it once if you want that, and prints the connection's block
for the Caddyfile. Secrets are not in the block: it says where to store them.

The connectors are those of the running Caddy, or of the file --config.

Answers may be piped in, one on a line, in this order: the client id, then the secret
or the files of the key or certificate; the parameters, in the connector's order; the
scopes, separated by spaces, if connections may choose (the required ones need not be
named); additional scopes, if they are allowed; the name of the connection; whether to
try it, yes or no. An empty line means the default: of a dropdown, none of the optional
scopes, a name after the connector, and no. A secret may be left empty too; then it
cannot be tried.`,
		Example: `  caddy http-helper new acme_crm
  caddy http-helper new acme_crm --config Caddyfile --secret-files /run/secrets <answers`,
		Args:              takes(1, 1, "the name of a connector"),
		ValidArgsFunction: completeNames(adminapi.ConnectorsPath),
	}
	addAdminFlags(cmd)
	cmd.Flag("config").Usage = "Configuration file with the connectors"
	dir := cmd.Flags().String("secret-files", "", "Directory in which the secrets will be files (default: they will be environment variables)")
	cmd.RunE = withExitStatus(func(cmd *cobra.Command, args []string) error { return writeConnection(cmd, find, args[0], *dir) })
	return cmd
}

// writeConnection asks for a connection and prints it.
func writeConnection(cmd *cobra.Command, find FindConnector, connector, dir string) error {
	config, err := findConnectors(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: cmd.Context()})
	defer cancel()
	described, err := find(ctx, config, connector)
	if err != nil {
		return explain(cmd, err)
	}
	ask, piped := newAsker(cmd)
	w := &wizard{Draft: draft.New(described, config, dir), ask: ask, piped: piped}
	preview, err := w.fill(cmd)
	if err != nil {
		return err
	}
	cmd.PrintErrf("The token request would be:\n\n%s\n", preview)
	tryIt, err := w.askToTry()
	if err != nil {
		return err
	}
	var failed error
	if tryIt {
		failed = w.try(cmd)
	}
	block, err := w.Block()
	if err != nil {
		return usageError{err}
	}
	fmt.Fprint(cmd.OutOrStdout(), block)
	return failed
}

// findConnectors gets the configuration from the file --config, or else from the running Caddy.
func findConnectors(cmd *cobra.Command) (*draft.Config, error) {
	var config struct {
		Apps struct {
			HTTPHelper draft.Config `json:"http_helper"`
		} `json:"apps"`
	}
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	if file := flags.String("config"); file != "" {
		text, err := quietly(func() ([]byte, error) {
			text, _, _, err := caddycmd.LoadConfig(file, flags.String("adapter"))
			return text, err
		})
		if err == nil {
			err = json.Unmarshal(text, &config)
		}
		if err != nil {
			return nil, usageError{err}
		}
		return &config.Apps.HTTPHelper, nil
	}
	// All of the connector, not only its form: to work out what the token request will be. And all of the
	// configuration, because a part of it may not be there.
	err := (&session{cmd: cmd}).call(http.MethodGet, "/config/", &config)
	return &config.Apps.HTTPHelper, err
}

// wizard asks for what a draft consists of.
type wizard struct {
	*draft.Draft
	ask   func([]*question) error
	piped *lines // nil: a person is there who can be asked again
}

// fill asks for everything, and again when the answers do not fit together and a person is there.
// It returns the token request for people.
func (w *wizard) fill(cmd *cobra.Command) (string, error) {
	for {
		for _, page := range w.pages() {
			if err := w.ask(page); err != nil {
				return "", err
			}
		}
		preview, err := w.Preview()
		if err == nil {
			return preview, nil
		}
		if w.piped != nil {
			return "", usageError{err}
		}
		cmd.PrintErrln("The answers do not fit:", err)
	}
}

// pages are the questions, in the order that is documented.
func (w *wizard) pages() [][]*question {
	fields := make([]*question, len(w.Fields))
	for i := range w.Fields {
		fields[i] = w.fieldQuestion(&w.Fields[i])
	}
	pages := [][]*question{fields}
	if scopes := w.scopeQuestions(); len(scopes) > 0 {
		pages = append(pages, scopes)
	}
	return append(pages, []*question{{
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

// scopeQuestions are about the scopes that the connection may choose.
func (w *wizard) scopeQuestions() []*question {
	var questions []*question
	permissions := w.Form.Permissions
	if options, fixed := w.choosableScopes(); permissions.CustomizeScopes && len(options) > 0 {
		questions = append(questions, &question{
			kind: multiSelect, title: "Scopes", options: options, value: &w.Scopes,
			help: strings.Join(append([]string{"Choose no more than is needed."}, fixed...), "\n"),
		})
	}
	if permissions.AdditionalScopes {
		help := "Scopes that are not in the list, separated by a " + permissions.ScopesDelimiter + ". May be empty."
		if permissions.ScopesHelp != nil {
			help += " See " + *permissions.ScopesHelp
		}
		questions = append(questions, &question{
			kind: limitedText, title: "Additional scopes", limit: adminapi.MaxAdditionalScopes, help: help,
			value: &w.AdditionalScopes, check: w.CheckAdditionalScopes,
		})
	}
	return questions
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
		if err := w.ask([]*question{q}); err != nil {
			return false, err
		}
	}
	if w.piped == nil {
		return answer == yes, nil
	}
	return answer == yes, w.piped.finish()
}

// try makes the token request and reports its result. The block is printed all the same, also when
// somebody interrupts.
func (w *wizard) try(cmd *cobra.Command) error {
	if !w.Complete() {
		return usageErrorf("it cannot be tried, because a secret was left empty")
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
	defer stop()
	conn, err := w.Try(ctx)
	failure, failed := errors.AsType[*oauth.Error](err)
	switch {
	case err != nil && errors.Is(err, ctx.Err()):
		cmd.PrintErr("\nNot tried to the end.\n\n")
		return errReported
	case failed:
		cmd.PrintErrf("It does not work: %v\n\n", failure)
		return errReported
	case err != nil:
		return errors.New(aboutConnection(err))
	}
	cmd.PrintErrln("It works: there is a token.")
	if conn.Token != nil {
		cmd.PrintErrf("It lives %s.\n", conn.Token.Expires.Sub(conn.Token.Obtained))
	}
	cmd.PrintErrf("Scopes granted: %s\n", grantedWords(conn.Scopes))
	if len(conn.Scopes.Missing) > 0 {
		cmd.PrintErrf("Scopes not granted: %s\n", words(conn.Scopes.Missing))
	}
	cmd.PrintErrln()
	return nil
}
