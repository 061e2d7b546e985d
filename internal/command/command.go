// Package command implements the command `caddy http-helper`: it runs a sidecar from flags, shows
// connections and acts on them through the admin API, and asks for a new connection.
//
// It is what a person sees at a terminal. It does not know the configuration's types.
package command

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

// exitUsage is the exit status of a command that was used wrongly. Other failures end with 1.
const exitUsage = 2

// Register adds the command `caddy http-helper`.
func Register(configuration draft.Configuration) {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "http-helper",
		Usage: "<command>",
		Short: "Runs, shows and steers sidecars that authenticate for an app",
		Long: `
Runs a sidecar without a configuration file, shows how connections are doing, tries
and refreshes them, and writes new ones.

The commands that show and steer talk to the admin endpoint of a running Caddy: the
one at --address, or that of the file --config; without either, that of your own
'caddy http-helper run', that of the Caddyfile or Caddyfile.example in the current
directory, or else Caddy's default.

They exit with 0 when all is well, 1 when something does not work, and 2 when they
are used wrongly.`,
		CobraFunc: func(cmd *cobra.Command) { addCommands(cmd, configuration) },
	})
}

func addCommands(cmd *cobra.Command, configuration draft.Configuration) {
	cmd.AddCommand(
		runCommand(),
		listCommand(), showCommand(), refreshCommand(), pingCommand(),
		connectorsCommand(configuration), newCommand(configuration), consoleCommand(configuration),
	)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return exit(cmd, usageErrorf("%w; see %s --help", describeFlagError(err), cmd.CommandPath()))
	})
	cmd.SetHelpTemplate(new(cobra.Command).HelpTemplate()) // Caddy's points to documentation that is not ours
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = cobra.ArbitraryArgs // so that RunE sees a command that does not exist
	cmd.RunE = withExitStatus(runNoCommand)
}

// runNoCommand runs when no existing command was named, and says which there are. What was typed is not
// quoted: it may be a secret.
func runNoCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		cmd.SetOut(cmd.ErrOrStderr())
		_ = cmd.Help()
		return usageError{errReported}
	}
	if args[0] == "help" {
		if sub, _, err := cmd.Find(args[1:]); err == nil {
			sub.InitDefaultHelpFlag()
			return sub.Help()
		}
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usageErrorf("there is no such command; did you mean %s?", strings.Join(near, " or "))
	}
	return usageErrorf("there is no such command; see %s --help", cmd.CommandPath())
}

// usageError is the error of a command that was used wrongly.
type usageError struct{ error }

// Unwrap lets errors.Is look inside.
func (e usageError) Unwrap() error { return e.error }

func usageErrorf(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// errReported ends a command that has already reported what is wrong.
var errReported = errors.New("something does not work")

// withExitStatus gives a command its exit status and prints its error, in plain words and not as a line of
// Caddy's log.
func withExitStatus(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error { return exit(cmd, run(cmd, args)) }
}

func exit(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	cmd.SilenceErrors = true
	if !errors.Is(err, errReported) {
		cmd.PrintErrln("Error:", err)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		// Only a command of Caddy's own form can choose a status.
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return exitUsage, nil })(cmd, nil)
	}
	return err
}

// describeFlagError describes an error about flags without a value, which may be a secret.
func describeFlagError(err error) error {
	unknown, ok := errors.AsType[*pflag.NotExistError](err)
	switch {
	case !ok:
		return err
	case unknown.GetSpecifiedName() == "client-secret":
		return errors.New("a secret must not be an argument, where others can see it: use --client-secret-file <path>, " +
			"--client-secret-file - for standard input, or --client-secret-env <name>")
	case unknown.GetSpecifiedShortnames() != "":
		return fmt.Errorf("there is no flag -%s", unknown.GetSpecifiedName())
	default:
		return fmt.Errorf("there is no flag --%s", unknown.GetSpecifiedName())
	}
}

// takes checks the number of arguments. They are not quoted: one may be a misplaced secret.
func takes(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		return exit(cmd, usageErrorf("%s takes %s; see %s --help", cmd.Name(), what, cmd.CommandPath()))
	}
}
