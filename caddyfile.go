package httphelper

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/jsonpointer"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
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
//	        allow [<methods...>] [<paths...>]
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
//	        client_key_certificate <path>
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
//	        allow                 [<methods...>] [<paths...>]
//	        refresh_before        <duration>
//	        default_lifetime      <duration>
//	        token_timeout         <duration>
//	        warm
//	    }
//	    share_tokens {
//	        storage  <module> ...
//	        key_file <path>
//	        timeout  <duration>
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
//	assertion_typ                 <text>
//	client_assertion_type         <uri>
//	send_client_id
//	scopes_help                   <url>
//	require_granted_scopes
//	token_request_param           <name> <values...>
//	token_request_header          <name> <value>
//	token_request_format          form|json|query
//	token_request_scope_separator <text>
//	grant_type                    <name>
//	token_types                   <names...>
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
//	rejected_statuses             <statuses...>
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
	p := appParser{app: &App{Connectors: make(map[string]*Connector), Connections: make(map[string]*Connection)}}
	read := p.parse(subdirective.SplitBlock(d))
	raw := caddyconfig.JSON(p.app, nil)
	if err := p.check(raw, read); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "http_helper", Value: raw}, nil
}

// appParser parses an app and remembers where its parts are in the Caddyfile.
type appParser struct {
	app                     *App
	sharing                 *subdirective.Subdirective // share_tokens, or nil
	connectors, connections []*subdirective.Subdirective
}

func (p *appParser) parse(segments []caddyfile.Segment) error {
	known := subdirective.Rules{
		"connector":  {Read: p.connector, Repeatable: true, Block: true},
		"connection": {Read: p.connection, Repeatable: true, Block: true},

		"share_tokens": {Read: p.shareTokens, Block: true},
	}
	return known.ReadAll("http_helper", segments)
}

func (p *appParser) shareTokens(s *subdirective.Subdirective) error {
	p.app.ShareTokens, p.sharing = new(ShareTokens), s
	known := make(subdirective.Rules)
	subdirective.Bind(known, shareOptions, p.app.ShareTokens)
	return errors.Join(s.NoArgs(), s.NeedsBlock(), known.ReadAll(s.Name, s.Block))
}

func (p *appParser) connector(s *subdirective.Subdirective) error {
	if len(s.Args) != 1 {
		return s.Errorf("takes a name")
	}
	c, err := define(s, p.app.Connectors)
	if err != nil {
		return err
	}
	p.connectors = append(p.connectors, s)
	known := make(subdirective.Rules)
	subdirective.Bind(known, serviceOptions(placeholder.Param, placeholder.Config), &c.Service)
	subdirective.Bind(known, connectorOptions, c)
	subdirective.Refuse(known, connectionOptions, "belongs to a connection, not to a connector")
	help(known)
	return errors.Join(s.NeedsBlock(), known.ReadAll(s.Name, s.Block))
}

func (p *appParser) connection(s *subdirective.Subdirective) error {
	if len(s.Args) < 1 || len(s.Args) > 2 {
		return s.Errorf("takes a name and, if any, a connector")
	}
	c, err := define(s, p.app.Connections)
	if err != nil {
		return err
	}
	p.connections = append(p.connections, s)
	c.Connector = strings.Join(s.Args[1:], "")
	return errors.Join(s.NeedsBlock(), connectionRules(c).ReadAll(s.Name, s.Block))
}

// define adds the connector or connection that the first argument names. All arguments are names.
func define[T any](s *subdirective.Subdirective, all map[string]*T) (*T, error) {
	for _, name := range s.Args {
		if err := validName(name); err != nil {
			return nil, s.Wrap(err)
		}
	}
	name := s.Args[0]
	s.Name += " " + name
	if all[name] != nil {
		return nil, s.Errorf("is defined more than once")
	}
	all[name] = new(T)
	return all[name], nil
}

