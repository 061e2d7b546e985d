package draft

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// ConnectorDraft is the draft of a connector: what the authentication dialog asks. The authentication type,
// OAuth 2.0, and the grant type, client credentials, are fixed. Rows that are all empty do not count.
//
// The Field of a Problem is the JSON name of the field here. That of a row of a list is the list's, the index
// and the name in the row, such as `scopes.0.name` or `config_values.1.url`; that of a ping is `ping`,
// `ping.method`, `ping.path` or `ping.statuses`.
type ConnectorDraft struct {
	Name       string `json:"name"`
	Label      string `json:"label"` // empty: the name
	TokenURL   string `json:"token_url"`
	BaseURL    string `json:"base_url"`
	AuthMethod string `json:"auth_method"` // empty: the default

	Scopes           []ScopeDraft `json:"scopes"`
	CustomizeScopes  bool         `json:"customize_scopes"`
	AdditionalScopes bool         `json:"additional_scopes"`
	ScopesDelimiter  string       `json:"scopes_delimiter"` // space or comma; empty: space
	ScopesHelp       string       `json:"scopes_help"`

	Parameters   []ParameterDraft   `json:"parameters"`
	ConfigValues []ConfigValueDraft `json:"config_values"`

	TokenRequestParams []PairDraft `json:"token_request_params"`
	APIHeaders         []PairDraft `json:"api_headers"`
	APIQuery           []PairDraft `json:"api_query"`
	Ping               PingDraft   `json:"ping"`

	configuration Configuration
	config        *Config
}

// ScopeDraft is a scope that the connector offers.
type ScopeDraft struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Required    bool   `json:"required,omitempty"`
}

// ParameterDraft is a value that each connection is asked for.
type ParameterDraft struct {
	Key     string        `json:"key"`
	Type    string        `json:"type"` // text, password or dropdown
	Label   string        `json:"label,omitempty"`
	Options []OptionDraft `json:"options,omitempty"` // of a dropdown
	Default string        `json:"default,omitempty"` // of a dropdown
}

// OptionDraft is an option of a dropdown.
type OptionDraft struct {
	Value string `json:"value"`
	Label string `json:"label,omitempty"`
}

// Sources of config values.
const (
	SourceStatic   = "static"   // Value
	SourceRequest  = "request"  // a helper flow that makes the request of Method, URL, Headers, Body and Pointer
	SourceTemplate = "template" // a helper flow that executes Template
)

// ConfigValueDraft is a value that the connector supplies itself. Only the fields of its source count.
type ConfigValueDraft struct {
	Key    string `json:"key"`
	Type   string `json:"type"` // text or password
	Label  string `json:"label,omitempty"`
	Hidden bool   `json:"hidden,omitempty"`
	Source string `json:"source"` // empty: SourceStatic

	Value string `json:"value,omitempty"`

	Method  string      `json:"method,omitempty"` // empty: GET, or POST with a body
	URL     string      `json:"url,omitempty"`
	Headers []PairDraft `json:"headers,omitempty"`
	Body    string      `json:"body,omitempty"`
	Pointer string      `json:"pointer,omitempty"`

	Template string `json:"template,omitempty"`
}

// PairDraft is a name and a value.
type PairDraft struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// PingDraft is the request that proves a connection; without a path there is none.
type PingDraft struct {
	Method   string `json:"method,omitempty"` // empty: GET
	Path     string `json:"path,omitempty"`
	Statuses string `json:"statuses,omitempty"` // separated by spaces; empty: any 2xx
}

// NewConnector returns an empty draft of a connector for a config, which may be nil.
func NewConnector(configuration Configuration, config *Config) *ConnectorDraft {
	if config == nil {
		config = new(Config)
	}
	return &ConnectorDraft{configuration: configuration, config: config}
}

// flow reports whether the value is computed by a helper flow, which then has the value's key as its name.
func (v ConfigValueDraft) flow() bool {
	return v.Source == SourceRequest || v.Source == SourceTemplate
}

// request returns what the flow's module requests.
func (v ConfigValueDraft) request() map[string]any {
	return withoutEmpty(map[string]any{
		"method": strings.ToUpper(v.Method), "url": v.URL, "headers": filled(v.Headers), "body": v.Body, "pointer": v.Pointer,
	})
}

