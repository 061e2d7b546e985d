package httphelper

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("http_helper", parseGlobalOption)
}

// parseGlobalOption parses the global option `http_helper`. Syntax:
//
//	http_helper {
//	    connector <name> {
//	        <service subdirectives>
//	        scope <name> [required] {
//	            description <text>
//	        }
//	        customize_scopes
//	        additional_scopes
//	        scopes_delimiter space|comma
//	        parameter <key> text|password|dropdown {
//	            label   <text>
//	            option  <value> [<label>]
//	            default <value>
//	        }
//	        config_value <key> text|password {
//	            label <text>
//	            value <text>
//	            flow  <name>
//	            hidden
//	        }
//	        flow <name> <type> ...
//	    }
//	    connection <name> [<connector>] {
//	        <service subdirectives, without a connector only>
//	        client_id             <value>
//	        client_secret         <value>
//	        client_secret_file    <path>
//	        client_key            <value>
//	        client_key_file       <path>
//	        key_id                <kid>
//	        signing_alg           <alg>
//	        assertion_audience    <value>
//	        assertion_lifetime    <duration>
//	        client_assertion_file <path>
//	        client_certificate    <cert_file> <key_file>
//	        dpop                  [<key_file>]
//	        parameter             <key> <value>
//	        parameter_file        <key> <path>
//	        scopes                [<names...>]
//	        additional_scopes     <text>
//	        refresh_before        <duration>
//	        default_lifetime      <duration>
//	        token_timeout         <duration>
//	        warm
//	    }
//	}
//
// The service subdirectives are:
//
//	label                         <text>
//	base_url                      <url>
//	token_url                     <url>
//	issuer                        <url>
//	auth_method                   <method>
//	basic_encoding                form|raw
//	scopes_help                   <url>
//	require_granted_scopes
//	token_request_param           <name> <values...>
//	token_request_header          <name> <value>
//	token_request_format          form|json|query
//	token_request_scope_separator <text>
//	grant_type                    <name>
//	token_pointer                 <json_pointer>
//	expires_in_pointer            <json_pointer>
//	token_transport {
//	    <options of reverse_proxy's transport http>
//	}
//	api_header                    <name> <value>
//	api_query                     <name> <value>
//	allow_insecure                [token_url] [base_url]
//	client_id_label               <text>
//	client_secret_label           <text>
//	ping                          [<method>] <path> [<statuses...>]
//	resource                      <uris...>
//	revocation_url                <url>
//
// A second global option, and a second connector or connection of a name, are errors.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next()
	if existing != nil {
		return nil, d.Err("global option http_helper is given more than once: write all connectors and connections into one, with import if they come from several files")
	}
	if d.CountRemainingArgs() > 0 {
		return nil, d.Err("global option http_helper takes no argument, only a block")
	}
	app := new(App)
	parser := appParser{app: app}
	if err := parser.parse(blockOf(d)); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "http_helper", Value: caddyconfig.JSON(app, nil)}, nil
}

// appParser parses an app. Connections are parsed after all connectors, wherever they stand.
type appParser struct {
	app         *App
	connections []*subdirective
}

func (p *appParser) parse(segments []caddyfile.Segment) error {
	known := rules{
		"connector": {read: p.connector, many: true, block: true},
		"connection": {many: true, block: true, read: func(s *subdirective) error {
			p.connections = append(p.connections, s)
			return nil
		}},
	}
	if err := known.readAll("http_helper", segments); err != nil {
		return err
	}
	for _, s := range p.connections {
		if err := p.connection(s); err != nil {
			return err
		}
	}
	return nil
}

func (p *appParser) connector(s *subdirective) error {
	if len(s.args) != 1 {
		return s.errorf("takes a name")
	}
	name := s.args[0]
	if err := validName(name); err != nil {
		return s.wrap(err)
	}
	if p.app.Connectors[name] != nil {
		return s.errorf("%s is defined more than once", name)
	}
	connector, err := parseConnector("connector "+name, s.block)
	if err != nil {
		return err
	}
	if p.app.Connectors == nil {
		p.app.Connectors = make(map[string]*Connector)
	}
	p.app.Connectors[name] = connector
	return nil
}

