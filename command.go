package httphelper

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/command"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

func init() {
	command.Register(model{})
}

// model is the plugin as the command line sees it.
type model struct{}

// AuthMethods implements command.Model.
func (model) AuthMethods() (names []string, preset string) {
	return oauth.MethodNames(), oauth.DefaultMethod
}

// NeedsSecret implements command.Model.
func (model) NeedsSecret(authMethod string) (bool, error) {
	method, err := oauth.Method(authMethod)
	return method.NeedsSecret, err
}

// Load implements command.Model. An error about a connection does not name the modules of Caddy that it
// passed through.
func (model) Load(config []byte) error {
	err := caddy.Load(config, true)
	if err == nil {
		return nil
	}
	if _, reason, found := strings.Cut(err.Error(), ": connection "); found {
		return errors.New("connection " + reason)
	}
	return err
}

// Connector implements command.Model.
func (model) Connector(ctx caddy.Context, config *draft.Config, name string) (draft.Connector, error) {
	raw, err := find("connector", name, config.Connectors)
	if err != nil {
		return nil, err
	}
	connector := new(Connector)
	if err := caddy.StrictUnmarshalJSON(raw, connector); err != nil {
		return nil, errors.New("the connector cannot be read: is it of another version of http_helper?")
	}
	if err := connector.provision(ctx, name); err != nil {
		return nil, err
	}
	return &draftConnector{Connector: connector, raw: raw}, nil
}

// draftConnector is a connector for which a connection is drafted.
type draftConnector struct {
	*Connector
	raw json.RawMessage // as configured
}

// Form implements draft.Connector.
func (c *draftConnector) Form() adminapi.Connector { return c.form() }

// CheckName implements draft.Connector.
func (*draftConnector) CheckName(name string) error { return validName(name) }

// CheckText implements draft.Connector.
func (*draftConnector) CheckText(value string) error { return placeholders()(value) }

// CheckAdditionalScopes implements draft.Connector.
func (c *draftConnector) CheckAdditionalScopes(typed string) error {
	if strings.Contains(typed, "{") && utf8.RuneCountInString(typed) <= maxAdditionalScopes {
		return placeholders()(typed) // the value may not be known here
	}
	_, _, err := splitScopes(typed, c.ScopesDelimiter)
	return err
}

// Preview implements draft.Connector.
func (c *draftConnector) Preview(name string, connection json.RawMessage) (string, error) {
	config := new(Connection)
	if err := json.Unmarshal(connection, config); err != nil {
		return "", err
	}
	app := &App{Connectors: map[string]*Connector{c.name: c.Connector}}
	conn, err := app.configure(name, config)
	if err != nil {
		return "", err
	}
	spec, err := conn.parse()
	if err != nil {
		return "", err
	}
	if _, err := conn.resolveScopes(spec); err != nil {
		return "", err
	}
	return spec.Preview()
}

// Try implements draft.Connector.
func (c *draftConnector) Try(ctx context.Context, name string, connection json.RawMessage) (draft.Trial, error) {
	err := model{}.Load(caddyconfig.JSON(map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": json.RawMessage(`{"logs": {"default": {"level": "FATAL"}}}`),
		"apps": map[string]any{"http_helper": map[string]any{
			"connectors":  map[string]any{c.name: c.raw},
			"connections": map[string]any{name: connection},
		}},
	}, nil))
	if err != nil {
		return draft.Trial{}, err
	}
	defer func() { _ = caddy.Stop() }()
	conn := activeApp().active[name]
	switch err := conn.tokens.refresh(ctx); {
	case ctx.Err() != nil:
		return draft.Trial{}, ctx.Err()
	case err != nil:
		return draft.Trial{Failure: oauth.AsError(err)}, nil
	default:
		return draft.Trial{Connection: conn.view()}, nil
	}
}
