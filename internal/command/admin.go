package command

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

func listCommand() *cobra.Command {
	return adminCommand(&cobra.Command{
		Use:   "list",
		Short: "Lists the connections and how they are doing",
		Args:  takes(0, 0, "no argument"),
	}, nil, func(s *session, _ string) error {
		conns, err := show(s, http.MethodGet, adminapi.ConnectionsPath, (*printer).connections)
		return cmp.Or(err, somethingDown(conns...))
	})
}

func showCommand() *cobra.Command {
	return connectionCommand(&cobra.Command{
		Use:   "show <connection>",
		Short: "Shows a connection: its state, and when it does not work, why and what to do",
	}, func(s *session, name string) error {
		conn, err := show(s, http.MethodGet, adminapi.ConnectionPath(name, ""), func(p *printer, c adminapi.Connection) { p.connection(c, s.valuesOf(c), s.refusals(name)) })
		return cmp.Or(err, somethingDown(conn))
	})
}

// valuesOf gets what is told of a connection's values: nothing by a sidecar of an older version.
func (s *session) valuesOf(c adminapi.Connection) (values adminapi.Values) {
	if c.Connector != nil {
		_ = s.call(http.MethodGet, adminapi.ConnectionPath(c.Name, adminapi.ValuesPart), &values)
	}
	return values
}

// refusals returns the refused requests of a connection, one event for each status. An older sidecar tells nothing.
func (s *session) refusals(connection string) []adminapi.Event {
	admin, err := findAdmin(s.cmd)
	if err != nil {
		return nil
	}
	events, _ := admin.Events(s.cmd.Context(), connection)
	return slices.DeleteFunc(events, func(e adminapi.Event) bool { return e.Kind != adminapi.EventRefused })
}

func refreshCommand() *cobra.Command {
	return connectionCommand(&cobra.Command{
		Use:   "refresh <connection>",
		Short: "Fetches a new token now, without waiting for the end of a back-off",
	}, func(s *session, name string) error {
		_, err := show(s, http.MethodPost, adminapi.ConnectionPath(name, adminapi.RefreshAction), (*printer).refreshed)
		return err
	})
}

func pingCommand() *cobra.Command {
	cmd := connectionCommand(&cobra.Command{
		Use:   "ping [<connection>]",
		Short: "Makes the request that proves a connection",
		Long: `
Makes the request that proves a connection. The name may be left out when there is
only one.`,
	}, func(s *session, name string) error {
		if name == "" {
			only, err := s.onlyConnection()
			if err != nil {
				return err
			}
			name = only
		}
		result, err := show(s, http.MethodPost, adminapi.ConnectionPath(name, adminapi.PingAction), func(p *printer, result adminapi.Ping) { p.ping(name, result) })
		if err == nil && !result.Working {
			return errReported
		}
		return err
	})
	cmd.Args = takes(0, 1, "the name of a connection, if there are several")
	return cmd
}

// onlyConnection returns the name of the connection, if there is one and no other.
func (s *session) onlyConnection() (string, error) {
	names, err := listedNames(adminapi.ConnectionsPath)(s.cmd)
	switch {
	case err != nil:
		return "", err
	case len(names) == 0:
		return "", errors.New("there are no connections")
	case len(names) > 1:
		return "", usageErrorf("there are several connections; name one of them: %s", strings.Join(names, ", "))
	}
	return names[0], nil
}

func connectorsCommand(configuration draft.Configuration) *cobra.Command {
	cmd := adminCommand(&cobra.Command{
		Use:   "connectors [<connector>]",
		Short: "Lists the connectors, or shows what one asks of a new connection",
		Long: `
Lists the connectors, or shows what one asks of a new connection. They are those of
the file --config, for which nothing needs to run, or of the running Caddy.`,
		Args: takes(0, 1, "the name of a connector, if any"),
	}, connectorNames, func(s *session, name string) error {
		config, err := connectorsInFile(s.cmd)
		if err != nil {
			return err
		}
		if config != nil {
			return s.showFromFile(configuration, config, name)
		}
		if name == "" {
			_, err = show(s, http.MethodGet, adminapi.ConnectorsPath, (*printer).connectors)
			if _, unreachable := errors.AsType[*adminapi.UnreachableError](err); unreachable && readsFile(s.cmd) {
				return s.print([]adminapi.Connector{}, func(p *printer) { p.connectors(nil) }) // the file has none
			}
			return err
		}
		_, err = show(s, http.MethodGet, adminapi.ConnectorPath(name), (*printer).form)
		return err
	})
	cmd.Flag("config").Usage = "Configuration file with the connectors, or that names the admin endpoint"
	return cmd
}

