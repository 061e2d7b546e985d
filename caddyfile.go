package httphelper

import (
	"encoding/json"
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
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
	if err := p.parse(subdirective.SplitBlock(d)); err != nil {
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
	connectors, connections []*subdirective.Subdirective
}

func (p *appParser) parse(segments []caddyfile.Segment) error {
	known := subdirective.Rules{
		"connector":  {Read: p.connector, Repeatable: true, Block: true},
		"connection": {Read: p.connection, Repeatable: true, Block: true},
	}
	return known.ReadAll("http_helper", segments)
}

func (p *appParser) connector(s *subdirective.Subdirective) error {
	if len(s.Args) != 1 {
		return s.Errorf("takes a name")
	}
	name := s.Args[0]
	if err := validName(name); err != nil {
		return s.Wrap(err)
	}
	s.Name += " " + name
	if p.app.Connectors[name] != nil {
		return s.Errorf("is defined more than once")
	}
	if p.app.Connectors == nil {
		p.app.Connectors = make(map[string]*Connector)
	}
	c := new(Connector)
	p.app.Connectors[name] = c
	p.connectors = append(p.connectors, s)
	known := make(subdirective.Rules)
	subdirective.Bind(known, serviceOptions(kindParam, kindConfig), &c.Service)
	subdirective.Bind(known, connectorOptions, c)
	subdirective.Refuse(known, connectionOptions, "belongs to a connection, not to a connector")
	return known.ReadAll(s.Name, s.Block)
}

func (p *appParser) connection(s *subdirective.Subdirective) error {
	if len(s.Args) < 1 || len(s.Args) > 2 {
		return s.Errorf("takes a name and, if any, a connector")
	}
	for _, name := range s.Args {
		if err := validName(name); err != nil {
			return s.Wrap(err)
		}
	}
	name := s.Args[0]
	s.Name += " " + name
	if p.app.Connections[name] != nil {
		return s.Errorf("is defined more than once")
	}
	if p.app.Connections == nil {
		p.app.Connections = make(map[string]*Connection)
	}
	c := new(Connection)
	if len(s.Args) == 2 {
		c.Connector = s.Args[1]
	}
	p.app.Connections[name] = c
	p.connections = append(p.connections, s)
	return connectionRules(c).ReadAll(s.Name, s.Block)
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
		name := s.Args[0]
		err := app.Connectors[name].checkAlone(name)
		broken[name] = err != nil
		errs = append(errs, s.Located(s.Name, err))
	}
	for _, s := range p.connections {
		name := s.Args[0]
		config := app.Connections[name]
		if broken[config.Connector] {
			continue // it cannot be judged by that
		}
		conn, err := app.configure(name, config)
		if err == nil {
			_, err = conn.parse()
		}
		errs = append(errs, s.Located(s.Name, err))
	}
	return errors.Join(errs...)
}

// connectionRules are the subdirectives of a connection. Without a connector it has a service of
// its own, but nothing that only a connector can have.
func connectionRules(c *Connection) subdirective.Rules {
	known := make(subdirective.Rules)
	subdirective.Bind(known, connectionOptions, c)
	service := serviceOptions()
	if c.Connector != "" {
		subdirective.Bind(known, parameterValueOptions, c)
		why := "belongs to connector " + c.Connector + ", not to its connections"
		subdirective.Refuse(known, service, why)
		subdirective.Refuse(known, connectorOptions, why)
		return known
	}
	subdirective.Bind(known, service, c.ownService())
	subdirective.Refuse(known, parameterValueOptions, "needs a connector")
	subdirective.Refuse(known, connectorOptions, "needs a connector; scopes lists the scopes themselves")
	return known
}

