package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Connector describes a service once for many connections: how to get tokens for it, and what each
// connection has to supply. Only a connector has scopes to choose from, parameters, config values and
// helper flows.
type Connector struct {
	Service

	// What requests may use the credentials of every connection for: a request must be permitted by one of
	// these rules, and by one of the connection's own if there are any, else it gets a 403 and is not sent.
	// So does one with `X-HTTP-Method-Override`, `X-HTTP-Method`, `X-Method-Override`, `X-Original-URL` or
	// `X-Rewrite-URL`, which can make some servers treat the request as a different one. The connector's `ping` must be
	// permitted too; health checks need no permission. An empty list is an error. Default: all requests.
	Allow []Allow `json:"allow,omitempty"`

	// The scopes that connections may request. Default: none.
	Scopes []Scope `json:"scopes,omitempty"`

	// Whether a connection may choose among the scopes. Default: false, every scope is requested.
	CustomizeScopes bool `json:"customize_scopes,omitempty"`

	// Whether a connection may request further scopes. Needs `customize_scopes`. Default: false.
	AdditionalScopes bool `json:"additional_scopes,omitempty"`

	// What separates the scopes in a connection's `additional_scopes`: `space` or `comma`. Default:
	// `space`.
	ScopesDelimiter string `json:"scopes_delimiter,omitempty"`

	// The values that every connection has to supply.
	Parameters []Parameter `json:"parameters,omitempty"`

	// Texts, or results of helper flows, that connections need not give. Found as `{config.<key>}`.
	ConfigValues []ConfigValue `json:"config_values,omitempty"`

	// The helper flows, which compute config values.
	Flows []Flow `json:"flows,omitempty"`

	name      string
	spec      *resolve.ServiceSpec
	allowList httpguard.AllowList
}

// Types of parameters and config values.
const (
	typeText     = adminapi.TypeText
	typePassword = adminapi.TypePassword
	typeDropdown = adminapi.TypeDropdown
)

// Parameter is a value that every connection of a connector has to supply.
type Parameter struct {
	// The name under which `{param.<key>}` finds the value. Required.
	Key string `json:"key"`

	// The type: `text`, `password`, which is a secret, or `dropdown`. Required.
	Type string `json:"type"`

	// The name for people. Default: the key.
	Label string `json:"label,omitempty"`

	// The options of a dropdown, at least one.
	Options []Option `json:"options,omitempty"`

	// The value of a dropdown for a connection that gives none. Default: the connection must give one.
	Default string `json:"default,omitempty"`
}

// Option is an option of a dropdown parameter.
type Option struct {
	// What `{param.<key>}` becomes when a connection chooses this option of the dropdown. Required.
	Value string `json:"value"`

	// The name for people. Default: the value.
	Label string `json:"label,omitempty"`
}

// ConfigValue is a value that the connector supplies itself, as a text or by a helper flow.
type ConfigValue struct {
	// The name under which `{config.<key>}` finds the value. Required.
	Key string `json:"key"`

	// The type: `text`, or `password`, which is a secret. Required.
	Type string `json:"type"`

	// The name for people. Default: the key.
	Label string `json:"label,omitempty"`

	// The value. Its placeholders, among them `{param.<key>}`, are resolved at every token request.
	// Excludes `flow`.
	Value string `json:"value,omitempty"`

	// The name of the helper flow that computes the value. Excludes `value`.
	Flow string `json:"flow,omitempty"`

	// Whether the admin API and the command line leave the value out. Default: false.
	Hidden bool `json:"hidden,omitempty"`
}

// Flow is a helper flow, which computes a config value. Its result is used for five minutes.
type Flow struct {
	// The name by which config values refer to the flow. Required.
	Name string `json:"name"`

	// The module that computes the value; its key `type` names it. Required.
	FlowRaw json.RawMessage `json:"flow" caddy:"namespace=http_helper.flows inline_key=type"`

	spec *resolve.Flow
}

// provision loads the connector's flows, and checks everything that does not depend on a connection.
func (c *Connector) provision(ctx caddy.Context, name string) error {
	return prefixAll("connector "+name, c.checkAll(ctx, name))
}