// connectorsInFile reads the file --config. It returns nil if there is none, or one without connectors, which
// only names the admin endpoint.
func connectorsInFile(cmd *cobra.Command) (*draft.Config, error) {
	if !readsFile(cmd) {
		return nil, nil
	}
	config, err := findConfig(cmd)
	if err != nil || len(config.Connectors) == 0 {
		return nil, err
	}
	return config, nil
}

// showFromFile shows the connectors of a configuration file, or one of them.
func (s *session) showFromFile(configuration draft.Configuration, config *draft.Config, name string) error {
	if name == "" {
		forms, err := configuration.Forms(s.cmd.Context(), config)
		return cmp.Or(err, s.print(forms, func(p *printer) { p.connectors(forms) }))
	}
	form, err := configuration.Form(s.cmd.Context(), config, name)
	if err != nil {
		return explain(s.cmd, err)
	}
	return s.print(form, func(p *printer) { p.form(form) })
}

// session is one use of a command that talks to a running Caddy.
type session struct {
	cmd  *cobra.Command
	json bool // print what the admin API responds, for programs
}

// print prints a value for programs, or as it is rendered for people.
func (s *session) print(value any, render func(*printer)) error {
	if s.json {
		encoder := json.NewEncoder(s.cmd.OutOrStdout())
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	}
	p := newPrinter(s.cmd.OutOrStdout(), time.Now(), adminFlags(s.cmd))
	render(p)
	p.flush()
	return nil
}

// connectionCommand completes a command that is about one connection.
func connectionCommand(cmd *cobra.Command, run func(s *session, name string) error) *cobra.Command {
	cmd.Args = takes(1, 1, "the name of a connection")
	return adminCommand(cmd, listedNames(adminapi.ConnectionsPath), run)
}

// adminCommand completes a command that talks to a running Caddy. Its argument is completed with
// the names that list returns, if there is one.
func adminCommand(cmd *cobra.Command, list func(*cobra.Command) ([]string, error), run func(s *session, argument string) error) *cobra.Command {
	addAdminFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "Print the admin API's response, for programs")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	if list != nil {
		cmd.ValidArgsFunction = completeNames(list)
	}
	cmd.RunE = withExitStatus(func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && strings.Trim(args[0], ".") == "" {
			return usageErrorf("%q is not a name", args[0]) // nor a part of a URL's path
		}
		return run(&session{cmd: cmd, json: *asJSON}, append(args, "")[0])
	})
	return cmd
}

// call makes a request and reads the response. With --json, that is printed, also when it is an error.
func (s *session) call(method, path string, into any) error {
	admin, err := findAdmin(s.cmd)
	if err != nil {
		return usageError{err}
	}
	body, err := admin.Do(s.cmd.Context(), method, path, into)
	var indented bytes.Buffer
	if s.json && json.Indent(&indented, bytes.TrimSpace(body), "", "  ") == nil {
		fmt.Fprintln(s.cmd.OutOrStdout(), indented.String())
	}
	return explain(s.cmd, err)
}

// show makes a request and shows the response, for programs or as it is rendered for people.
func show[T any](s *session, method, path string, render func(*printer, T)) (response T, err error) {
	err = s.call(method, path, &response)
	if err == nil && !s.json {
		err = s.print(response, func(p *printer) { render(p, response) })
	}
	return response, err
}

func somethingDown(conns ...adminapi.Connection) error {
	if slices.ContainsFunc(conns, func(c adminapi.Connection) bool { return c.State == token.StateDown }) {
		return errReported
	}
	return nil
}

// addAdminFlags adds the flags that say which Caddy a command talks to.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Admin endpoint of the running Caddy, such as unix//run/http_helper/admin.sock")
	cmd.Flags().StringP("config", "c", "", "Configuration file that names the admin endpoint")
	cmd.Flags().StringP("adapter", "a", "", "Name of the adapter for the configuration file")
}

// findAdmin finds the endpoint that a command's flags mean.
func findAdmin(cmd *cobra.Command) (*adminapi.Client, error) {
	address, err := adminAddress(cmd)
	if err != nil {
		return nil, err
	}
	return adminapi.New(address)
}

// adminAddress returns the address that a command's flags mean. Without any, that is the one of the user's
// own sidecar, or of a Caddyfile in the current directory, or else Caddy's default.
func adminAddress(cmd *cobra.Command) (string, error) {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	address, config, adapter := flags.String("address"), flags.String("config"), flags.String("adapter")
	if adapter != "" && config == "" {
		return "", errors.New("--adapter needs --config")
	}
	if address != "" || config != "" {
		return addressIn(address, config, adapter)
	}
	switch running, _ := adminapi.Sockets(); len(running) {
	case 0:
		return addressHere(), nil
	case 1:
		return running[0], nil
	default:
		return "", fmt.Errorf("several sidecars are running; choose one:\n  --address %s", strings.Join(running, "\n  --address "))
	}
}

