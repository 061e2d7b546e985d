package httphelper

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// checkURL checks a URL as far as that is possible without the values of its placeholders.
func checkURL(check func(*url.URL) error, kinds []string) func(string) error {
	return func(value string) error {
		t, err := parseText(value, kinds...)
		if err != nil || len(t.keys(kindEnv))+len(t.keys(kindFile)) > 0 {
			return err
		}
		u, err := t.expandURL(lookupValues(func(string, string) (string, error) { return "1", nil }))
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
		return s.Located(s.Owner, service.checkParams())
	}
}

func tokenTransport(s *subdirective.Subdirective, service *Service) error {
	if err := s.NoArgs(); err != nil {
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
	for _, arg := range args[1:] {
		status, err := strconv.Atoi(arg)
		if err != nil {
			return s.Errorf("a status must be a number from 200 to 599")
		}
		p.Statuses = append(p.Statuses, status)
	}
	service.Ping = p
	checked := *p // the check fills in the method
	return s.Located(s.Owner, checked.check())
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
		return s.Located(s.Owner, service.checkResources())
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
	if err := known.ReadAll(s.Owner+": parameter "+p.Key, s.Block); err != nil {
		return err
	}
	c.Parameters = append(c.Parameters, p)
	return s.Located(s.Owner, p.check(make(map[string]bool)))
}

// keyAndType are the arguments of a parameter or config value.
func keyAndType(s *subdirective.Subdirective, types ...string) (key, typ string, err error) {
	if len(s.Args) != 2 {
		return "", "", s.Errorf("takes a key and a type: %s", strings.Join(types, ", "))
	}
	if err := validKey(s.Args[0]); err != nil {
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
	o := Option{Value: args[0]}
	if len(args) == 2 {
		o.Label = args[1]
	}
	p.Options = append(p.Options, o)
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
	"value":  subdirective.CheckedString(func(v *ConfigValue) *string { return &v.Value }, placeholders(kindParam)),
	"flow":   subdirective.CheckedString(func(v *ConfigValue) *string { return &v.Flow }, validKey),
	"hidden": subdirective.BoolOption(func(v *ConfigValue) *bool { return &v.Hidden }),
}

func connectorFlow(s *subdirective.Subdirective, c *Connector) error {
	if len(s.Args) < 2 {
		return s.Errorf("takes a name and a type: request or template")
	}
	name, typ := s.Args[0], s.Args[1]
	if err := errors.Join(validKey(name), validKey(typ)); err != nil {
		return s.Wrap(err)
	}
	s.Name += " " + name
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

// connectionScopes keeps a list without names apart from none.
func connectionScopes(s *subdirective.Subdirective, c *Connection) error {
	c.Scopes = make([]string, 0, len(s.Args))
	for _, scope := range s.Args {
		t, err := parseText(scope)
		if err == nil && t.literal() {
			err = validScope(scope)
		}
		if err != nil {
			return s.Wrap(err)
		}
		c.Scopes = append(c.Scopes, scope)
	}
	return nil
}

// parameterValueOption reads the value of a parameter, or the path of a file that holds it.
func parameterValueOption(part func(*ParameterValue) *string) func(*subdirective.Subdirective, *Connection) error {
	return func(s *subdirective.Subdirective, c *Connection) error {
		key, value, err := s.TwoArgs()
		if err != nil {
			return err
		}
		if err := validKey(key); err != nil {
			return s.Wrap(err)
		}
		s.Name += " " + key
		if _, ok := c.Parameters[key]; ok {
			return s.Errorf("is given more than once")
		}
		if value == "" {
			return s.Errorf("must not be empty")
		}
		if err := placeholders()(value); err != nil {
			return s.Wrap(err)
		}
		var a ParameterValue
		*part(&a) = value
		if c.Parameters == nil {
			c.Parameters = make(map[string]ParameterValue)
		}
		c.Parameters[key] = a
		return nil
	}
}

// placeholders checks that a text has only placeholders that are understood there: {env.*}, {file.*}
// and those of the kinds.
func placeholders(kinds ...string) func(string) error {
	return func(value string) error {
		_, err := parseText(value, kinds...)
		return err
	}
}

// field is an option with a name and a value, which may be given more than once.
func field(list func(*Service) *[]Field, header bool, refused func(string) bool, kinds []string) subdirective.Option[Service] {
	return subdirective.Option[Service]{Repeatable: true, Read: func(s *subdirective.Subdirective, target *Service) error {
		name, value, err := s.TwoArgs()
		if err != nil {
			return err
		}
		if header && !httpguts.ValidHeaderFieldName(name) {
			return s.Errorf("the first argument is not the name of a header field")
		}
		if err := placeholders(kinds...)(value); err != nil {
			return s.Wrap(err)
		}
		fields := list(target)
		*fields = append(*fields, Field{Name: name, Value: value})
		return s.Located(s.Owner, checkFields(s.Name, *fields, header, refused))
	}}
}
