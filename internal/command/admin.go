package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

func listCommand() *cobra.Command {
	return adminCommand(&cobra.Command{
		Use:   "list",
		Short: "Lists the connections and how they are doing",
		Args:  takes(0, 0, "no argument"),
	}, "", func(s *session, _ string) error {
		var conns []adminapi.Connection
		if err := s.call(http.MethodGet, adminapi.ConnectionsPath, &conns); err != nil {
			return err
		}
		s.show(func(p *printer) { p.connections(conns) })
		return somethingDown(conns...)
	})
}

func showCommand() *cobra.Command {
	return connectionCommand(&cobra.Command{
		Use:   "show <connection>",
		Short: "Shows a connection: its state, and when it does not work, why and what to do",
	}, func(s *session, name string) error {
		var conn adminapi.Connection
		if err := s.call(http.MethodGet, adminapi.ConnectionPath(name, ""), &conn); err != nil {
			return err
		}
		s.show(func(p *printer) { p.connection(conn) })
		return somethingDown(conn)
	})
}

func refreshCommand() *cobra.Command {
	return connectionCommand(&cobra.Command{
		Use:   "refresh <connection>",
		Short: "Fetches a new token now, without waiting for the end of a back-off",
	}, func(s *session, name string) error {
		var conn adminapi.Connection
		if err := s.call(http.MethodPost, adminapi.ConnectionPath(name, adminapi.RefreshAction), &conn); err != nil {
			return err
		}
		s.show(func(p *printer) { p.refreshed(conn) })
		return nil
	})
}

func pingCommand() *cobra.Command {
	return connectionCommand(&cobra.Command{
		Use:   "ping <connection>",
		Short: "Makes the request that proves a connection",
	}, func(s *session, name string) error {
		var result adminapi.Ping
		if err := s.call(http.MethodPost, adminapi.ConnectionPath(name, adminapi.PingAction), &result); err != nil {
			return err
		}
		s.show(func(p *printer) { p.ping(name, result) })
		if !result.Working {
			return errReported
		}
		return nil
	})
}

func connectorsCommand() *cobra.Command {
	return adminCommand(&cobra.Command{
		Use:   "connectors [<connector>]",
		Short: "Lists the connectors, or shows what one asks of a new connection",
		Args:  takes(0, 1, "the name of a connector, if any"),
	}, adminapi.ConnectorsPath, func(s *session, name string) error {
		if name == "" {
			var forms []adminapi.Connector
			err := s.call(http.MethodGet, adminapi.ConnectorsPath, &forms)
			if err == nil {
				s.show(func(p *printer) { p.connectors(forms) })
			}
			return err
		}
		var form adminapi.Connector
		err := s.call(http.MethodGet, adminapi.ConnectorPath(name), &form)
		if err == nil {
			s.show(func(p *printer) { p.form(form) })
		}
		return err
	})
}

// session is one use of a command that talks to a running Caddy.
type session struct {
	cmd      *cobra.Command
	admin    *adminapi.Client
	json     bool
	response *adminapi.Response // the last one
}

// connectionCommand completes a command that is about one connection.
func connectionCommand(cmd *cobra.Command, run func(s *session, name string) error) *cobra.Command {
	cmd.Args = takes(1, 1, "the name of a connection")
	return adminCommand(cmd, adminapi.ConnectionsPath, run)
}

// adminCommand completes a command that talks to a running Caddy. Its argument is completed with
// the names in a list of the admin API's.
func adminCommand(cmd *cobra.Command, list string, run func(s *session, argument string) error) *cobra.Command {
	addAdminFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "Print the admin API's response, for programs")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	if list != "" {
		cmd.ValidArgsFunction = completeNames(list)
	}
	cmd.RunE = withExitStatus(func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && strings.Trim(args[0], ".") == "" {
			return usageErrorf("%q is not a name", args[0]) // nor a part of a URL's path
		}
		admin, err := findAdmin(cmd)
		if err != nil {
			return err
		}
		return run(&session{cmd: cmd, admin: admin, json: *asJSON}, append(args, "")[0])
	})
	return cmd
}