// filesHere are the Caddyfiles whose admin endpoint is looked for in the current directory.
var filesHere = []string{"Caddyfile", "Caddyfile.example"}

// addressHere returns the admin endpoint of the first Caddyfile in the current directory whose Caddy runs.
// If none does, it is Caddy's default, if one runs there, or else the first that a Caddyfile names.
func addressHere() string {
	var named []string
	for _, file := range filesHere {
		if address := addressNamedIn(file); address != "" {
			named = append(named, address)
		}
	}
	for _, address := range append(named, caddy.DefaultAdminListen) {
		if adminapi.Responds(address) {
			return address
		}
	}
	return append(named, caddy.DefaultAdminListen)[0]
}

// addressNamedIn returns the admin endpoint that a Caddyfile names, or "" if there is none that can be read.
func addressNamedIn(file string) string {
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	address, err := addressIn("", file, "caddyfile")
	if err != nil || address == caddy.DefaultAdminListen {
		return ""
	}
	return address
}

// addressIn returns the address that was given, or the admin endpoint of a configuration, whose placeholders
// Caddy resolves when it starts.
func addressIn(address, config, adapter string) (string, error) {
	address, err := draft.Quietly(func() (string, error) { return caddycmd.DetermineAdminAPIAddress(address, nil, config, adapter) })
	return caddy.NewReplacer().ReplaceKnown(address, ""), err
}

// adminFlags are the flags that say which Caddy a command talks to, for another command.
func adminFlags(cmd *cobra.Command) string {
	var flags strings.Builder
	for _, name := range []string{"address", "config", "adapter"} {
		if value := cmd.Flag(name).Value.String(); value != "" {
			fmt.Fprintf(&flags, " --%s %s", name, shellWord(value))
		}
	}
	return flags.String()
}

var plainShellWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// shellWord writes a text so that a shell reads it as one word.
func shellWord(word string) string {
	if plainShellWord.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// explain adds to an error of a client's what to do about it. A name that is not there was typed wrongly.
func explain(cmd *cobra.Command, err error) error {
	if failed, ok := errors.AsType[caddy.APIError](err); ok && failed.HTTPStatus == http.StatusNotFound {
		return usageError{err}
	}
	unreachable, ok := errors.AsType[*adminapi.UnreachableError](err)
	switch {
	case !ok:
		return err
	case unreachable.Forbidden():
		return fmt.Errorf("%w; run the command as the user of that Caddy", err)
	case adminFlags(cmd) == "" && unreachable.Address == caddy.DefaultAdminListen:
		return fmt.Errorf("no caddy http-helper run of yours is running, and %w%s; for a Caddy with a configuration file give --config <file>, or its admin endpoint with --address", err, unusableHere())
	}
	start := "start it"
	if adminFlags(cmd) == "" {
		if i := slices.IndexFunc(filesHere, func(file string) bool { return addressNamedIn(file) == unreachable.Address }); i >= 0 {
			return fmt.Errorf("%w, where %s has its admin endpoint; start it with caddy run --config %[2]s if it does not run, or choose another one with --address or --config", err, filesHere[i])
		}
	}
	if cmd.Flag("address").Value.String() == "" && cmd.Flag("config").Value.String() != "" {
		start += " with caddy run" + adminFlags(cmd)
	}
	return fmt.Errorf("%w; %s if it does not run, or choose another one with --address or --config", err, start)
}

// unusableHere says of the Caddyfiles in the current directory which one cannot be used, and why.
func unusableHere() string {
	for _, file := range filesHere {
		if _, err := os.Stat(file); err != nil {
			continue
		}
		if _, err := addressIn("", file, "caddyfile"); err != nil {
			return fmt.Sprintf(" (./%s cannot be used: %v)", file, err)
		}
	}
	return ""
}

// completeNames completes an argument with the names that list returns.
func completeNames(list func(*cobra.Command) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := list(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// listedNames returns a function that gets the names in a list of the admin API's.
func listedNames(path string) func(*cobra.Command) ([]string, error) {
	return func(cmd *cobra.Command) ([]string, error) {
		var list []struct{ Name string }
		err := (&session{cmd: cmd}).call(http.MethodGet, path, &list)
		names := make([]string, len(list))
		for i, item := range list {
			names[i] = item.Name
		}
		return names, err
	}
}
