package httphelper

import (
	"errors"
	"fmt"
)

// connectionTexts are the texts of a connection and its service, parsed once. Those that are nil
// are not given.
type connectionTexts struct {
	*serviceTexts
	clientID, clientSecret, clientKey     *text
	keyID, audience                       *text
	secretFile, keyFile, assertionFile    *text // paths
	certificateFile, certificateKey, dpop *text // paths
	answers                               map[string]answerText
}

// serviceTexts are the texts of a service, which all of its connections share.
type serviceTexts struct {
	baseURL                            *text
	tokenURL, issuer, revocationURL    *text
	params                             []paramText
	tokenHeaders, apiHeaders, apiQuery []fieldText
	resources                          []text
	values                             map[string]text // of config values that are texts
}

type paramText struct {
	name   string
	values []text
}

type fieldText struct {
	name  string
	value text
}

// answerText is an answer to a parameter: a value, or the path of a file when file is set.
type answerText struct {
	value text
	file  *text
}

// textParser parses texts and collects what is wrong with them.
type textParser struct{ errs []error }

func (p *textParser) parse(option, value string, kinds ...string) text {
	t, err := parseText(value, kinds...)
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("%s: %w", option, err))
	}
	return t
}

// optional is parse for texts that need not be given.
func (p *textParser) optional(option, value string, kinds ...string) *text {
	if value == "" {
		return nil
	}
	t := p.parse(option, value, kinds...)
	return &t
}

func (p *textParser) fields(option string, fields []Field, kinds ...string) []fieldText {
	texts := make([]fieldText, len(fields))
	for i, f := range fields {
		texts[i] = fieldText{f.Name, p.parse(option+" "+f.Name, f.Value, kinds...)}
	}
	return texts
}

// parseTexts parses all texts that c's requests are made of.
func (c *activeConnection) parseTexts() error {
	service, err := c.serviceTexts()
	p := textParser{errs: []error{err}}
	conn, t := c.config, &c.texts
	*t = connectionTexts{
		serviceTexts:    service,
		clientID:        p.optional("client_id", conn.ClientID),
		clientSecret:    p.optional("client_secret", conn.ClientSecret),
		clientKey:       p.optional("client_key", conn.ClientKey),
		keyID:           p.optional("key_id", conn.KeyID),
		audience:        p.optional("assertion_audience", conn.AssertionAudience),
		secretFile:      p.optional("client_secret_file", conn.ClientSecretFile),
		keyFile:         p.optional("client_key_file", conn.ClientKeyFile),
		assertionFile:   p.optional("client_assertion_file", conn.ClientAssertionFile),
		certificateFile: p.optional("client_certificate", conn.ClientCertificateFile),
		certificateKey:  p.optional("client_certificate", conn.ClientCertificateKeyFile),
	}
	if conn.DPoP != nil {
		t.dpop = p.optional("dpop", conn.DPoP.KeyFile)
	}
	if c.connector != nil && len(c.connector.Parameters) > 0 {
		t.answers = make(map[string]answerText)
		for _, param := range c.connector.Parameters {
			answer := c.answer(param)
			t.answers[param.Key] = answerText{
				value: p.parse("parameter "+param.Key, answer.Value),
				file:  p.optional("parameter_file "+param.Key, answer.File),
			}
		}
	}
	return errors.Join(p.errs...)
}

// serviceTexts are those of the connector, which has them parsed once, or of the connection itself.
func (c *activeConnection) serviceTexts() (*serviceTexts, error) {
	if c.connector == nil {
		var p textParser
		t := p.service(c.service)
		return t, errors.Join(p.errs...)
	}
	return c.connector.parsedTexts()
}

// parsedTexts are the connector's texts, parsed at the first call.
func (c *Connector) parsedTexts() (*serviceTexts, error) {
	if c.texts == nil {
		var p textParser
		c.texts = p.service(&c.Service, kindParam, kindConfig)
		c.texts.values = make(map[string]text, len(c.ConfigValues))
		for _, value := range c.ConfigValues {
			c.texts.values[value.Key] = p.parse("config_value "+value.Key, value.Value, kindParam)
		}
		c.textsErr = errors.Join(p.errs...)
	}
	return c.texts, c.textsErr
}

func (p *textParser) service(s *Service, kinds ...string) *serviceTexts {
	t := &serviceTexts{
		baseURL:       p.optional("base_url", s.BaseURL, kinds...),
		tokenURL:      p.optional("token_url", s.TokenURL, kinds...),
		issuer:        p.optional("issuer", s.Issuer, kinds...),
		revocationURL: p.optional("revocation_url", s.RevocationURL, kinds...),
		tokenHeaders:  p.fields("token_request_header", s.TokenRequestHeaders, kinds...),
		apiHeaders:    p.fields("api_header", s.APIHeaders, kinds...),
		apiQuery:      p.fields("api_query", s.APIQuery, kinds...),
	}
	for _, param := range s.TokenRequestParams {
		parsed := paramText{name: param.Name}
		for _, value := range param.Values {
			parsed.values = append(parsed.values, p.parse("token_request_param "+param.Name, value, kinds...))
		}
		t.params = append(t.params, parsed)
	}
	for _, resource := range s.Resources {
		t.resources = append(t.resources, p.parse("resource", resource, kinds...))
	}
	return t
}