func parseConnector(owner string, block []caddyfile.Segment) (*Connector, error) {
	c := new(Connector)
	known := make(rules)
	bind(known, serviceOptions(kindParam, kindConfig), &c.Service)
	bind(known, connectorOptions, c)
	refuse(known, connectionOptions, "belongs to a connection, not to a connector")
	return c, known.readAll(owner, block)
}

func (p *appParser) connection(s *subdirective) error {
	if len(s.args) < 1 || len(s.args) > 2 {
		return s.errorf("takes a name and, if any, a connector")
	}
	for _, name := range s.args {
		if err := validName(name); err != nil {
			return s.wrap(err)
		}
	}
	name := s.args[0]
	if p.app.Connections[name] != nil {
		return s.errorf("%s is defined more than once", name)
	}
	c := new(Connection)
	if len(s.args) == 2 {
		c.Connector = s.args[1]
		if p.app.Connectors[c.Connector] == nil {
			return s.errorf("%s: there is no connector %s", name, c.Connector)
		}
	}
	if err := connectionRules(c).readAll("connection "+name, s.block); err != nil {
		return err
	}
	if p.app.Connections == nil {
		p.app.Connections = make(map[string]*Connection)
	}
	p.app.Connections[name] = c
	return nil
}

// connectionRules are the subdirectives of a connection. Without a connector it has a service of
// its own, but nothing that only a connector can have.
func connectionRules(c *Connection) rules {
	known := make(rules)
	bind(known, connectionOptions, c)
	service := serviceOptions()
	if c.Connector != "" {
		bind(known, answerOptions, c)
		why := "belongs to connector " + c.Connector + ", not to its connections"
		refuse(known, service, why)
		refuse(known, connectorOptions, why)
		return known
	}
	bind(known, service, &c.Service)
	refuse(known, answerOptions, "needs a connector")
	refuse(known, connectorOptions, "needs a connector; scopes lists the scopes themselves")
	return known
}

// serviceOptions are the subdirectives of a connector and of a connection without one. The kinds
// are those of the placeholders that are understood besides {env.*} and {file.*}.
func serviceOptions(kinds ...string) options[Service] {
	return options[Service]{
		"label":                         plainText(func(s *Service) *string { return &s.Label }),
		"base_url":                      checkedText(func(s *Service) *string { return &s.BaseURL }, checkURL(checkBaseURL, kinds)),
		"token_url":                     excludes("issuer", func(s *Service) bool { return s.Issuer != "" }, checkedText(func(s *Service) *string { return &s.TokenURL }, checkURL(nil, kinds))),
		"issuer":                        excludes("token_url", func(s *Service) bool { return s.TokenURL != "" }, checkedText(func(s *Service) *string { return &s.Issuer }, checkURL(nil, kinds))),
		"auth_method":                   checkedText(func(s *Service) *string { return &s.AuthMethod }, checkAuthMethod),
		"basic_encoding":                checkedText(func(s *Service) *string { return &s.BasicEncoding }, oneOf(encodingForm, encodingRaw)),
		"scopes_help":                   plainText(func(s *Service) *string { return &s.ScopesHelp }),
		"require_granted_scopes":        boolean(func(s *Service) *bool { return &s.RequireGrantedScopes }),
		"token_request_param":           {many: true, read: tokenRequestParam(kinds)},
		"token_request_header":          field(func(s *Service) *[]Field { return &s.TokenRequestHeaders }, true, refusedTokenHeader, kinds),
		"token_request_format":          checkedText(func(s *Service) *string { return &s.TokenRequestFormat }, oneOf(formatForm, formatJSON, formatQuery)),
		"token_request_scope_separator": plainText(func(s *Service) *string { return &s.TokenRequestScopeSeparator }),
		"grant_type":                    plainText(func(s *Service) *string { return &s.GrantType }),
		"token_pointer":                 checkedText(func(s *Service) *string { return &s.TokenPointer }, checkJSONPointer),
		"expires_in_pointer":            checkedText(func(s *Service) *string { return &s.ExpiresInPointer }, checkJSONPointer),
		"token_transport":               {block: true, read: tokenTransport},
		"api_header":                    field(func(s *Service) *[]Field { return &s.APIHeaders }, true, refusedAPIHeader, kinds),
		"api_query":                     field(func(s *Service) *[]Field { return &s.APIQuery }, false, nil, kinds),
		"allow_insecure":                {read: allowInsecure},
		"client_id_label":               plainText(func(s *Service) *string { return &s.ClientIDLabel }),
		"client_secret_label":           plainText(func(s *Service) *string { return &s.ClientSecretLabel }),
		"ping":                          {read: ping},
		"resource":                      {read: resources(kinds)},
		"revocation_url":                checkedText(func(s *Service) *string { return &s.RevocationURL }, checkURL(nil, kinds)),
	}
}