// check checks share_tokens, the connectors and connections as far as that is possible without the
// environment and files of the place where the config will run. What cannot be read of those here is told
// only with other errors: the config cannot be run anyway then. Checking fills in defaults, which do not
// belong in the JSON, so it works on a copy. The result includes the errors of reading.
func (p *appParser) check(raw json.RawMessage, read error) error {
	app := new(App)
	if err := json.Unmarshal(raw, app); err != nil {
		return err
	}
	var errs, unreadable []error
	if s := p.sharing; s != nil {
		errs = append(errs, s.Located(s.Name, app.ShareTokens.check()))
		unreadable = append(unreadable, s.Located(s.Name, app.ShareTokens.unreadable()))
	}
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
		conn, err := app.configure(name, config)
		if err == nil {
			unreadable = append(unreadable, s.Located(s.Name, conn.unreadable()))
			_, err = conn.parse()
		}
		if !broken[config.Connector] { // else nothing can be said about the connection
			errs = append(errs, s.Located(s.Name, err))
		}
	}
	err := subdirective.JoinChecks(read, errors.Join(errs...))
	if err == nil {
		return nil
	}
	return errors.Join(err, errors.Join(unreadable...))
}

// connectionRules returns the subdirectives of a connection. Without a connector it has a service of
// its own, but nothing that only a connector can have.
func connectionRules(c *Connection) subdirective.Rules {
	known := make(subdirective.Rules)
	subdirective.Bind(known, connectionOptions, c)
	service := serviceOptions()
	if c.Connector != "" {
		c.Parameters = make(map[string]ParameterValue)
		subdirective.Bind(known, formOptions, c)
		why := "belongs to connector " + shownName(c.Connector) + ", not to its connections"
		subdirective.Refuse(known, service, why)
		subdirective.Refuse(known, connectorOptions, why)
		help(known)
		return known
	}
	subdirective.Bind(known, service, c.ownService())
	subdirective.Refuse(known, formOptions, "needs a connector")
	subdirective.Refuse(known, connectorOptions, "needs a connector; scopes lists the scopes themselves")
	help(known)
	return known
}

// help adds errors for what is often written into the block of a connector or connection and is no option of it.
func help(known subdirective.Rules) {
	known.Suggest(otherWords)
	subdirective.Refuse(known, subdirective.Options[App]{"connector": {}, "connection": {}}, "belongs to the global option http_helper; is a closing brace missing above?")
}

// otherWords are what other software calls an option, and its name here.
var otherWords = map[string]string{
	"access_token_url":           "token_url",
	"audience":                   "token_request_param audience <value>",
	"auth":                       "auth_method",
	"certificate":                "client_certificate",
	"insecure":                   "allow_insecure",
	"oauth_url":                  "token_url",
	"password":                   "client_secret_file",
	"private_key":                "client_key_file",
	"secret":                     "client_secret_file",
	"token_endpoint":             "token_url",
	"token_endpoint_auth_method": "auth_method",
	"username":                   "client_id",
}

