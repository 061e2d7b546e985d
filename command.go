package httphelper

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/command"
	"github.com/caddy-httphelper/caddy-httphelper/internal/draft"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

func init() {
	command.Register(draft.Configuration{Find: findForDraft, Check: checkForDraft})
}

// findForDraft implements draft.Configuration.
func findForDraft(ctx caddy.Context, config *draft.Config, name string) (*draft.Connector, error) {
	raw, err := find("connector", name, config.Connectors)
	if err != nil {
		return nil, err
	}
	connector, err := checkForDraft(ctx, name, raw)
	if connector == nil {
		return nil, err
	}
	return connector, prefixAll("connector "+name, err)
}

// checkForDraft implements draft.Configuration.
func checkForDraft(ctx caddy.Context, name string, raw json.RawMessage) (*draft.Connector, error) {
	connector := new(Connector)
	if err := caddy.StrictUnmarshalJSON(raw, connector); err != nil {
		return nil, errors.New("the connector cannot be read: is it of another version of http_helper?")
	}
	err := connector.checkAll(ctx, name)
	return connector.forDraft(), err
}

// forDraft returns the connector as a draft needs it.
func (c *Connector) forDraft() *draft.Connector {
	d := &draft.Connector{
		Form:                  c.form(),
		CheckName:             validName,
		CheckText:             placeholders(),
		CheckAdditionalScopes: c.checkAdditionalScopes,
		WarnAdditionalScopes:  c.warnAdditionalScopes,
		Preview:               c.preview,
		Refresh:               refreshActive,
	}
	if c.Service.Ping != nil {
		d.Ping = pingActive
	}
	return d
}

func (c *Connector) checkAdditionalScopes(typed string) error {
	if strings.Contains(typed, "{") && utf8.RuneCountInString(typed) <= maxAdditionalScopes {
		return placeholders()(typed) // the value may not be known here
	}
	_, _, err := splitScopes(typed, c.ScopesDelimiter)
	return err
}

func (c *Connector) warnAdditionalScopes(typed string) []string {
	if text, err := placeholder.Parse(typed); err != nil || text.Reads() {
		return nil
	}
	_, warnings, _ := splitScopes(typed, c.ScopesDelimiter)
	return warnings
}

// preview describes the token request of a connection that uses the connector.
func (c *Connector) preview(name string, connection json.RawMessage) (string, error) {
	config := new(Connection)
	if err := json.Unmarshal(connection, config); err != nil {
		return "", err
	}
	app := &App{Connectors: map[string]*Connector{c.name: c}}
	conn, err := app.configure(name, config)
	if err != nil {
		return "", err
	}
	spec, err := conn.parse()
	if err != nil {
		return "", err
	}
	unread, err := c.unreadScopes(config)
	if err != nil {
		return "", err
	}
	if _, err := conn.resolveScopes(spec); err != nil {
		return "", err
	}
	spec.RequestedScopes = append(spec.RequestedScopes, unread...)
	return spec.Preview()
}

// unreadScopes takes additional scopes that need the environment or a file from a connection, and returns them as they
// are written: a preview reads nothing.
func (c *Connector) unreadScopes(config *Connection) ([]string, error) {
	if !c.AdditionalScopes {
		return nil, nil
	}
	typed, err := placeholder.Parse(config.AdditionalScopes)
	if err != nil || !typed.Reads() {
		return nil, prefixAll("additional_scopes", err)
	}
	config.AdditionalScopes = ""
	return []string{typed.String()}, nil
}

// refreshActive makes a token request of a connection of the running config.
func refreshActive(ctx context.Context, name string) (adminapi.Connection, error) {
	conn := activeApp().active[name]
	if err := conn.tokens.refresh(ctx); err != nil {
		return adminapi.Connection{}, cmp.Or(ctx.Err(), error(oauth.AsError(err)))
	}
	return conn.view(), nil
}

// pingActive makes the request that proves a connection of the running config.
func pingActive(ctx context.Context, name string) adminapi.Ping {
	return activeApp().active[name].pingView(ctx)
}