// connectorOptions are the subdirectives that only a connector has.
var connectorOptions = options[Connector]{
	"scope":             {many: true, block: true, read: connectorScope},
	"customize_scopes":  boolean(func(c *Connector) *bool { return &c.CustomizeScopes }),
	"additional_scopes": boolean(func(c *Connector) *bool { return &c.AdditionalScopes }),
	"scopes_delimiter":  checkedText(func(c *Connector) *string { return &c.ScopesDelimiter }, oneOf(delimiterSpace, delimiterComma)),
	"parameter":         {many: true, block: true, read: connectorParameter},
	"config_value":      {many: true, block: true, read: connectorConfigValue},
	"flow":              {many: true, block: true, read: connectorFlow},
}

// connectionOptions are the subdirectives that only a connection has.
var connectionOptions = options[Connection]{
	"client_id":             checkedText(func(c *Connection) *string { return &c.ClientID }, textWith()),
	"client_secret":         excludes("client_secret_file", func(c *Connection) bool { return c.ClientSecretFile != "" }, checkedText(func(c *Connection) *string { return &c.ClientSecret }, textWith())),
	"client_secret_file":    excludes("client_secret", func(c *Connection) bool { return c.ClientSecret != "" }, checkedText(func(c *Connection) *string { return &c.ClientSecretFile }, textWith())),
	"client_key":            excludes("client_key_file", func(c *Connection) bool { return c.ClientKeyFile != "" }, checkedText(func(c *Connection) *string { return &c.ClientKey }, textWith())),
	"client_key_file":       excludes("client_key", func(c *Connection) bool { return c.ClientKey != "" }, checkedText(func(c *Connection) *string { return &c.ClientKeyFile }, textWith())),
	"key_id":                checkedText(func(c *Connection) *string { return &c.KeyID }, textWith()),
	"signing_alg":           plainText(func(c *Connection) *string { return &c.SigningAlg }),
	"assertion_audience":    checkedText(func(c *Connection) *string { return &c.AssertionAudience }, textWith()),
	"assertion_lifetime":    duration(func(c *Connection) *caddy.Duration { return &c.AssertionLifetime }),
	"client_assertion_file": checkedText(func(c *Connection) *string { return &c.ClientAssertionFile }, textWith()),
	"client_certificate":    {read: clientCertificate},
	"dpop":                  {read: dpop},
	"scopes":                {read: connectionScopes},
	"refresh_before":        duration(func(c *Connection) *caddy.Duration { return &c.RefreshBefore }),
	"default_lifetime":      duration(func(c *Connection) *caddy.Duration { return &c.DefaultLifetime }),
	"token_timeout":         duration(func(c *Connection) *caddy.Duration { return &c.TokenTimeout }),
	"warm":                  boolean(func(c *Connection) *bool { return &c.Warm }),
}

// answerOptions are the subdirectives of a connection that answer its connector.
var answerOptions = options[Connection]{
	"parameter":         {many: true, read: answer(func(a *Answer) *string { return &a.Value })},
	"parameter_file":    {many: true, read: answer(func(a *Answer) *string { return &a.File })},
	"additional_scopes": checkedText(func(c *Connection) *string { return &c.AdditionalScopes }, textWith()),
}

// excludes is an option that cannot stand beside another one.
func excludes[T any](other string, given func(*T) bool, o option[T]) option[T] {
	read := o.read
	o.read = func(s *subdirective, target *T) error {
		if given(target) {
			return s.errorf("cannot be combined with %s", other)
		}
		return read(s, target)
	}
	return o
}

// checkURL checks a URL as far as that is possible without the values of its placeholders.
func checkURL(check func(*url.URL) error, kinds []string) func(string) error {
	return func(value string) error {
		t, err := parseText(value, kinds...)
		if err != nil || len(t.keys(kindEnv))+len(t.keys(kindFile)) > 0 {
			return err
		}
		u, err := t.expandURL(func(string, string) (string, error) { return "x", nil })
		if err != nil || check == nil {
			return err
		}
		return check(u)
	}
}

