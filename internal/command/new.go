package command

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

func newCommand(configuration draft.Configuration) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "new <connector>",
		Short: "Asks a connector's questions and prints a connection for the Caddyfile",
		Long: `
Asks what a connector asks of every connection, shows the token request that follows
from the answers, makes it once if you want that, with the connector's ping, and prints
the connection's block for the Caddyfile. Secrets are not in the block: it says where
to store them.

With --save the block is written as <name>.caddyfile into a directory, and the secrets
as files below its secrets/<name>, which only you can read. Nothing is overwritten.

The connectors are those of the running Caddy, or of the file --config.

Answers may be piped in, one on a line, in this order: the client id, then the secret
or the files of the key or certificate; the parameters, in the connector's order; the
scopes, separated by spaces, if connections may choose (the required ones need not be
named, and the word default means the default scopes); additional scopes, if they are
allowed; the name of the connection; whether to try it, yes or no. An empty line means
the default: of a dropdown, none of the optional scopes, a name after the connector,
and no. So do lines that are missing. A secret may be left empty too; then it cannot be
tried.`,
		Example: `  caddy http-helper new acme_crm
  caddy http-helper new acme_crm --save connections
  caddy http-helper new acme_crm --config Caddyfile --secret-files /run/secrets <answers`,
		Args:              takes(1, 1, "the name of a connector"),
		ValidArgsFunction: completeNames(connectorNames),
	}
	addAdminFlags(cmd)
	cmd.Flag("config").Usage = "Configuration file with the connectors"
	places := new(secretPlaces)
	cmd.Flags().StringVar(&places.files, "secret-files", "", "Directory in which the secrets will be files (default: they will be environment variables)")
	cmd.Flags().StringVar(&places.save, "save", "", "Directory in which to write the connection and its secrets, as files")
	cmd.RunE = withExitStatus(func(cmd *cobra.Command, args []string) error {
		if err := places.check(); err != nil {
			return err
		}
		return writeConnection(cmd, configuration, args[0], places)
	})
	return cmd
}

// secretPlaces are the flags that say where secrets will be.
type secretPlaces struct{ files, save string }

// check checks the flags, and makes the directory to save in absolute.
func (p *secretPlaces) check() error {
	if p.files != "" && p.save != "" {
		return usageErrorf("--secret-files and --save exclude each other")
	}
	if p.save != "" {
		dir, err := filepath.Abs(p.save)
		if err != nil {
			return err
		}
		p.save = dir
	}
	if err := draft.CheckDir(p.files + p.save); err != nil {
		return usageError{fmt.Errorf("%s: %w", cmp.Or(map[bool]string{true: "--save"}[p.save != ""], "--secret-files"), err)}
	}
	return nil
}

// writeConnection asks for a connection, and prints or saves it.
func writeConnection(cmd *cobra.Command, configuration draft.Configuration, name string, places *secretPlaces) error {
	config, err := findConfig(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: cmd.Context()})
	defer cancel()
	connector, err := configuration.Find(ctx, config, name)
	if err != nil {
		return explain(cmd, err)
	}
	w := newWizard(cmd, connector, config)
	w.SecretDir, w.SaveDir = places.files, places.save
	preview, err := w.fill()
	if err != nil {
		return err
	}
	cmd.PrintErrf("The token request would be:\n\n%s\n", control.ReplaceAllString(preview, "\uFFFD"))
	tryIt, err := w.askToTry()
	if err != nil {
		return err
	}
	var failed error
	if tryIt {
		failed = w.tryUntil()
	}
	block, err := w.Block()
	if err != nil {
		return usageError{err}
	}
	fmt.Fprint(cmd.OutOrStdout(), block)
	saved := w.save()
	if saved != nil && errors.Is(failed, errReported) {
		cmd.PrintErrln("Error:", saved)
	}
	return errors.Join(failed, saved)
}

// findConfig gets the configuration from the file --config, or else from the running Caddy.
func findConfig(cmd *cobra.Command) (*draft.Config, error) {
	if readsFile(cmd) {
		flags := caddycmd.Flags{FlagSet: cmd.Flags()}
		config, err := draft.ReadConfig(flags.String("config"), flags.String("adapter"))
		if err != nil {
			return nil, usageError{err}
		}
		return config, nil
	}
	admin, err := findAdmin(cmd)
	if err != nil {
		return nil, usageError{err}
	}
	config, err := draft.RunningConfig(cmd.Context(), admin)
	return config, explain(cmd, err)
}

// readsFile reports whether there is a file --config.
func readsFile(cmd *cobra.Command) bool { return cmd.Flag("config").Value.String() != "" }

// connectorNames lists the connectors' names, for completion.
func connectorNames(cmd *cobra.Command) ([]string, error) {
	config, err := connectorsInFile(cmd)
	if err != nil {
		return nil, err
	}
	if config != nil {
		return slices.Sorted(maps.Keys(config.Connectors)), nil
	}
	return listedNames(adminapi.ConnectorsPath)(cmd)
}
