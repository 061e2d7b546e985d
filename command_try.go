package httphelper

import (
	"encoding/json"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// preview checks the answers as far as that is possible here, and shows the token request that
// follows from them. Nobody is contacted, and no secret is in it.
func (d *draft) preview() (string, error) {
	app := &App{Connectors: map[string]*Connector{d.connector.name: d.connector}}
	c, err := app.configure(d.name, d.connection((*secret).placeholder))
	if err != nil {
		return "", err
	}
	spec, err := c.parse()
	if err != nil {
		return "", err
	}
	if _, err := c.resolveScopes(spec); err != nil {
		return "", err
	}
	return spec.Preview()
}

// try makes one token request with the connection, in a Caddy of its own that does nothing else.
func (d *draft) try(cmd *cobra.Command) error {
	if !d.complete() {
		return usageErrorf("it cannot be tried, because a secret was left empty")
	}
	for _, s := range d.secrets() {
		if err := os.Setenv(s.variable, s.value); err != nil {
			return err
		}
	}
	config := d.connection(func(s *secret) string { return "{env." + s.variable + "}" })
	err := caddy.Load(caddyconfig.JSON(map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": json.RawMessage(`{"logs": {"default": {"level": "FATAL"}}}`),
		"apps": map[string]any{"http_helper": map[string]any{
			"connectors":  map[string]any{d.connector.name: d.raw},
			"connections": map[string]any{d.name: config},
		}},
	}, nil), true)
	if err != nil {
		return describeLoadError(err)
	}
	defer func() { _ = caddy.Stop() }()
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt) // the block is printed all the same
	defer stop()
	conn := activeApp().active[d.name]
	switch err := conn.refresh(ctx); {
	case ctx.Err() != nil:
		cmd.PrintErr("\nNot tried to the end.\n\n")
		return errSaid
	case err != nil:
		cmd.PrintErrf("It does not work: %v\n\n", oauth.AsError(err))
		return errSaid
	}
	view := conn.view()
	cmd.PrintErrln("It works: there is a token.")
	if view.Token != nil {
		cmd.PrintErrf("It lives %s.\n", view.Token.Expires.Sub(view.Token.Obtained))
	}
	cmd.PrintErrf("Scopes granted: %s\n", words(view.Scopes.Granted))
	if len(view.Scopes.Missing) > 0 {
		cmd.PrintErrf("Scopes not granted: %s\n", words(view.Scopes.Missing))
	}
	cmd.PrintErrln()
	return nil
}
