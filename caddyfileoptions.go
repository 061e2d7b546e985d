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
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// checkURL checks a URL as far as that is possible without the values of its placeholders.
func checkURL(check func(*url.URL) error, kinds []string) func(string) error {
	return func(value string) error {
		t, err := parseText(value, kinds...)
		if err != nil || len(t.keys(kindEnv))+len(t.keys(kindFile)) > 0 {
			return err
		}
		u, err := t.expandURL(func(string, string) (string, error) { return "1", nil })
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
		return s.located(s.owner, service.checkParams())
	}
}

func tokenTransport(s *subdirective, service *Service) error {
	if err := s.none(); err != nil {
		return err
	}
	transport := new(reverseproxy.HTTPTransport)
	if err := s.readWith(transport, s.block); err != nil {
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
	return s.located(s.owner, checked.check())
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
		return s.located(s.owner, service.checkResources())
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
	var p Parameter
	var err error
	if p.Key, p.Type, err = keyAndType(s, typeText, typePassword, typeDropdown); err != nil {
		return err
	}
	known := make(rules)
	bind(known, parameterOptions, &p)
	if err := known.readAll(s.owner+": parameter "+p.Key, s.block); err != nil {
		return err
	}
	c.Parameters = append(c.Parameters, p)
	return s.located(s.owner, p.check(make(map[string]bool)))
}

// keyAndType are the arguments of a parameter or config value.
func keyAndType(s *subdirective, types ...string) (key, typ string, err error) {
	if len(s.args) != 2 {
		return "", "", s.errorf("takes a key and a type: %s", strings.Join(types, ", "))
	}
	if err := validKey(s.args[0]); err != nil {
		return "", "", s.wrap(err)
	}
	s.name += " " + s.args[0]
	if err := oneOf(types...)(s.args[1]); err != nil {
		return "", "", s.errorf("the type %w", err)
	}
	return s.args[0], s.args[1], nil
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
	var v ConfigValue
	var err error
	if v.Key, v.Type, err = keyAndType(s, typeText, typePassword); err != nil {
		return err
	}
	known := make(rules)
	bind(known, configValueOptions, &v)
	err = known.readAll(s.owner+": config_value "+v.Key, s.block)
	c.ConfigValues = append(c.ConfigValues, v)
	return err
}

var configValueOptions = options[ConfigValue]{
	"label":  plainText(func(v *ConfigValue) *string { return &v.Label }),
	"value":  checkedText(func(v *ConfigValue) *string { return &v.Value }, textWith(kindParam)),
	"flow":   checkedText(func(v *ConfigValue) *string { return &v.Flow }, validKey),
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
	s.name += " " + name
	id := "http_helper.flows." + typ
	if _, err := caddy.GetModule(id); err != nil {
		return s.errorf("there are no flows of this type")
	}
	d := caddyfile.NewDispenser(s.segment)
	d.Next()
	d.Next()
	d.Next()
	module, err := caddyfile.UnmarshalModule(d, id)
	if err != nil {
		return fmt.Errorf("%s: %s: %w", s.owner, s.name, err)
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
		s.name += " " + key
		if _, ok := c.Parameters[key]; ok {
			return s.errorf("is given more than once")
		}
		if value == "" {
			return s.errorf("must not be empty")
		}
		if err := textWith()(value); err != nil {
			return s.wrap(err)
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