// call makes a request and reads the response. With --json, an error of the API's is printed as it is,
// besides.
func (s *session) call(method, path string, into any) error {
	var err error
	if s.response, err = s.admin.Do(s.cmd.Context(), method, path); err != nil {
		return explain(s.cmd, err)
	}
	if err = s.response.Decode(into); err != nil && s.json {
		s.print()
	}
	return explain(s.cmd, err)
}

// show prints the response for programs or for people.
func (s *session) show(render func(*printer)) {
	if s.json {
		s.print()
		return
	}
	p := newPrinter(s.cmd.OutOrStdout(), time.Now(), adminFlags(s.cmd))
	render(p)
	p.flush()
}

func (s *session) print() {
	var indented bytes.Buffer
	if json.Indent(&indented, bytes.TrimSpace(s.response.Body), "", "  ") == nil {
		fmt.Fprintln(s.cmd.OutOrStdout(), indented.String())
	}
}

func somethingDown(conns ...adminapi.Connection) error {
	if slices.ContainsFunc(conns, func(c adminapi.Connection) bool { return c.State == adminapi.StateDown }) {
		return errReported
	}
	return nil
}

// patience is how long a command waits for a response that costs no request to anybody else.
const patience = 10 * time.Second

// addAdminFlags adds the flags that say which Caddy a command talks to.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Admin endpoint of the running Caddy, such as unix//run/http_helper/admin.sock")
	cmd.Flags().StringP("config", "c", "", "Configuration file that names the admin endpoint")
	cmd.Flags().StringP("adapter", "a", "", "Name of the adapter for the configuration file")
}

// findAdmin finds the endpoint that a command's flags mean.
func findAdmin(cmd *cobra.Command) (*adminapi.Client, error) {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	if flags.String("adapter") != "" && flags.String("config") == "" {
		return nil, usageErrorf("--adapter needs --config")
	}
	if flags.String("address") == "" && flags.String("config") == "" {
		return findRunning()
	}
	address, err := quietly(func() (string, error) {
		return caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
	})
	if err != nil {
		return nil, usageError{err}
	}
	return newClient(address)
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

// quietly does something without the lines of Caddy's log about it, which would stand between those of
// a command.
func quietly[T any](do func() (T, error)) (T, error) {
	_, log, buffer := caddy.BufferedLog()
	defer func() {
		buffer.FlushTo(zap.NewNop())
		caddy.UnbufferDefaultLogger(log)
	}()
	return do()
}

// findRunning finds the user's own sidecar, or else Caddy's default endpoint.
func findRunning() (*adminapi.Client, error) {
	switch running := adminapi.Running(); len(running) {
	case 0:
		return newClient(caddy.DefaultAdminListen)
	case 1:
		return newClient(running[0])
	default:
		return nil, usageErrorf("several sidecars are running; choose one:\n  --address %s", strings.Join(running, "\n  --address "))
	}
}

func newClient(address string) (*adminapi.Client, error) {
	client, err := adminapi.New(address, patience)
	if err != nil {
		return nil, usageError{err}
	}
	return client, nil
}

// explain adds to an error of a client's what to do about it. A name that is not there was typed wrongly.
func explain(cmd *cobra.Command, err error) error {
	if failed, ok := errors.AsType[*adminapi.Error](err); ok && failed.Status == http.StatusNotFound {
		return usageError{err}
	}
	unreachable, ok := errors.AsType[*adminapi.UnreachableError](err)
	switch {
	case !ok:
		return err
	case unreachable.Forbidden():
		return fmt.Errorf("%w; run the command as the user of that Caddy", err)
	case adminFlags(cmd) == "" && unreachable.Address == caddy.DefaultAdminListen:
		return fmt.Errorf("no sidecar of yours is running, and %w; choose another one with --address or --config", err)
	default:
		return fmt.Errorf("%w; choose another one with --address or --config", err)
	}
}

// completeNames completes an argument with the names in a list of the admin API's.
func completeNames(path string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var list []struct{ Name string }
		admin, err := findAdmin(cmd)
		if err != nil || (&session{cmd: cmd, admin: admin}).call(http.MethodGet, path, &list) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := make([]cobra.Completion, len(list))
		for i, item := range list {
			names[i] = item.Name
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
