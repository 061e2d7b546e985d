package httphelper

import (
	"encoding/json"
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
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
	p := appParser{app: new(App)}
	if err := p.parse(blockOf(d)); err != nil {
		return nil, err
	}
	raw := caddyconfig.JSON(p.app, nil)
	if err := p.check(raw); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "http_helper", Value: raw}, nil
}

// appParser parses an app and remembers where its parts stand.
type appParser struct {
	app                     *App
	connectors, connections []*subdirective
}

func (p *appParser) parse(segments []caddyfile.Segment) error {
	known := rules{
		"connector":  {read: p.connector, many: true, block: true},
		"connection": {read: p.connection, many: true, block: true},
	}
	return known.readAll("http_helper", segments)
}

func (p *appParser) connector(s *subdirective) error {
	if len(s.args) != 1 {
		return s.errorf("takes a name")
	}
	name := s.args[0]
	if err := validName(name); err != nil {
		return s.wrap(err)
	}
	s.name += " " + name
	if p.app.Connectors[name] != nil {
		return s.errorf("is defined more than once")
	}
	if p.app.Connectors == nil {
		p.app.Connectors = make(map[string]*Connector)
	}
	c := new(Connector)
	p.app.Connectors[name] = c
	p.connectors = append(p.connectors, s)
	known := make(rules)
	bind(known, serviceOptions(kindParam, kindConfig), &c.Service)
	bind(known, connectorOptions, c)
	refuse(known, connectionOptions, "belongs to a connection, not to a connector")
	return known.readAll(s.name, s.block)
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
	s.name += " " + name
	if p.app.Connections[name] != nil {
		return s.errorf("is defined more than once")
	}
	if p.app.Connections == nil {
		p.app.Connections = make(map[string]*Connection)
	}
	c := new(Connection)
	if len(s.args) == 2 {
		c.Connector = s.args[1]
	}
	p.app.Connections[name] = c
	p.connections = append(p.connections, s)
	return connectionRules(c).readAll(s.name, s.block)
}

// check finds, in all connectors and connections, what can be told to be wrong without the
// environment and files of the place where the config is going to run. Checking fills in defaults,
// which the JSON is to go without, so it works on a copy.
func (p *appParser) check(raw json.RawMessage) error {
	app := new(App)
	if err := json.Unmarshal(raw, app); err != nil {
		return err
	}
	var errs []error
	broken := make(map[string]bool)
	for _, s := range p.connectors {
		name := s.args[0]
		err := app.Connectors[name].checkAlone(name)
		broken[name] = err != nil
		errs = append(errs, s.located(s.name, err))
	}
	for _, s := range p.connections {
		name := s.args[0]
		config := app.Connections[name]
		if broken[config.Connector] {
			continue // it cannot be judged by that
		}
		conn := &activeConnection{name: name, config: config}
		errs = append(errs, s.located(s.name, conn.checkAlone(app)))
	}
	return errors.Join(errs...)
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
	bind(known, service, c.ownService())
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
		"token_url":                     checkedText(func(s *Service) *string { return &s.TokenURL }, checkURL(nil, kinds)),
		"issuer":                        checkedText(func(s *Service) *string { return &s.Issuer }, checkURL(nil, kinds)),
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
	"client_secret":         checkedText(func(c *Connection) *string { return &c.ClientSecret }, textWith()),
	"client_secret_file":    checkedText(func(c *Connection) *string { return &c.ClientSecretFile }, textWith()),
	"client_key":            checkedText(func(c *Connection) *string { return &c.ClientKey }, textWith()),
	"client_key_file":       checkedText(func(c *Connection) *string { return &c.ClientKeyFile }, textWith()),
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
