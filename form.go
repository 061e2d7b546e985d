package httphelper

import (
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
)

// formView is what a connector asks of a new connection.
type formView struct {
	Name         string            `json:"name"`
	Label        string            `json:"label"`
	AuthMethod   string            `json:"auth_method"`
	TokenURL     *string           `json:"token_url"` // as written, without query; null: found by the issuer
	BaseURL      string            `json:"base_url"`  // as written
	Fields       []fieldView       `json:"fields"`
	ConfigValues []configValueView `json:"config_values"`
	Scopes       []scopeView       `json:"scopes"`
	Permissions  permissionsView   `json:"permissions"`
	Connections  []string          `json:"connections"` // that use it
}

// fieldView is a question. The fixed ones come first; they are options of a connection, the others
// its parameters.
type fieldView struct {
	Key     string       `json:"key"`
	Type    string       `json:"type"` // text, password, dropdown or file
	Label   string       `json:"label"`
	Fixed   bool         `json:"fixed"`
	Options []optionView `json:"options,omitempty"`
	Default *string      `json:"default,omitempty"`
}

type optionView struct {
	Value string `json:"value"`
	Label string `json:"label"`
}

// configValueView is a config value that operators may see, as it is written. That of a password or
// of a helper flow is not shown.
type configValueView struct {
	Key   string  `json:"key"`
	Type  string  `json:"type"`
	Label string  `json:"label"`
	Value *string `json:"value"`
	Flow  *string `json:"flow"`
}

type scopeView struct {
	Name        string  `json:"name"`
	Required    bool    `json:"required"` // requested even where connections may choose
	Description *string `json:"description"`
}

type permissionsView struct {
	CustomizeScopes  bool    `json:"customize_scopes"`
	AdditionalScopes bool    `json:"additional_scopes"`
	ScopesDelimiter  string  `json:"scopes_delimiter"`
	ScopesHelp       *string `json:"scopes_help"`
}

func listConnectors(http.ResponseWriter, *http.Request) (any, error) {
	app := activeApp()
	list := make([]formView, 0, len(app.Connectors))
	for _, name := range sortedKeys(app.Connectors) {
		list = append(list, app.form(app.Connectors[name]))
	}
	return list, nil
}

func showConnector(_ http.ResponseWriter, r *http.Request) (any, error) {
	app := activeApp()
	if connector := app.Connectors[r.PathValue("name")]; connector != nil {
		return app.form(connector), nil
	}
	return nil, caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("there is no connector %q; %s", r.PathValue("name"), thereAre(sortedKeys(app.Connectors)))}
}

func (a *App) form(c *Connector) formView {
	form := c.form()
	for _, name := range sortedKeys(a.active) {
		if a.active[name].connector == c {
			form.Connections = append(form.Connections, name)
		}
	}
	return form
}

// form is what the connector asks of a new connection.
func (c *Connector) form() formView {
	return formView{
		Name:         c.name,
		Label:        orDefault(c.Label, c.name),
		AuthMethod:   c.authMethod(),
		TokenURL:     optional(resolve.WithoutQuery(c.TokenURL)),
		BaseURL:      resolve.WithoutQuery(c.BaseURL),
		Fields:       append(c.fixedFields(), c.parameterFields()...),
		ConfigValues: c.visibleValues(),
		Scopes:       c.scopeViews(),
		Permissions: permissionsView{
			CustomizeScopes:  c.CustomizeScopes,
			AdditionalScopes: c.AdditionalScopes,
			ScopesDelimiter:  orDefault(c.ScopesDelimiter, delimiterSpace),
			ScopesHelp:       optional(c.ScopesHelp),
		},
		Connections: []string{},
	}
}

// fixedFields ask for the client's credentials, as the method needs them.
func (c *Connector) fixedFields() []fieldView {
	fields := []fieldView{{Key: "client_id", Type: typeText, Label: orDefault(c.ClientIDLabel, "Client ID"), Fixed: true}}
	method, _ := oauth.Method(c.AuthMethod)
	if method.NeedsSecret {
		fields = append(fields, fieldView{Key: "client_secret", Type: typePassword, Label: orDefault(c.ClientSecretLabel, "Client secret"), Fixed: true})
	}
	if method.NeedsKey {
		fields = append(fields, fieldView{Key: "client_key_file", Type: typeFile, Label: "Private key file", Fixed: true})
	}
	if method.NeedsCertificate {
		fields = append(fields,
			fieldView{Key: "client_certificate_file", Type: typeFile, Label: "Client certificate file", Fixed: true},
			fieldView{Key: "client_certificate_key_file", Type: typeFile, Label: "Client certificate's key file", Fixed: true})
	}
	return fields
}

// typeFile is the type of a field that asks for a path.
const typeFile = "file"

func (c *Connector) parameterFields() []fieldView {
	fields := make([]fieldView, 0, len(c.Parameters))
	for _, p := range c.Parameters {
		field := fieldView{Key: p.Key, Type: p.Type, Label: orDefault(p.Label, p.Key), Default: optional(p.Default)}
		for _, o := range p.Options {
			field.Options = append(field.Options, optionView{Value: o.Value, Label: orDefault(o.Label, o.Value)})
		}
		fields = append(fields, field)
	}
	return fields
}

func (c *Connector) visibleValues() []configValueView {
	values := []configValueView{}
	for _, v := range c.ConfigValues {
		if v.Hidden {
			continue
		}
		view := configValueView{Key: v.Key, Type: v.Type, Label: orDefault(v.Label, v.Key), Flow: optional(v.Flow)}
		if v.Type != typePassword {
			view.Value = optional(v.Value)
		}
		values = append(values, view)
	}
	return values
}

func (c *Connector) scopeViews() []scopeView {
	scopes := make([]scopeView, 0, len(c.Scopes))
	for _, s := range c.Scopes {
		scopes = append(scopes, scopeView{Name: s.Name, Required: s.Required, Description: optional(s.Description)})
	}
	return scopes
}