func checkAuthMethod(method string) error {
	_, err := lookupAuthMethod(method)
	return err
}

func tokenRequestParam(kinds []string) func(*subdirective, *Service) error {
	return func(s *subdirective, service *Service) error {
		if len(s.args) < 2 {
			return s.errorf("takes a name and one value at least")
		}
		for _, value := range s.args[1:] {
			if err := textWith(kinds...)(value); err != nil {
				return s.wrap(err)
			}
		}
		service.TokenRequestParams = append(service.TokenRequestParams, RequestParam{Name: s.args[0], Values: s.args[1:]})
		return s.located(service.checkParams())
	}
}

func tokenTransport(s *subdirective, service *Service) error {
	if err := s.none(); err != nil {
		return err
	}
	transport := new(reverseproxy.HTTPTransport)
	if err := unmarshalAll(transport, s.segment); err != nil {
		return fmt.Errorf("%s: %s: %w", s.owner, s.name, err)
	}
	service.TokenTransport = caddyconfig.JSON(transport, nil)
	return nil
}

func allowInsecure(s *subdirective, service *Service) error {
	service.AllowInsecure = s.args
	if len(s.args) == 0 {
		service.AllowInsecure = []string{"token_url", "base_url"}
	}
	for i, option := range s.args {
		if err := oneOf("token_url", "base_url")(option); err != nil {
			return s.wrap(err)
		}
		if slices.Contains(s.args[:i], option) {
			return s.errorf("%s is given more than once", option)
		}
	}
	return nil
}

func ping(s *subdirective, service *Service) error {
	args := s.args
	p := new(Ping)
	if len(args) > 0 && !strings.HasPrefix(args[0], "/") {
		p.Method, args = args[0], args[1:]
	}
	if len(args) == 0 || p.Method != strings.ToUpper(p.Method) {
		return s.errorf("takes a method in capital letters, if any, a path that begins with a slash, and the expected statuses, if any")
	}
	p.Path = args[0]
	for _, arg := range args[1:] {
		status, err := strconv.Atoi(arg)
		if err != nil {
			return s.errorf("a status must be a number from 200 to 599")
		}
		p.Statuses = append(p.Statuses, status)
	}
	service.Ping = p
	checked := *p // the check fills in the method
	return s.located(checked.check())
}

func resources(kinds []string) func(*subdirective, *Service) error {
	return func(s *subdirective, service *Service) error {
		uris, err := s.some()
		if err != nil {
			return err
		}
		for _, uri := range uris {
			if err := textWith(kinds...)(uri); err != nil {
				return s.wrap(err)
			}
		}
		service.Resources = uris
		return s.located(service.checkResources())
	}
}

func connectorScope(s *subdirective, c *Connector) error {
	if len(s.args) < 1 || len(s.args) > 2 || len(s.args) == 2 && s.args[1] != "required" {
		return s.errorf("takes a name and, if it is always to be requested, the word required")
	}
	scope := Scope{Name: s.args[0], Required: len(s.args) == 2}
	if err := validScope(scope.Name); err != nil {
		return s.wrap(err)
	}
	known := make(rules)
	bind(known, scopeOptions, &scope)
	err := known.readAll(s.owner+": scope "+scope.Name, s.block)
	c.Scopes = append(c.Scopes, scope)
	return err
}

var scopeOptions = options[Scope]{
	"description": plainText(func(s *Scope) *string { return &s.Description }),
}

func connectorParameter(s *subdirective, c *Connector) error {
	key, typ, err := s.pair()
	if err != nil {
		return s.errorf("takes a key and a type: text, password or dropdown")
	}
	if err := validKey(key); err != nil {
		return s.wrap(err)
	}
	p := Parameter{Key: key, Type: typ}
	known := make(rules)
	bind(known, parameterOptions, &p)
	if err := known.readAll(s.owner+": parameter "+key, s.block); err != nil {
		return err
	}
	c.Parameters = append(c.Parameters, p)
	return s.located(p.check(make(map[string]bool)))
}

var parameterOptions = options[Parameter]{
	"label":   plainText(func(p *Parameter) *string { return &p.Label }),
	"option":  {many: true, read: dropdownOption},
	"default": plainText(func(p *Parameter) *string { return &p.Default }),
}