// serviceOptions returns the subdirectives of a connector, with the kinds of placeholders that are
// understood there, and without kinds those of a connection without a connector.
func serviceOptions(kinds ...string) subdirective.Options[Service] {
	return subdirective.Options[Service]{
		"label":                         subdirective.StringOption(func(s *Service) *string { return &s.Label }),
		"base_url":                      subdirective.CheckedString(func(s *Service) *string { return &s.BaseURL }, checkURL(httpguard.CheckBaseURL, kinds)),
		"token_url":                     subdirective.CheckedString(func(s *Service) *string { return &s.TokenURL }, checkURL(nil, kinds)),
		"issuer":                        subdirective.CheckedString(func(s *Service) *string { return &s.Issuer }, checkURL(nil, kinds)),
		"auth_method":                   subdirective.CheckedString(func(s *Service) *string { return &s.AuthMethod }, subdirective.OneOf(oauth.MethodNames()...)),
		"basic_encoding":                subdirective.CheckedString(func(s *Service) *string { return &s.BasicEncoding }, subdirective.OneOf(encodingForm, encodingRaw)),
		"assertion_typ":                 subdirective.StringOption(func(s *Service) *string { return &s.AssertionTyp }),
		"client_assertion_type":         subdirective.StringOption(func(s *Service) *string { return &s.ClientAssertionType }),
		"send_client_id":                subdirective.BoolOption(func(s *Service) *bool { return &s.SendClientID }),
		"scopes_help":                   subdirective.StringOption(func(s *Service) *string { return &s.ScopesHelp }),
		"require_granted_scopes":        subdirective.BoolOption(func(s *Service) *bool { return &s.RequireGrantedScopes }),
		"token_request_param":           {Repeatable: true, Read: tokenRequestParam(kinds)},
		"token_request_header":          field(func(s *Service) *[]Field { return &s.TokenRequestHeaders }, true, kinds),
		"token_request_format":          subdirective.CheckedString(func(s *Service) *string { return &s.TokenRequestFormat }, subdirective.OneOf(oauth.FormatForm, oauth.FormatJSON, oauth.FormatQuery)),
		"token_request_scope_separator": subdirective.StringOption(func(s *Service) *string { return &s.TokenRequestScopeSeparator }),
		"grant_type":                    subdirective.StringOption(func(s *Service) *string { return &s.GrantType }),
		"token_types":                   {Read: tokenTypes},
		"token_pointer":                 subdirective.CheckedString(func(s *Service) *string { return &s.TokenPointer }, jsonpointer.Check),
		"expires_in_pointer":            subdirective.CheckedString(func(s *Service) *string { return &s.ExpiresInPointer }, jsonpointer.Check),
		"token_transport":               {Block: true, Read: tokenTransport},
		"api_header":                    field(func(s *Service) *[]Field { return &s.APIHeaders }, true, kinds),
		"api_query":                     field(func(s *Service) *[]Field { return &s.APIQuery }, false, kinds),
		"allow_insecure":                {Read: allowInsecure},
		"client_id_label":               subdirective.StringOption(func(s *Service) *string { return &s.ClientIDLabel }),
		"client_secret_label":           subdirective.StringOption(func(s *Service) *string { return &s.ClientSecretLabel }),
		"ping":                          {Read: ping},
		"resource":                      {Read: resources(kinds)},
		"rejected_statuses":             {Read: rejectedStatuses},
		"revocation_url":                subdirective.CheckedString(func(s *Service) *string { return &s.RevocationURL }, checkURL(nil, kinds)),
	}
}

// connectorOptions are the subdirectives that only a connector has.
var connectorOptions = subdirective.Options[Connector]{
	"scope":             {Repeatable: true, Block: true, Read: connectorScope},
	"allow":             allow(func(c *Connector) *[]Allow { return &c.Allow }),
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
	"allow":                 allow(func(c *Connection) *[]Allow { return &c.Allow }),
	"refresh_before":        subdirective.DurationOption(func(c *Connection) *caddy.Duration { return &c.RefreshBefore }),
	"default_lifetime":      subdirective.DurationOption(func(c *Connection) *caddy.Duration { return &c.DefaultLifetime }),
	"token_timeout":         subdirective.DurationOption(func(c *Connection) *caddy.Duration { return &c.TokenTimeout }),
	"warm":                  subdirective.BoolOption(func(c *Connection) *bool { return &c.Warm }),

	"client_key_certificate": subdirective.CheckedString(func(c *Connection) *string { return &c.ClientKeyCertificate }, placeholders()),
}

// formOptions are the subdirectives of a connection that fill in the form of its connector.
var formOptions = subdirective.Options[Connection]{
	"parameter":         {Repeatable: true, Read: parameterValue(func(v *ParameterValue) *string { return &v.Value })},
	"parameter_file":    {Repeatable: true, Read: parameterValue(func(v *ParameterValue) *string { return &v.File })},
	"additional_scopes": subdirective.CheckedString(func(c *Connection) *string { return &c.AdditionalScopes }, placeholders()),
}

