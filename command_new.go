package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"
)

func newCommand() *cobra.Command {
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
		ValidArgsFunction: completeNames(connectorsPath),
	}
	addAdminFlags(cmd)
	cmd.Flag("config").Usage = "Configuration file with the connectors"
	dir := cmd.Flags().String("secret-files", "", "Directory in which the secrets will be files (default: they will be environment variables)")
	cmd.RunE = exiting(func(cmd *cobra.Command, args []string) error { return writeConnection(cmd, args[0], *dir) })
	return cmd
}

// writeConnection asks for a connection and prints it.
func writeConnection(cmd *cobra.Command, connector, dir string) error {
	config, err := findConnectors(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: cmd.Context()})
	defer cancel()
	d, err := config.draft(ctx, connector, dir)
	if err != nil {
		return err
	}
	asker := newAsker(cmd)
	preview, err := d.fill(cmd, asker)
	if err != nil {
		return err
	}
	cmd.PrintErrf("The token request would be:\n\n%s\n", preview)
	tryIt, err := d.askToTry(asker)
	if err != nil {
		return err
	}
	var failed error
	if tryIt {
		failed = d.try(cmd)
	}
	block, err := d.block()
	if err != nil {
		return usageError{err}
	}
	fmt.Fprint(cmd.OutOrStdout(), block)
	return failed
}

// helperConfig is the part of Caddy's configuration that is about connectors and connections.
type helperConfig struct {
	Connectors  map[string]json.RawMessage `json:"connectors"`
	Connections map[string]json.RawMessage `json:"connections"`
}

// findConnectors gets the configuration from the file --config, or else from the running Caddy.
func findConnectors(cmd *cobra.Command) (*helperConfig, error) {
	var config struct {
		Apps struct {
			HTTPHelper helperConfig `json:"http_helper"`
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
	admin, err := findAdmin(cmd)
	if err != nil {
		return nil, err
	}
	// All of the connector, not only its form: to work out what the token request will be. And all of the
	// configuration, because a part of it may not be there.
	err = (&session{cmd: cmd, admin: admin}).call(http.MethodGet, "/config/", &config)
	return &config.Apps.HTTPHelper, err
}

// draft begins a connection.
func (c *helperConfig) draft(ctx caddy.Context, name, dir string) (*draft, error) {
	raw, ok := c.Connectors[name]
	if !ok {
		return nil, usageErrorf("there is no connector %q; %s", name, thereAre(sortedKeys(c.Connectors)))
	}
	connector := new(Connector)
	if err := caddy.StrictUnmarshalJSON(raw, connector); err != nil {
		return nil, errors.New("the connector cannot be read: is it of another version of http_helper?")
	}
	if err := connector.provision(ctx, name); err != nil {
		return nil, err
	}
	taken := make(map[string]bool)
	for name := range c.Connections {
		taken[name] = true
	}
	return newDraft(ctx, connector, raw, taken, dir), nil
}

// fill asks for everything, and again when the answers do not fit together and a person is there.
// It returns the token request for people.
func (d *draft) fill(cmd *cobra.Command, asker asker) (string, error) {
	for {
		for _, page := range d.pages() {
			if err := asker.ask(page); err != nil {
				return "", err
			}
		}
		preview, err := d.preview()
		if err == nil {
			return preview, nil
		}
		if !asker.person() {
			return "", usageError{err}
		}
		cmd.PrintErrln("The answers do not fit:", err)
	}
}

// askToTry asks whether to make the token request. A person is not asked when it cannot be made.
func (d *draft) askToTry(asker asker) (bool, error) {
	answer := no
	if !asker.person() || d.complete() {
		q := &question{kind: askYesNo, title: "Make this request once now, to try it?", answer: &answer}
		if err := asker.ask([]*question{q}); err != nil {
			return false, err
		}
	}
	return answer == yes, asker.end()
}