// checkAll is provision without the connector's name in errors.
func (c *Connector) checkAll(ctx caddy.Context, name string) error {
	errs := make([]error, len(c.Flows))
	for i := range c.Flows {
		if checkReadsNothing(c.Flows[i].FlowRaw) == nil { // else checkAlone says so
			errs[i] = prefixAll("flow "+c.Flows[i].Name, c.Flows[i].provision(ctx, c))
		}
	}
	return errors.Join(validName(name), c.checkAlone(name), errors.Join(errs...))
}

// nameOrNone returns the connector's name, or "" for a nil connector.
func (c *Connector) nameOrNone() string {
	if c == nil {
		return ""
	}
	return c.name
}

// checkAlone checks the connector, apart from the configuration of its flows, and parses its texts.
func (c *Connector) checkAlone(name string) error {
	c.name = name
	p := textParser{kinds: []string{placeholder.Param, placeholder.Config}, connector: c}
	c.spec = c.Service.spec(&p)
	var errAllow error
	if c.allowList, errAllow = c.parseAllow(c.Allow); errAllow == nil {
		errAllow = c.checkPing(c.allowList)
	}
	p.errs = append(p.errs, errAllow, c.validateScopes(), prefixAll("token_transport", checkReadsNothing(c.TokenTransport)))
	for _, f := range c.Flows {
		p.errs = append(p.errs, prefixAll("flow "+f.Name, checkReadsNothing(f.FlowRaw)))
	}
	keys := make(map[string]bool)
	for _, param := range c.Parameters {
		p.errs = append(p.errs, prefixAll("parameter "+param.Key, checkNewKey(param.Key, keys), param.check()))
		c.spec.Parameters = append(c.spec.Parameters, resolve.Parameter{Key: param.Key, Password: param.Type == typePassword, Options: param.optionValues()})
	}
	p.kinds = []string{placeholder.Param}
	for _, value := range c.ConfigValues {
		p.errs = append(p.errs, prefixAll("config_value "+value.Key, checkNewKey(value.Key, keys), value.check(c)))
		v := resolve.ConfigValue{Key: value.Key, Password: value.Type == typePassword, Hidden: value.Hidden}
		v.Value = p.parse("config_value "+value.Key, value.Value)
		if f := c.flow(value.Flow); f != nil {
			v.Flow = f.spec
		}
		c.spec.ConfigValues = append(c.spec.ConfigValues, v)
	}
	return errors.Join(append(p.errs, c.checkFlowsUsed())...)
}

// checkReadsNothing checks that the configuration of a module in a connector, which replaces placeholders
// itself, has none that read a variable or a file.
func checkReadsNothing(config json.RawMessage) error {
	var decoded any
	if json.Unmarshal(config, &decoded) == nil && readsSomething(decoded) {
		return placeholder.ErrConnectorReads
	}
	return nil
}

// readsSomething reports whether a value of JSON has a text with {env.*} or {file.*}.
func readsSomething(value any) bool {
	switch value := value.(type) {
	case string:
		return strings.Contains(value, "{env.") || strings.Contains(value, "{file.")
	case []any:
		return slices.ContainsFunc(value, readsSomething)
	case map[string]any:
		return slices.ContainsFunc(slices.Collect(maps.Values(value)), readsSomething)
	default:
		return false
	}
}

// checkNewKey checks the key of a parameter or config value, which no other one may have.
func checkNewKey(key string, keys map[string]bool) error {
	if keys[key] {
		return errors.New("the key is defined twice")
	}
	keys[key] = true
	return placeholder.CheckKey(key)
}

func (c *Connector) hasParameter(key string) bool {
	return slices.ContainsFunc(c.Parameters, func(p Parameter) bool { return p.Key == key })
}

func (c *Connector) flow(name string) *Flow {
	for i := range c.Flows {
		if c.Flows[i].Name == name {
			return &c.Flows[i]
		}
	}
	return nil
}

func (c *Connector) configKeys() []string {
	keys := make([]string, len(c.ConfigValues))
	for i, v := range c.ConfigValues {
		keys[i] = v.Key
	}
	return keys
}

