package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/oauth2"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// preview checks the answers as far as that is possible here, and shows the token request that
// follows from them. Nobody is contacted, and no secret is in it.
func (d *draft) preview() (string, error) {
	app := &App{ctx: d.ctx, Connectors: map[string]*Connector{d.connector.name: d.connector}}
	c := &activeConnection{name: d.name, app: app, config: d.connection((*secret).placeholder), logger: zap.NewNop()}
	if err := c.checkAlone(app); err != nil {
		return "", err
	}
	var err error
	if c.requested, _, _, err = c.connector.requestedScopes(c.config); err != nil {
		return "", err
	}
	view := c.display()
	if err := errors.Join(view.checkURL("base_url", c.texts.baseURL), view.checkURL("token_url", c.texts.tokenURL)); err != nil {
		return "", err
	}
	return view.tokenRequest()
}

// checkURL checks a URL, unless its author has left values to the environment.
func (d *display) checkURL(option string, t *text) error {
	if t == nil || len(t.keys(kindEnv))+len(t.keys(kindFile)) > 0 {
		return nil
	}
	_, err := d.c.service.expandURL(option, *t, d.lookup)
	return err
}

// tokenRequest describes the token request: its secrets in words, and what is hidden as
// placeholders.
func (d *display) tokenRequest() (string, error) {
	s := d.c.service
	credentials, err := d.credentials()
	if err != nil {
		return "", err
	}
	request := &tokenRequest{scopes: d.c.requested, grantType: s.GrantType, separator: s.TokenRequestScopeSeparator, params: make(url.Values)}
	for _, p := range d.c.texts.params {
		for _, value := range p.values {
			request.params.Add(p.name, d.text(value))
		}
	}
	for _, resource := range d.c.texts.resources {
		request.resources = append(request.resources, d.text(resource))
	}
	fields := request.fields(credentials)
	endpoint := d.tokenURL()
	if d.c.texts.issuer != nil {
		endpoint = "the token endpoint of " + d.url(d.c.texts.issuer, s.Issuer)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  POST %s\n", endpoint)
	if credentials.style == oauth2.AuthStyleInHeader {
		fmt.Fprintf(&b, "  Authorization: Basic with %s and %s\n", d.text(*d.c.texts.clientID), credentials.secret)
	} else {
		fields.Set("client_id", d.text(*d.c.texts.clientID))
		if credentials.secret != "" {
			fields.Set("client_secret", credentials.secret)
		}
	}
	for _, header := range d.c.texts.tokenHeaders {
		fmt.Fprintf(&b, "  %s: the connector's\n", header.name) // it may be a key
	}
	fmt.Fprintf(&b, "  fields (%s):\n", orDefault(s.TokenRequestFormat, formatForm))
	for _, name := range sortedKeys(fields) {
		for _, value := range fields[name] {
			fmt.Fprintf(&b, "    %s = %s\n", name, value)
		}
	}
	return b.String(), nil
}

// credentials stand for the client's in the description of a token request.
func (d *display) credentials() (credentials, error) {
	if d.c.method.signs {
		return assertionCredentials("(signed, a new one each time)"), nil
	}
	auth, err := d.c.method.make(authMaterial{secret: "(the client secret)"})
	if err != nil {
		return credentials{}, err
	}
	return auth.credentials("")
}

// text is a text for people. Values that they may not see stay placeholders.
func (d *display) text(t text) string {
	var b strings.Builder
	for _, p := range t.parts {
		value := p.String()
		switch {
		case p.kind == "":
			value = p.value
		case (p.kind == kindParam || p.kind == kindConfig) && d.mayShow(p.kind, p.value):
			if known, err := d.resolver.lookup(p.kind, p.value); err == nil {
				value = known
			}
		}
		b.WriteString(value)
	}
	return b.String()
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
		cmd.PrintErrf("It does not work: %v\n\n", asTokenError(err))
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