// checkURL checks a URL as far as that is possible without the values of its placeholders.
func checkURL(check func(*url.URL) error, kinds []string) func(string) error {
	return func(value string) error {
		t, err := parseText(value, kinds)
		if err != nil || len(t.Keys(placeholder.Env))+len(t.Keys(placeholder.File)) > 0 {
			return err
		}
		u, err := t.ExpandURL(&placeholder.Values{Lookup: func(string, string) (string, error) { return "1", nil }})
		if err != nil || check == nil {
			return err
		}
		return check(u)
	}
}

func tokenRequestParam(kinds []string) func(*subdirective.Subdirective, *Service) error {
	return func(s *subdirective.Subdirective, service *Service) error {
		if len(s.Args) < 2 {
			return s.Errorf("takes a name and one value at least")
		}
		for _, value := range s.Args[1:] {
			if err := placeholders(kinds...)(value); err != nil {
				return s.Wrap(err)
			}
		}
		service.TokenRequestParams = append(service.TokenRequestParams, RequestParam{Name: s.Args[0], Values: s.Args[1:]})
		return nil
	}
}

func tokenTypes(s *subdirective.Subdirective, service *Service) error {
	names, err := s.SomeArgs()
	if err != nil {
		return err
	}
	service.TokenTypes = names
	return nil
}

func tokenTransport(s *subdirective.Subdirective, service *Service) error {
	if err := errors.Join(s.NoArgs(), subdirective.CheckOnce(s.Owner+": "+s.Name, s.Block)); err != nil {
		return err
	}
	transport := new(reverseproxy.HTTPTransport)
	if err := s.Unmarshal(transport, s.Block); err != nil {
		return fmt.Errorf("%s: %s: %w", s.Owner, s.Name, err)
	}
	service.TokenTransport = caddyconfig.JSON(transport, nil)
	return nil
}

func allowInsecure(s *subdirective.Subdirective, service *Service) error {
	service.AllowInsecure = s.Args
	if len(s.Args) == 0 {
		service.AllowInsecure = []string{"token_url", "base_url"}
	}
	for i, option := range s.Args {
		if err := subdirective.OneOf("token_url", "base_url")(option); err != nil {
			return s.Wrap(err)
		}
		if slices.Contains(s.Args[:i], option) {
			return s.Errorf("%s is given more than once", option)
		}
	}
	return nil
}

func ping(s *subdirective.Subdirective, service *Service) error {
	args := s.Args
	p := new(Ping)
	if len(args) > 0 && !strings.HasPrefix(args[0], "/") {
		p.Method, args = args[0], args[1:]
	}
	if len(args) == 0 || p.Method != strings.ToUpper(p.Method) {
		return s.Errorf("takes a method in capital letters, if any, a path that begins with a slash, and the expected statuses, if any")
	}
	p.Path = args[0]
	var ok bool
	if p.Statuses, ok = statuses(args[1:]); !ok {
		return s.Errorf("a status must be a number from 200 to 599")
	}
	service.Ping = p
	return nil
}

func rejectedStatuses(s *subdirective.Subdirective, service *Service) error {
	args, err := s.SomeArgs()
	if err != nil {
		return err
	}
	var ok bool
	if service.RejectedStatuses, ok = statuses(args); !ok {
		return s.Errorf("a status must be a number from 400 to 499")
	}
	return nil
}

// statuses returns the numbers in args, and whether all of them are numbers.
func statuses(args []string) (numbers []int, ok bool) {
	for _, arg := range args {
		number, err := strconv.Atoi(arg)
		if err != nil {
			return nil, false
		}
		numbers = append(numbers, number)
	}
	return numbers, true
}

func resources(kinds []string) func(*subdirective.Subdirective, *Service) error {
	return func(s *subdirective.Subdirective, service *Service) error {
		uris, err := s.SomeArgs()
		if err != nil {
			return err
		}
		for _, uri := range uris {
			if err := placeholders(kinds...)(uri); err != nil {
				return s.Wrap(err)
			}
		}
		service.Resources = uris
		return nil
	}
}

