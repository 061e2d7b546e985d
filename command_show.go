package httphelper

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

func listCommand() *cobra.Command {
	return adminCommand(&cobra.Command{
		Use:   "list",
		Short: "Lists the connections and how they are doing",
		Args:  takes(0, 0, "no argument"),
	}, "", func(s *session, _ string) error {
		var conns []connectionView
		if err := s.call(http.MethodGet, "/http_helper/connections", &conns); err != nil {
			return err
		}
		s.show(func(p *page) { p.connections(conns) })
		return somethingDown(conns...)
	})
}

func showCommand() *cobra.Command {
	return connectionCommand(&cobra.Command{
		Use:   "show <connection>",
		Short: "Shows a connection: its state, and when it does not work, why and what to do",
	}, func(s *session, name string) error {
		var conn connectionView
		if err := s.call(http.MethodGet, connectionPath(name, ""), &conn); err != nil {
			return err
		}
		s.show(func(p *page) { p.connection(conn) })
		return somethingDown(conn)
	})
}

func refreshCommand() *cobra.Command {
	return connectionCommand(&cobra.Command{
		Use:   "refresh <connection>",
		Short: "Fetches a new token now, without waiting for the end of a back-off",
	}, func(s *session, name string) error {
		var conn connectionView
		if err := s.call(http.MethodPost, connectionPath(name, "/refresh"), &conn); err != nil {
			return err
		}
		s.show(func(p *page) { p.refreshed(conn) })
		return nil
	})
}

func pingCommand() *cobra.Command {
	return connectionCommand(&cobra.Command{
		Use:   "ping <connection>",
		Short: "Makes the request that proves a connection",
	}, func(s *session, name string) error {
		var result pingView
		if err := s.call(http.MethodPost, connectionPath(name, "/ping"), &result); err != nil {
			return err
		}
		s.show(func(p *page) { p.ping(name, result) })
		if !result.Working {
			return errSaid
		}
		return nil
	})
}

func connectorsCommand() *cobra.Command {
	return adminCommand(&cobra.Command{
		Use:   "connectors [<connector>]",
		Short: "Lists the connectors, or shows what one asks of a new connection",
		Args:  takes(0, 1, "the name of a connector, if any"),
	}, connectorsPath, func(s *session, name string) error {
		if name == "" {
			var forms []formView
			err := s.call(http.MethodGet, connectorsPath, &forms)
			if err == nil {
				s.show(func(p *page) { p.connectors(forms) })
			}
			return err
		}
		var form formView
		err := s.call(http.MethodGet, connectorsPath+"/"+url.PathEscape(name), &form)
		if err == nil {
			s.show(func(p *page) { p.form(form) })
		}
		return err
	})
}

const (
	connectionsPath = "/http_helper/connections"
	connectorsPath  = "/http_helper/connectors"
)

func connectionPath(name, about string) string {
	return connectionsPath + "/" + url.PathEscape(name) + about
}

// session is one use of a command that talks to a running Caddy.
type session struct {
	cmd    *cobra.Command
	admin  *adminClient
	json   bool
	answer *adminAnswer // the last one
}

// connectionCommand completes a command that is about one connection.
func connectionCommand(cmd *cobra.Command, run func(s *session, name string) error) *cobra.Command {
	cmd.Args = takes(1, 1, "the name of a connection")
	return adminCommand(cmd, connectionsPath, run)
}

// adminCommand completes a command that talks to a running Caddy. Its argument is completed with
// the names in a list of the admin API's.
func adminCommand(cmd *cobra.Command, list string, run func(s *session, argument string) error) *cobra.Command {
	addAdminFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "Print the admin API's answer, for programs")
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	if list != "" {
		cmd.ValidArgsFunction = completeNames(list)
	}
	cmd.RunE = exiting(func(cmd *cobra.Command, args []string) error {
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

// call makes a request. With --json, an error of the API's is printed as it is, besides.
func (s *session) call(method, path string, into any) error {
	var err error
	if s.answer, err = s.admin.ask(s.cmd.Context(), method, path); err != nil {
		return err
	}
	if err = s.admin.read(s.answer, into); err != nil && s.json {
		s.print()
	}
	return err
}

// show prints the answer for programs or for people.
func (s *session) show(render func(*page)) {
	if s.json {
		s.print()
		return
	}
	p := newPage(s.cmd.OutOrStdout(), time.Now(), adminFlags(s.cmd))
	render(p)
	p.end()
}

func (s *session) print() {
	var indented bytes.Buffer
	if json.Indent(&indented, bytes.TrimSpace(s.answer.body), "", "  ") == nil {
		fmt.Fprintln(s.cmd.OutOrStdout(), indented.String())
	}
}

func somethingDown(conns ...connectionView) error {
	if slices.ContainsFunc(conns, func(c connectionView) bool { return c.State == token.StateDown }) {
		return errSaid
	}
	return nil
}
