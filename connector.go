package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
)

// Connector describes a service once for many connections: how to get tokens for it, and what each
// connection has to supply. Only a connector has scopes to choose from, parameters, config values and
// helper flows.
type Connector struct {
	Service

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

	// The values that the connector supplies itself.
	ConfigValues []ConfigValue `json:"config_values,omitempty"`

	// The helper flows, which compute config values.
	Flows []Flow `json:"flows,omitempty"`

	name    string
	spec    *resolve.ServiceSpec // nil: not parsed yet
	specErr error
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
	// The value. Required.
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
	errs := make([]error, len(c.Flows))
	for i := range c.Flows {
		errs[i] = c.Flows[i].provision(ctx, c)
	}
	return prefixAll("connector "+name, validName(name), c.checkAlone(name), errors.Join(errs...))
}

// checkAlone checks the connector, apart from the configuration of its flows.
func (c *Connector) checkAlone(name string) error {
	c.name = name
	errs := []error{c.Service.check(placeholder.Param, placeholder.Config), c.validateScopes()}
	keys := make(map[string]bool)
	for _, p := range c.Parameters {
		errs = append(errs, p.check(keys))
	}
	for _, v := range c.ConfigValues {
		errs = append(errs, v.check(c, keys))
	}
	return errors.Join(append(errs, c.checkFlowsUsed(), c.checkReferences())...)
}

// parameter returns the parameter with a key.
func (c *Connector) parameter(key string) (Parameter, bool) {
	i := slices.IndexFunc(c.Parameters, func(p Parameter) bool { return p.Key == key })
	if i < 0 {
		return Parameter{}, false
	}
	return c.Parameters[i], true
}

func (c *Connector) configValue(key string) (ConfigValue, bool) {
	i := slices.IndexFunc(c.ConfigValues, func(v ConfigValue) bool { return v.Key == key })
	if i < 0 {
		return ConfigValue{}, false
	}
	return c.ConfigValues[i], true
}

func (c *Connector) flow(name string) *Flow {
	for i := range c.Flows {
		if c.Flows[i].Name == name {
			return &c.Flows[i]
		}
	}
	return nil
}

// checkReferences finds placeholders that name an unknown parameter or config value.
func (c *Connector) checkReferences() error {
	var errs []error
	for _, o := range c.Service.texts() {
		t, err := placeholder.Parse(o.value, placeholder.Param, placeholder.Config)
		if err != nil {
			continue // reported by check
		}
		errs = append(errs, c.checkKeys(o.option, t))
	}
	for _, v := range c.ConfigValues {
		if t, err := placeholder.Parse(v.Value, placeholder.Param); err == nil {
			errs = append(errs, c.checkKeys("config_value "+v.Key, t))
		}
	}
	return errors.Join(errs...)
}

func (c *Connector) checkKeys(option string, t placeholder.Template) error {
	var errs []error
	for _, key := range t.Keys(placeholder.Param) {
		if _, ok := c.parameter(key); !ok {
			errs = append(errs, fmt.Errorf("%s: there is no parameter %s", option, key))
		}
	}
	for _, key := range t.Keys(placeholder.Config) {
		if _, ok := c.configValue(key); !ok {
			errs = append(errs, fmt.Errorf("%s: there is no config_value %s", option, key))
		}
	}
	return errors.Join(errs...)
}

func (p Parameter) check(keys map[string]bool) error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("parameter "+p.Key+": "+format, args...))
	}
	if err := placeholder.CheckKey(p.Key); err != nil {
		fail("%v", err)
	}
	if keys[p.Key] {
		fail("the key is defined twice")
	}
	keys[p.Key] = true
	switch p.Type {
	case typeText, typePassword:
		if len(p.Options) > 0 || p.Default != "" {
			fail("option and default are for dropdowns only")
		}
	case typeDropdown:
		if len(p.Options) == 0 {
			fail("a dropdown needs one option at least")
		}
	default:
		fail("the type must be text, password or dropdown, not %q", p.Type)
	}
	seen := make(map[string]bool)
	for _, o := range p.Options {
		if o.Value == "" {
			fail("an option must not be empty")
		}
		if seen[o.Value] {
			fail("option %s is given twice", o.Value)
		}
		seen[o.Value] = true
	}
	if p.Default != "" && p.Type == typeDropdown && !seen[p.Default] {
		fail("the default %s is none of its options", p.Default)
	}
	return errors.Join(errs...)
}

func (v ConfigValue) check(c *Connector, keys map[string]bool) error {
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("config_value "+v.Key+": "+format, args...))
	}
	if err := placeholder.CheckKey(v.Key); err != nil {
		fail("%v", err)
	}
	if keys[v.Key] {
		fail("the key is defined twice")
	}
	keys[v.Key] = true
	if v.Type != typeText && v.Type != typePassword {
		fail("the type must be text or password, not %q", v.Type)
	}
	if (v.Value == "") == (v.Flow == "") {
		fail("exactly one of value and flow is needed")
	}
	if v.Flow != "" && c.flow(v.Flow) == nil {
		fail("there is no flow %s", v.Flow)
	}
	if _, err := placeholder.Parse(v.Value, placeholder.Param); err != nil {
		fail("%v", err)
	}
	return errors.Join(errs...)
}

func (f *Flow) provision(ctx caddy.Context, c *Connector) error {
	if err := placeholder.CheckKey(f.Name); err != nil {
		return fmt.Errorf("flow %s: %w", f.Name, err)
	}
	if c.flow(f.Name) != f {
		return fmt.Errorf("flow %s: the name is given twice", f.Name)
	}
	raw := f.FlowRaw // LoadModule clears it
	mod, err := ctx.LoadModule(f, "FlowRaw")
	if err != nil {
		return fmt.Errorf("flow %s: %v", f.Name, err)
	}
	flow := mod.(flows.Flow)
	f.spec = resolve.NewFlow(f.Name, raw, flow)
	if err := flow.Check(c.allowsInsecure("token_url")); err != nil {
		return fmt.Errorf("flow %s: %w", f.Name, err)
	}
	for _, key := range flow.Parameters() {
		if _, ok := c.parameter(key); !ok {
			return fmt.Errorf("flow %s: there is no parameter %s", f.Name, key)
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

// parsedSpec returns the connector's spec, which is parsed at the first call.
func (c *Connector) parsedSpec() (*resolve.ServiceSpec, error) {
	if c.spec == nil {
		c.spec, c.specErr = c.parseSpec()
	}
	return c.spec, c.specErr
}

func (c *Connector) parseSpec() (*resolve.ServiceSpec, error) {
	spec, err := c.Service.spec(placeholder.Param, placeholder.Config)
	p := textParser{errs: []error{err}}
	for _, param := range c.Parameters {
		spec.Parameters = append(spec.Parameters, resolve.Parameter{Key: param.Key, Password: param.Type == typePassword, Options: param.optionValues()})
	}
	for _, value := range c.ConfigValues {
		v := resolve.ConfigValue{Key: value.Key, Password: value.Type == typePassword, Hidden: value.Hidden}
		v.Value = p.parse("config_value "+value.Key, value.Value, placeholder.Param)
		if f := c.flow(value.Flow); f != nil {
			v.Flow = f.spec
		}
		spec.ConfigValues = append(spec.ConfigValues, v)
	}
	return spec, errors.Join(p.errs...)
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