// similar names the parameter that a key of none was probably meant for, or else all.
func (c *Connector) similar(key string) string {
	keys := make([]string, len(c.Parameters))
	for i, p := range c.Parameters {
		keys[i] = p.Key
	}
	return subdirective.Instead(key, keys, listNames(keys))
}

// checkKeys finds placeholders that name an unknown parameter or config value.
func (c *Connector) checkKeys(t placeholder.Template) error {
	var errs []error
	for _, key := range t.Keys(placeholder.Param) {
		if !c.hasParameter(key) {
			errs = append(errs, fmt.Errorf("there is no parameter %s%s", key, c.similar(key)))
		}
	}
	for _, key := range t.Keys(placeholder.Config) {
		if values := c.configKeys(); !slices.Contains(values, key) {
			errs = append(errs, unknownName("config_value", key, "", values))
		}
	}
	return errors.Join(errs...)
}

// check checks everything about a parameter but its key.
func (p Parameter) check() error {
	var errs []error
	switch p.Type {
	case typeText, typePassword:
		if len(p.Options) > 0 || p.Default != "" {
			errs = append(errs, errors.New("option and default are for dropdowns only"))
		}
	case typeDropdown:
		if len(p.Options) == 0 {
			errs = append(errs, errors.New("a dropdown needs one option at least"))
		}
		if p.Default != "" && !slices.Contains(p.optionValues(), p.Default) {
			errs = append(errs, fmt.Errorf("the default %s is none of its options%s", shownName(p.Default), subdirective.DidYouMean(p.Default, p.optionValues())))
		}
	default:
		errs = append(errs, errors.New("the type must be text, password or dropdown"))
	}
	values := p.optionValues()
	for i, value := range values {
		switch {
		case value == "":
			errs = append(errs, errors.New("an option must not be empty"))
		case slices.Contains(values[:i], value):
			errs = append(errs, fmt.Errorf("option %s is given twice", shownName(value)))
		}
	}
	return errors.Join(errs...)
}

// check checks everything about a config value but its key and its text.
func (v ConfigValue) check(c *Connector) error {
	var errs []error
	if v.Type != typeText && v.Type != typePassword {
		errs = append(errs, errors.New("the type must be text or password"))
	}
	if (v.Value == "") == (v.Flow == "") {
		errs = append(errs, errors.New("exactly one of value and flow is needed"))
	}
	if v.Flow != "" && c.flow(v.Flow) == nil {
		names := make([]string, len(c.Flows))
		for i, f := range c.Flows {
			names[i] = f.Name
		}
		errs = append(errs, unknownName("flow", v.Flow, "", names))
	}
	return errors.Join(errs...)
}

// provision loads the module of a flow and checks it.
func (f *Flow) provision(ctx caddy.Context, c *Connector) error {
	if err := placeholder.CheckKey(f.Name); err != nil {
		return err
	}
	if c.flow(f.Name) != f {
		return errors.New("the name is given twice")
	}
	raw := f.FlowRaw // LoadModule clears it
	mod, err := ctx.LoadModule(f, "FlowRaw")
	if err != nil {
		return err
	}
	flow := mod.(flows.Flow)
	f.spec = resolve.NewFlow(f.Name, raw, flow)
	if err := flow.Check(c.allowsInsecure("token_url")); err != nil {
		return err
	}
	for _, key := range flow.Parameters() {
		if !c.hasParameter(key) {
			return fmt.Errorf("there is no parameter %s%s", key, c.similar(key))
		}
	}
	return nil
}

// checkFlowsUsed finds flows that no config value uses.
func (c *Connector) checkFlowsUsed() error {
	var errs []error
	for _, f := range c.Flows {
		if !slices.ContainsFunc(c.ConfigValues, func(v ConfigValue) bool { return v.Flow == f.Name }) {
			errs = append(errs, fmt.Errorf("flow %s: no config_value uses it", f.Name))
		}
	}
	return errors.Join(errs...)
}

// optionValues returns the values that a dropdown allows, nil for other types.
func (p Parameter) optionValues() []string {
	if len(p.Options) == 0 {
		return nil
	}
	values := make([]string, len(p.Options))
	for i, option := range p.Options {
		values[i] = option.Value
	}
	return values
}