// JSON returns the connector as the configuration has it.
func (d *ConnectorDraft) JSON() json.RawMessage {
	var flows []map[string]any
	configValues := d.configValues()
	values := make([]map[string]any, 0, len(configValues))
	for _, v := range configValues {
		value := map[string]any{"key": v.Key, "type": v.Type, "label": v.Label, "hidden": v.Hidden}
		switch v.Source {
		case SourceRequest:
			flow := v.request()
			flow["type"] = SourceRequest
			flows = append(flows, map[string]any{"name": v.Key, "flow": flow})
		case SourceTemplate:
			flows = append(flows, map[string]any{"name": v.Key, "flow": map[string]any{"type": SourceTemplate, "template": v.Template}})
		default:
			value["value"] = v.Value
		}
		if v.flow() {
			value["flow"] = v.Key
		}
		values = append(values, withoutEmpty(value))
	}
	pairs := filled(d.TokenRequestParams)
	params := make([]map[string]any, len(pairs))
	for i, p := range pairs {
		params[i] = map[string]any{"name": p.Name, "values": []string{p.Value}}
	}
	return caddyconfig.JSON(withoutEmpty(map[string]any{
		"label": d.Label, "base_url": d.BaseURL, "token_url": d.TokenURL, "auth_method": d.AuthMethod,
		"scopes": filled(d.Scopes), "customize_scopes": d.CustomizeScopes, "additional_scopes": d.AdditionalScopes,
		"scopes_delimiter": d.ScopesDelimiter, "scopes_help": d.ScopesHelp,
		"parameters": d.parameters(), "config_values": values, "flows": flows,
		"token_request_params": params, "api_headers": filled(d.APIHeaders), "api_query": filled(d.APIQuery), "ping": d.ping(),
	}), nil)
}

// withoutEmpty removes what is empty, as the configuration does.
func withoutEmpty(object map[string]any) map[string]any {
	for key, value := range object {
		switch text := string(caddyconfig.JSON(value, nil)); text {
		case `""`, "null", "[]", "false":
			delete(object, key)
		}
	}
	return object
}

// filled returns the rows that are not all empty.
func filled[T comparable](rows []T) []T {
	var all []T
	for _, row := range rows {
		if row != *new(T) {
			all = append(all, row)
		}
	}
	return all
}

// parameters returns the parameters that count. Only dropdowns have options and a default.
func (d *ConnectorDraft) parameters() []ParameterDraft {
	var all []ParameterDraft
	for _, p := range d.Parameters {
		if p.empty() {
			continue
		}
		p.Options = filled(p.Options)
		if p.Type != adminapi.TypeDropdown {
			p.Options, p.Default = nil, ""
		}
		all = append(all, p)
	}
	return all
}

// empty reports whether nothing was filled in. The type alone is chosen for people.
func (p ParameterDraft) empty() bool {
	return p.Key+p.Label+p.Default == "" && len(filled(p.Options)) == 0
}

// configValues returns the config values that count.
func (d *ConnectorDraft) configValues() []ConfigValueDraft {
	var all []ConfigValueDraft
	for _, v := range d.ConfigValues {
		if !v.empty() {
			all = append(all, v)
		}
	}
	return all
}

func (v ConfigValueDraft) empty() bool {
	return v.Key+v.Label+v.Value+v.URL+v.Body+v.Pointer+v.Template == "" && len(filled(v.Headers)) == 0
}

// ping returns the ping as the configuration has it, or nil.
func (d *ConnectorDraft) ping() any {
	if d.Ping == (PingDraft{}) {
		return nil
	}
	statuses, _ := d.Ping.statuses()
	return withoutEmpty(map[string]any{"method": strings.ToUpper(d.Ping.Method), "path": d.Ping.Path, "statuses": statuses})
}

var errStatuses = errors.New("statuses are numbers from 200 to 599, separated by spaces")

func (p PingDraft) statuses() ([]int, error) {
	var statuses []int
	for word := range strings.FieldsSeq(p.Statuses) {
		status, err := strconv.Atoi(word)
		if err != nil {
			return nil, errStatuses
		}
		statuses = append(statuses, status)
	}
	return statuses, nil
}

// Form returns the connector as the form of the New Connection dialog, as far as it can be read, and what is
// wrong with the draft, by the checks that load a config.
func (d *ConnectorDraft) Form(ctx context.Context) (adminapi.Connector, []Problem) {
	caddyCtx, cancel := caddy.NewContext(caddy.Context{Context: ctx})
	defer cancel()
	connector, err := d.configuration.Check(caddyCtx, d.Name, d.JSON())
	found := d.problems(err)
	if connector == nil {
		return adminapi.Connector{}, found
	}
	return connector.Form, found
}

// Problems returns what is wrong with the draft.
func (d *ConnectorDraft) Problems(ctx context.Context) []Problem {
	_, found := d.Form(ctx)
	return found
}