func connectorScope(s *subdirective.Subdirective, c *Connector) error {
	if len(s.Args) < 1 || len(s.Args) > 2 || len(s.Args) == 2 && s.Args[1] != "required" {
		return s.Errorf("takes a name and, if it is always to be requested, the word required")
	}
	scope := Scope{Name: s.Args[0], Required: len(s.Args) == 2}
	if err := validScope(scope.Name); err != nil {
		return s.Wrap(err)
	}
	known := make(subdirective.Rules)
	subdirective.Bind(known, scopeOptions, &scope)
	err := known.ReadAll(s.Owner+": scope "+scope.Name, s.Block)
	c.Scopes = append(c.Scopes, scope)
	return err
}

var scopeOptions = subdirective.Options[Scope]{
	"description": subdirective.StringOption(func(s *Scope) *string { return &s.Description }),
}

func connectorParameter(s *subdirective.Subdirective, c *Connector) error {
	var p Parameter
	var err error
	if p.Key, p.Type, err = keyAndType(s, typeText, typePassword, typeDropdown); err != nil {
		return err
	}
	known := make(subdirective.Rules)
	subdirective.Bind(known, parameterOptions, &p)
	err = known.ReadAll(s.Owner+": parameter "+p.Key, s.Block)
	c.Parameters = append(c.Parameters, p)
	return err
}

// keyAndType returns the arguments of a parameter or config value.
func keyAndType(s *subdirective.Subdirective, types ...string) (key, typ string, err error) {
	if len(s.Args) != 2 {
		return "", "", s.Errorf("takes a key and a type: %s", strings.Join(types, ", "))
	}
	if err := placeholder.CheckKey(s.Args[0]); err != nil {
		return "", "", s.Wrap(err)
	}
	s.Name += " " + s.Args[0]
	if err := subdirective.OneOf(types...)(s.Args[1]); err != nil {
		return "", "", s.Errorf("the type %w", err)
	}
	return s.Args[0], s.Args[1], nil
}

var parameterOptions = subdirective.Options[Parameter]{
	"label":   subdirective.StringOption(func(p *Parameter) *string { return &p.Label }),
	"option":  {Repeatable: true, Read: dropdownOption},
	"default": subdirective.StringOption(func(p *Parameter) *string { return &p.Default }),
}

func dropdownOption(s *subdirective.Subdirective, p *Parameter) error {
	args, err := s.SomeArgs()
	if err != nil {
		return err
	}
	if len(args) > 2 {
		return s.Errorf("takes a value and, if any, a label; put a label with spaces in quotation marks")
	}
	p.Options = append(p.Options, Option{Value: args[0], Label: strings.Join(args[1:], "")})
	return nil
}

func connectorConfigValue(s *subdirective.Subdirective, c *Connector) error {
	var v ConfigValue
	var err error
	if v.Key, v.Type, err = keyAndType(s, typeText, typePassword); err != nil {
		return err
	}
	known := make(subdirective.Rules)
	subdirective.Bind(known, configValueOptions, &v)
	err = known.ReadAll(s.Owner+": config_value "+v.Key, s.Block)
	c.ConfigValues = append(c.ConfigValues, v)
	return err
}

var configValueOptions = subdirective.Options[ConfigValue]{
	"label":  subdirective.StringOption(func(v *ConfigValue) *string { return &v.Label }),
	"value":  subdirective.CheckedString(func(v *ConfigValue) *string { return &v.Value }, placeholders(placeholder.Param)),
	"flow":   subdirective.CheckedString(func(v *ConfigValue) *string { return &v.Flow }, placeholder.CheckKey),
	"hidden": subdirective.BoolOption(func(v *ConfigValue) *bool { return &v.Hidden }),
}