func dropdownOption(s *subdirective, p *Parameter) error {
	args, err := s.some()
	if err != nil {
		return err
	}
	if len(args) > 2 {
		return s.errorf("takes a value and, if any, a label; put a label with spaces in quotation marks")
	}
	o := Option{Value: args[0]}
	if len(args) == 2 {
		o.Label = args[1]
	}
	p.Options = append(p.Options, o)
	return nil
}

func connectorConfigValue(s *subdirective, c *Connector) error {
	key, typ, err := s.pair()
	if err != nil {
		return s.errorf("takes a key and a type: text or password")
	}
	if err := validKey(key); err != nil {
		return s.wrap(err)
	}
	v := ConfigValue{Key: key, Type: typ}
	known := make(rules)
	bind(known, configValueOptions, &v)
	err = known.readAll(s.owner+": config_value "+key, s.block)
	c.ConfigValues = append(c.ConfigValues, v)
	return err
}

var configValueOptions = options[ConfigValue]{
	"label":  plainText(func(v *ConfigValue) *string { return &v.Label }),
	"value":  excludes("flow", func(v *ConfigValue) bool { return v.Flow != "" }, checkedText(func(v *ConfigValue) *string { return &v.Value }, textWith(kindParam))),
	"flow":   excludes("value", func(v *ConfigValue) bool { return v.Value != "" }, checkedText(func(v *ConfigValue) *string { return &v.Flow }, validKey)),
	"hidden": boolean(func(v *ConfigValue) *bool { return &v.Hidden }),
}

func connectorFlow(s *subdirective, c *Connector) error {
	if len(s.args) < 2 {
		return s.errorf("takes a name and a type: request or template")
	}
	name, typ := s.args[0], s.args[1]
	if err := errors.Join(validKey(name), validKey(typ)); err != nil {
		return s.wrap(err)
	}
	id := "http_helper.flows." + typ
	if _, err := caddy.GetModule(id); err != nil {
		return s.errorf("%s: there are no flows of this type", name)
	}
	d := caddyfile.NewDispenser(s.segment)
	d.Next()
	d.Next()
	d.Next()
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return fmt.Errorf("%s: flow %s: %w", s.owner, name, err)
	}
	c.Flows = append(c.Flows, Flow{Name: name, FlowRaw: caddyconfig.JSONModuleObject(module, "type", typ, nil)})
	return nil
}

func clientCertificate(s *subdirective, c *Connection) error {
	cert, key, err := s.pair()
	if err != nil {
		return err
	}
	if cert == "" || key == "" {
		return s.errorf("must not be empty")
	}
	if err := errors.Join(textWith()(cert), textWith()(key)); err != nil {
		return s.wrap(err)
	}
	c.ClientCertificateFile, c.ClientCertificateKeyFile = cert, key
	return nil
}

func dpop(s *subdirective, c *Connection) error {
	c.DPoP = new(DPoP)
	if len(s.args) == 0 {
		return nil
	}
	return checkedText(func(d *DPoP) *string { return &d.KeyFile }, textWith()).read(s, c.DPoP)
}

// connectionScopes keeps a list without names apart from none.
func connectionScopes(s *subdirective, c *Connection) error {
	c.Scopes = make([]string, 0, len(s.args))
	for _, scope := range s.args {
		t, err := parseText(scope)
		if err == nil && t.literal() {
			err = validScope(scope)
		}
		if err != nil {
			return s.wrap(err)
		}
		c.Scopes = append(c.Scopes, scope)
	}
	return nil
}

// answer is the answer to a parameter, given as a value or as a file.
func answer(part func(*Answer) *string) func(*subdirective, *Connection) error {
	return func(s *subdirective, c *Connection) error {
		key, value, err := s.pair()
		if err != nil {
			return err
		}
		if err := validKey(key); err != nil {
			return s.wrap(err)
		}
		if _, ok := c.Parameters[key]; ok {
			return s.errorf("%s is given more than once", key)
		}
		if value == "" {
			return s.errorf("%s: must not be empty", key)
		}
		if err := textWith()(value); err != nil {
			return s.errorf("%s: %w", key, err)
		}
		var a Answer
		*part(&a) = value
		if c.Parameters == nil {
			c.Parameters = make(map[string]Answer)
		}
		c.Parameters[key] = a
		return nil
	}
}