// serviceOptions are the subdirectives of a connector and of a connection without one. The kinds
// are those of the placeholders that are understood besides {env.*} and {file.*}.
func serviceOptions(kinds ...string) subdirective.Options[Service] {
	return subdirective.Options[Service]{
		"label":                         subdirective.StringOption(func(s *Service) *string { return &s.Label }),
		"base_url":                      subdirective.CheckedString(func(s *Service) *string { return &s.BaseURL }, checkURL(checkBaseURL, kinds)),
		"token_url":                     subdirective.CheckedString(func(s *Service) *string { return &s.TokenURL }, checkURL(nil, kinds)),
		"issuer":                        subdirective.CheckedString(func(s *Service) *string { return &s.Issuer }, checkURL(nil, kinds)),
		"auth_method":                   subdirective.CheckedString(func(s *Service) *string { return &s.AuthMethod }, checkAuthMethod),
		"basic_encoding":                subdirective.CheckedString(func(s *Service) *string { return &s.BasicEncoding }, subdirective.OneOf(encodingForm, encodingRaw)),
		"scopes_help":                   subdirective.StringOption(func(s *Service) *string { return &s.ScopesHelp }),
		"require_granted_scopes":        subdirective.BoolOption(func(s *Service) *bool { return &s.RequireGrantedScopes }),
		"token_request_param":           {Repeatable: true, Read: tokenRequestParam(kinds)},
		"token_request_header":          field(func(s *Service) *[]Field { return &s.TokenRequestHeaders }, true, refusedTokenHeader, kinds),
		"token_request_format":          subdirective.CheckedString(func(s *Service) *string { return &s.TokenRequestFormat }, subdirective.OneOf(formatForm, formatJSON, formatQuery)),
		"token_request_scope_separator": subdirective.StringOption(func(s *Service) *string { return &s.TokenRequestScopeSeparator }),
		"grant_type":                    subdirective.StringOption(func(s *Service) *string { return &s.GrantType }),
		"token_pointer":                 subdirective.CheckedString(func(s *Service) *string { return &s.TokenPointer }, checkJSONPointer),
		"expires_in_pointer":            subdirective.CheckedString(func(s *Service) *string { return &s.ExpiresInPointer }, checkJSONPointer),
		"token_transport":               {Block: true, Read: tokenTransport},
		"api_header":                    field(func(s *Service) *[]Field { return &s.APIHeaders }, true, refusedAPIHeader, kinds),
		"api_query":                     field(func(s *Service) *[]Field { return &s.APIQuery }, false, nil, kinds),
		"allow_insecure":                {Read: allowInsecure},
		"client_id_label":               subdirective.StringOption(func(s *Service) *string { return &s.ClientIDLabel }),
		"client_secret_label":           subdirective.StringOption(func(s *Service) *string { return &s.ClientSecretLabel }),
		"ping":                          {Read: ping},
		"resource":                      {Read: resources(kinds)},
		"revocation_url":                subdirective.CheckedString(func(s *Service) *string { return &s.RevocationURL }, checkURL(nil, kinds)),
	}
}

// connectorOptions are the subdirectives that only a connector has.
var connectorOptions = subdirective.Options[Connector]{
	"scope":             {Repeatable: true, Block: true, Read: connectorScope},
	"customize_scopes":  subdirective.BoolOption(func(c *Connector) *bool { return &c.CustomizeScopes }),
	"additional_scopes": subdirective.BoolOption(func(c *Connector) *bool { return &c.AdditionalScopes }),
	"scopes_delimiter":  subdirective.CheckedString(func(c *Connector) *string { return &c.ScopesDelimiter }, subdirective.OneOf(delimiterSpace, delimiterComma)),
	"parameter":         {Repeatable: true, Block: true, Read: connectorParameter},
	"config_value":      {Repeatable: true, Block: true, Read: connectorConfigValue},
	"flow":              {Repeatable: true, Block: true, Read: connectorFlow},
}

// connectionOptions are the subdirectives that only a connection has.
var connectionOptions = subdirective.Options[Connection]{
	"client_id":             subdirective.CheckedString(func(c *Connection) *string { return &c.ClientID }, placeholders()),
	"client_secret":         subdirective.CheckedString(func(c *Connection) *string { return &c.ClientSecret }, placeholders()),
	"client_secret_file":    subdirective.CheckedString(func(c *Connection) *string { return &c.ClientSecretFile }, placeholders()),
	"client_key":            subdirective.CheckedString(func(c *Connection) *string { return &c.ClientKey }, placeholders()),
	"client_key_file":       subdirective.CheckedString(func(c *Connection) *string { return &c.ClientKeyFile }, placeholders()),
	"key_id":                subdirective.CheckedString(func(c *Connection) *string { return &c.KeyID }, placeholders()),
	"signing_alg":           subdirective.StringOption(func(c *Connection) *string { return &c.SigningAlg }),
	"assertion_audience":    subdirective.CheckedString(func(c *Connection) *string { return &c.AssertionAudience }, placeholders()),
	"assertion_lifetime":    subdirective.DurationOption(func(c *Connection) *caddy.Duration { return &c.AssertionLifetime }),
	"client_assertion_file": subdirective.CheckedString(func(c *Connection) *string { return &c.ClientAssertionFile }, placeholders()),
	"client_certificate":    {Read: clientCertificate},
	"dpop":                  {Read: dpop},
	"scopes":                {Read: connectionScopes},
	"refresh_before":        subdirective.DurationOption(func(c *Connection) *caddy.Duration { return &c.RefreshBefore }),
	"default_lifetime":      subdirective.DurationOption(func(c *Connection) *caddy.Duration { return &c.DefaultLifetime }),
	"token_timeout":         subdirective.DurationOption(func(c *Connection) *caddy.Duration { return &c.TokenTimeout }),
	"warm":                  subdirective.BoolOption(func(c *Connection) *bool { return &c.Warm }),
}

// parameterValueOptions are the subdirectives of a connection that give its connector what it asks for.
var parameterValueOptions = subdirective.Options[Connection]{
	"parameter":         {Repeatable: true, Read: parameterValueOption(func(a *ParameterValue) *string { return &a.Value })},
	"parameter_file":    {Repeatable: true, Read: parameterValueOption(func(a *ParameterValue) *string { return &a.File })},
	"additional_scopes": subdirective.CheckedString(func(c *Connection) *string { return &c.AdditionalScopes }, placeholders()),
}