func connectorFlow(s *subdirective.Subdirective, c *Connector) error {
	if len(s.Args) < 2 {
		return s.Errorf("takes a name and a type: request or template")
	}
	name, typ := s.Args[0], s.Args[1]
	if err := errors.Join(placeholder.CheckKey(name), placeholder.CheckKey(typ)); err != nil {
		return s.Wrap(err)
	}
	s.Name += " " + name
	if c.flow(name) != nil {
		return s.Errorf("is defined more than once")
	}
	id := "http_helper.flows." + typ
	if _, err := caddy.GetModule(id); err != nil {
		return s.Errorf("there are no flows of this type")
	}
	d := caddyfile.NewDispenser(s.Segment)
	d.Next()
	d.Next()
	d.Next()
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", s.Owner, s.Name, err)
	}
	c.Flows = append(c.Flows, Flow{Name: name, FlowRaw: caddyconfig.JSONModuleObject(module, "type", typ, nil)})
	return nil
}

func clientCertificate(s *subdirective.Subdirective, c *Connection) error {
	cert, key, err := s.TwoArgs()
	if err != nil {
		return err
	}
	if cert == "" || key == "" {
		return s.Errorf("must not be empty")
	}
	if err := errors.Join(placeholders()(cert), placeholders()(key)); err != nil {
		return s.Wrap(err)
	}
	c.ClientCertificateFile, c.ClientCertificateKeyFile = cert, key
	return nil
}

func dpop(s *subdirective.Subdirective, c *Connection) error {
	c.DPoP = new(DPoP)
	if len(s.Args) == 0 {
		return nil
	}
	return subdirective.CheckedString(func(d *DPoP) *string { return &d.KeyFile }, placeholders()).Read(s, c.DPoP)
}

// connectionScopes reads the scopes. An empty list is not the same as none.
func connectionScopes(s *subdirective.Subdirective, c *Connection) error {
	c.Scopes = make([]string, 0, len(s.Args))
	for _, scope := range s.Args {
		t, err := placeholder.Parse(scope)
		if err == nil && t.IsLiteral() {
			err = validScope(scope)
		}
		if err != nil {
			return s.Wrap(err)
		}
		c.Scopes = append(c.Scopes, scope)
	}
	return nil
}

// parameterValue reads the value of a parameter, or the path of a file with it.
func parameterValue(part func(*ParameterValue) *string) func(*subdirective.Subdirective, *Connection) error {
	return func(s *subdirective.Subdirective, c *Connection) error {
		key, value, err := s.TwoArgs()
		if err != nil {
			return err
		}
		if err := placeholder.CheckKey(key); err != nil {
			return s.Wrap(err)
		}
		s.Name += " " + shownName(key)
		if _, ok := c.Parameters[key]; ok {
			return s.Errorf("is given more than once")
		}
		if value == "" {
			return s.Errorf("must not be empty")
		}
		if err := placeholders()(value); err != nil {
			return s.Wrap(err)
		}
		var parsed ParameterValue
		*part(&parsed) = value
		c.Parameters[key] = parsed
		return nil
	}
}

// placeholders returns a check that a text has only the placeholders that parseText knows.
func placeholders(kinds ...string) func(string) error {
	return func(value string) error {
		_, err := parseText(value, kinds)
		return err
	}
}

// field returns an option with a name and a value, which may be given more than once: a header or a query
// parameter.
func field(list func(*Service) *[]Field, isHeader bool, kinds []string) subdirective.Option[Service] {
	return subdirective.Option[Service]{Repeatable: true, Read: func(s *subdirective.Subdirective, target *Service) error {
		name, value, err := s.TwoArgs()
		if err != nil {
			return err
		}
		if isHeader {
			if !httpguts.ValidHeaderFieldName(name) {
				return s.Errorf("the first argument is not the name of a header field, which has no colon and no space")
			}
			name = http.CanonicalHeaderKey(name)
		}
		if err := placeholders(kinds...)(value); err != nil {
			return s.Wrap(err)
		}
		fields := list(target)
		*fields = append(*fields, Field{Name: name, Value: value})
		return nil
	}}
}
