package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/console"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
)

func consoleCommand(configuration draft.Configuration) *cobra.Command {
	var listen string
	var allowed []string
	var open bool
	var save string
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Serves a page for the browser, which shows connections and describes new ones",
		Long: `
Serves a page for the browser: how connections are doing, and dialogs that describe
new connections and connectors. The sidecar gets no new port: this command serves the
page, on loopback, and talks to the sidecar's admin endpoint.

The URL that is printed opens the page once, in one browser. Enter prints another one.
Ctrl-C ends the command, and so do 30 minutes in which nobody uses the page.`,
		Example: `  caddy http-helper console --open
  caddy http-helper console --config Caddyfile`,
		Args:              takes(0, 0, "flags only"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "Loopback address of the page; port 0 is any free one")
	cmd.Flags().StringArrayVar(&allowed, "allow-host", nil, "Name, or name:port, under which the page may be reached besides; may be repeated")
	cmd.Flags().BoolVar(&open, "open", false, "Open the page in the browser")
	cmd.Flags().StringVar(&save, "save", "", "Directory in which the page may save new connections, with their secrets as files, and new connectors")
	addAdminFlags(cmd)
	cmd.Flag("config").Usage = "Configuration file with the connectors, which also names the admin endpoint"
	cmd.RunE = withExitStatus(func(cmd *cobra.Command, _ []string) error {
		options := consoleOptions(cmd, configuration)
		for _, host := range allowed {
			parsed, err := console.ParseHost(host)
			if err != nil {
				return usageError{err}
			}
			options.AllowHosts = append(options.AllowHosts, parsed)
		}
		if save != "" {
			if err := options.SaveIn(save); err != nil {
				return usageError{fmt.Errorf("--save: %w", err)}
			}
		}
		return serveConsole(cmd, listen, open, options)
	})
	return cmd
}

// consoleOptions are the options that follow from the flags that say which Caddy a command is about.
func consoleOptions(cmd *cobra.Command, configuration draft.Configuration) console.Options {
	return console.Options{
		Admin:         func() (*adminapi.Client, error) { return findAdmin(cmd) },
		File:          cmd.Flag("config").Value.String(),
		Adapter:       cmd.Flag("adapter").Value.String(),
		Configuration: configuration,
	}
}

// serveConsole serves the console until a signal ends it, or nobody uses it.
func serveConsole(cmd *cobra.Command, listen string, open bool, options console.Options) error {
	if _, err := options.Admin(); err != nil { // flags that contradict each other
		return usageError{err}
	}
	listener, err := console.Listen(listen)
	if _, taken := errors.AsType[*net.OpError](err); taken {
		return err
	}
	if err != nil {
		return usageError{err}
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := console.New(listener.Addr(), options)
	url := server.NewURL()
	fmt.Fprintf(cmd.OutOrStdout(), "http-helper: console %s\n", url)
	cmd.PrintErrln("The URL works once. Enter prints another one; Ctrl-C ends the console.")
	if open {
		remove, err := console.Open(url)
		defer remove()
		if err != nil {
			cmd.PrintErrf("It was not opened: %v.\n", err)
		}
	}
	go printURLs(ctx, cmd, server)
	if err := server.Serve(ctx, listener); !errors.Is(err, console.ErrIdle) {
		return err
	}
	cmd.PrintErrln("The console has ended: nobody has used it for 30 minutes.")
	return nil
}

// printURLs prints a new URL for each line that is typed.
func printURLs(ctx context.Context, cmd *cobra.Command, server *console.Server) {
	for lines := bufio.NewScanner(cmd.InOrStdin()); lines.Scan() && ctx.Err() == nil; {
		fmt.Fprintf(cmd.OutOrStdout(), "http-helper: console %s\n", server.NewURL())
	}
}
