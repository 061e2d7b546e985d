package httphelper

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/jsonpointer"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
)

// Service describes how one service is authenticated against and where its API is. A connector
// holds one, and a connection without a connector holds its own.
//
// Texts may contain the placeholders `{env.*}` and `{file.*}`; those of a connector also
// `{param.<key>}` and `{config.<key>}`. They are resolved when the config is loaded and again at
// every token request, never per proxied request, and their results are not searched again.
type Service struct {
	// What people see. Default: the name.
	Label string `json:"label,omitempty"`

	// Root of the API: https, or http on loopback, without query, fragment and userinfo. No
	// request leaves it. Required.
	BaseURL string `json:"base_url,omitempty"`

	// Full URL of the token endpoint: https, or http on loopback, without fragment and userinfo.
	// A query in it is kept (RFC 6749 §3.2). Required, unless `issuer` is given.
	TokenURL string `json:"token_url,omitempty"`

	// The authorization server's issuer identifier; its metadata (RFC 8414, OpenID Connect
	// Discovery) name the token endpoint. Excludes `token_url`.
	Issuer string `json:"issuer,omitempty"`

	// How the client authenticates at the token endpoint: `client_secret_basic`,
	// `client_secret_post`, `client_secret_jwt`, `private_key_jwt`, `tls_client_auth` or `none`.
	// Exactly this one is used, never a second. Default: `client_secret_basic`.
	AuthMethod string `json:"auth_method,omitempty"`

	// Whether client id and secret are form-encoded inside the Basic header (`form`, RFC 6749
	// §2.3.1) or not (`raw`, for servers that do not decode). Default: `form`.
	BasicEncoding string `json:"basic_encoding,omitempty"`

	// Where people ask for scopes that the service lacks; named in the error when additional
	// scopes are refused.
	ScopesHelp string `json:"scopes_help,omitempty"`

	// Refuse a token whose response lists scopes but lacks a required one. Default: warn.
	RequireGrantedScopes bool `json:"require_granted_scopes,omitempty"`

	// Extra parameters of the token request, such as an audience.
	TokenRequestParams []RequestParam `json:"token_request_params,omitempty"`

	// Extra headers of the token request.
	TokenRequestHeaders []Field `json:"token_request_headers,omitempty"`

	// Where the token request's fields travel: `form`, `json` or `query`. Always a POST.
	// Default: `form` (RFC 6749 §4.4.2).
	TokenRequestFormat string `json:"token_request_format,omitempty"`

	// What joins scopes in the token request. Default: one space (RFC 6749 §3.3).
	TokenRequestScopeSeparator string `json:"token_request_scope_separator,omitempty"`

	// What the token request calls the grant. Default: `client_credentials`.
	GrantType string `json:"grant_type,omitempty"`

	// JSON pointer (RFC 6901) to the token in the response. Default: `/access_token`.
	TokenPointer string `json:"token_pointer,omitempty"`

	// JSON pointer (RFC 6901) to the lifetime in seconds. Default: `/expires_in`.
	ExpiresInPointer string `json:"expires_in_pointer,omitempty"`

	// TLS, proxy and timeouts towards the token endpoint: the fields of reverse_proxy's `http`
	// transport.
	TokenTransport json.RawMessage `json:"token_transport,omitempty"`

	// Headers that every request to the API carries. The app's own of the same name are removed.
	APIHeaders []Field `json:"api_headers,omitempty"`

	// Query parameters that every request to the API carries. The app's own of the same name are
	// removed.
	APIQuery []Field `json:"api_query,omitempty"`

	// For which of `token_url` and `base_url` http to a host that is not loopback, and skipping
	// TLS verification, are permitted. Warned about at load. Default: neither.
	AllowInsecure []string `json:"allow_insecure,omitempty"`

	// What people see for the client id. Default: `Client ID`.
	ClientIDLabel string `json:"client_id_label,omitempty"`

	// What people see for the client secret. Default: `Client secret`.
	ClientSecretLabel string `json:"client_secret_label,omitempty"`

	// The request that proves that a connection works.
	Ping *Ping `json:"ping,omitempty"`

	// Resource indicators (RFC 8707): absolute URIs without fragment.
	Resources []string `json:"resources,omitempty"`

	// URL of the revocation endpoint (RFC 7009). The token of a connection that is removed is
	// revoked there, best effort.
	RevocationURL string `json:"revocation_url,omitempty"`
}

// RequestParam is an extra parameter of the token request. Several values are sent as several.
type RequestParam struct {
	// The parameter's name. Required.
	Name string `json:"name"`

	// The parameter's values, one at least.
	Values []string `json:"values"`
}

// Field is a named value: a header or a query parameter.
type Field struct {
	// The field's name. Required.
	Name string `json:"name"`

	// The field's value.
	Value string `json:"value"`
}

// Ping is a small request that proves that a connection works.
type Ping struct {
	// Default: `GET`.
	Method string `json:"method,omitempty"`

	// Path, and query if any, below the base URL. Required.
	Path string `json:"path"`

	// Statuses that prove the connection. Default: any 2xx.
	Statuses []int `json:"statuses,omitempty"`
}

const (
	encodingForm = "form"
	encodingRaw  = "raw"
)

// optionText is the text of an option that may have placeholders.
type optionText struct{ option, value string }

// texts are the service's texts that may have placeholders.
func (s *Service) texts() []optionText {
	all := []optionText{{"base_url", s.BaseURL}, {"token_url", s.TokenURL}, {"issuer", s.Issuer}, {"revocation_url", s.RevocationURL}}
	for _, p := range s.TokenRequestParams {
		for _, v := range p.Values {
			all = append(all, optionText{"token_request_param " + p.Name, v})
		}
	}
	for _, r := range s.Resources {
		all = append(all, optionText{"resource", r})
	}
	for option, fields := range map[string][]Field{
		"token_request_header": s.TokenRequestHeaders, "api_header": s.APIHeaders, "api_query": s.APIQuery,
	} {
		for _, f := range fields {
			all = append(all, optionText{option + " " + f.Name, f.Value})
		}
	}
	return all
}

// check checks all of a service that does not depend on a connection. Texts may have the
// placeholders of the kinds given.
func (s *Service) check(kinds ...string) error {
	_, err := oauth.Method(s.AuthMethod)
	errs := []error{
		err,
		s.checkURLs(kinds),
		setDefault(&s.BasicEncoding, "basic_encoding", encodingForm, encodingRaw),
		setDefault(&s.TokenRequestFormat, "token_request_format", oauth.FormatForm, oauth.FormatJSON, oauth.FormatQuery),
		checkPointer("token_pointer", s.TokenPointer),
		checkPointer("expires_in_pointer", s.ExpiresInPointer),
		s.checkParams(),
		checkFields("token_request_header", s.TokenRequestHeaders, true, refusedTokenHeader),
		checkFields("api_header", s.APIHeaders, true, refusedAPIHeader),
		checkFields("api_query", s.APIQuery, false, nil),
		s.checkResources(),
		s.Ping.check(),
	}
	if err == nil && s.BasicEncoding == encodingRaw && s.AuthMethod != "" && s.AuthMethod != oauth.DefaultMethod {
		errs = append(errs, fmt.Errorf("basic_encoding is for auth_method client_secret_basic, not %s", s.AuthMethod))
	}
	for _, what := range s.AllowInsecure {
		if what != "token_url" && what != "base_url" {
			errs = append(errs, fmt.Errorf("allow_insecure: %q is neither token_url nor base_url", what))
		}
	}
	for _, t := range s.texts() {
		if _, err := placeholder.Parse(t.value, kinds...); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.option, err))
		}
	}
	return errors.Join(errs...)
}

// checkURLs checks that the URLs are there, and those that need nothing of a connection.
func (s *Service) checkURLs(kinds []string) error {
	var errs []error
	if s.BaseURL == "" {
		errs = append(errs, errors.New("base_url is missing"))
	}
	switch {
	case s.TokenURL == "" && s.Issuer == "":
		errs = append(errs, errors.New("token_url is missing"))
	case s.TokenURL != "" && s.Issuer != "":
		errs = append(errs, errors.New("token_url and issuer exclude each other"))
	}
	for _, o := range []optionText{{"base_url", s.BaseURL}, {"token_url", s.TokenURL}, {"issuer", s.Issuer}, {"revocation_url", s.RevocationURL}} {
		t, err := placeholder.Parse(o.value, kinds...)
		if err != nil || o.value == "" || !t.IsLiteral() {
			continue
		}
		_, err = s.insecureURLs().Expand(o.option, t, nil)
		errs = append(errs, err)
	}
	if s.ScopesHelp != "" {
		if u, err := url.Parse(s.ScopesHelp); err != nil || u.Scheme == "" {
			errs = append(errs, errors.New("scopes_help must be a URL"))
		}
	}
	return errors.Join(errs...)
}

// insecureURLs says for which URLs plain http is permitted.
func (s *Service) insecureURLs() resolve.InsecureURLs {
	return resolve.InsecureURLs{Token: s.allowsInsecure("token_url"), Base: s.allowsInsecure("base_url")}
}

func (s *Service) allowsInsecure(what string) bool { return slices.Contains(s.AllowInsecure, what) }

// checkPointer checks an option that is a JSON pointer.
func checkPointer(option, pointer string) error {
	if err := jsonpointer.Check(pointer); err != nil {
		return fmt.Errorf("%s: %w", option, err)
	}
	return nil
}

// reservedParams are fields of the token request that have options of their own.
var reservedParams = []string{"grant_type", "scope", "client_id", "client_secret", "client_assertion", "client_assertion_type"}

func (s *Service) checkParams() error {
	var errs []error
	seen := make(map[string]bool)
	for _, p := range s.TokenRequestParams {
		switch {
		case p.Name == "":
			errs = append(errs, errors.New("token_request_param: the name is missing"))
		case slices.Contains(reservedParams, p.Name):
			errs = append(errs, fmt.Errorf("token_request_param: %s cannot be set here; it has an option of its own", p.Name))
		case seen[p.Name]:
			errs = append(errs, fmt.Errorf("token_request_param: %s is given twice; name it once with several values", p.Name))
		case len(p.Values) == 0:
			errs = append(errs, fmt.Errorf("token_request_param: %s needs a value", p.Name))
		}
		seen[p.Name] = true
	}
	return errors.Join(errs...)
}

// checkFields checks named values; headers get their canonical names.
func checkFields(option string, fields []Field, header bool, refused func(string) bool) error {
	var errs []error
	seen := make(map[string]bool)
	for i, f := range fields {
		if header {
			if !httpguts.ValidHeaderFieldName(f.Name) {
				errs = append(errs, fmt.Errorf("%s: %q is not a header field name", option, f.Name))
				continue
			}
			f.Name = http.CanonicalHeaderKey(f.Name)
			fields[i].Name = f.Name
		}
		switch {
		case f.Name == "":
			errs = append(errs, fmt.Errorf("%s: the name is missing", option))
		case refused != nil && refused(f.Name):
			errs = append(errs, fmt.Errorf("%s: %s cannot be set here", option, f.Name))
		case seen[f.Name]:
			errs = append(errs, fmt.Errorf("%s: %s is given twice", option, f.Name))
		}
		seen[f.Name] = true
	}
	return errors.Join(errs...)
}

func refusedTokenHeader(field string) bool {
	return field == "Authorization" || field == "Dpop" || strings.HasPrefix(field, "Content-") || httpguard.ReservedField(field)
}

func refusedAPIHeader(field string) bool {
	return field == "Authorization" || field == "Dpop" || httpguard.ReservedField(field)
}

func (s *Service) checkResources() error {
	var errs []error
	for _, r := range s.Resources {
		if strings.Contains(r, "{") {
			continue // checked when it is known
		}
		errs = append(errs, oauth.CheckResource(r))
	}
	return errors.Join(errs...)
}

func (p *Ping) check() error {
	if p == nil {
		return nil
	}
	var errs []error
	if p.Method == "" {
		p.Method = http.MethodGet
	}
	if !httpguts.ValidHeaderFieldName(p.Method) || p.Method == http.MethodTrace || p.Method == http.MethodConnect {
		errs = append(errs, fmt.Errorf("ping: %q is not a method that can be used", p.Method))
	}
	path, _, _ := strings.Cut(p.Path, "?")
	if !strings.HasPrefix(path, "/") {
		errs = append(errs, errors.New("ping: the path must begin with a slash"))
	} else if err := httpguard.CheckEscapedPath(path); err != nil {
		errs = append(errs, fmt.Errorf("ping: %w", err))
	}
	for _, status := range p.Statuses {
		if status < 200 || status > 599 {
			errs = append(errs, fmt.Errorf("ping: %d is not a status that a service responds with", status))
		}
	}
	return errors.Join(errs...)
}

// authMethod is the name of the method, the default included.
func (s *Service) authMethod() string { return cmp.Or(s.AuthMethod, oauth.DefaultMethod) }

// textParser parses texts and collects what is wrong with them.
type textParser struct{ errs []error }

func (p *textParser) parse(option, value string, kinds ...string) placeholder.Template {
	t, err := placeholder.Parse(value, kinds...)
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("%s: %w", option, err))
	}
	return t
}

// optional is parse for texts that may be absent.
func (p *textParser) optional(option, value string, kinds ...string) *placeholder.Template {
	if value == "" {
		return nil
	}
	t := p.parse(option, value, kinds...)
	return &t
}

func (p *textParser) fields(option string, fields []Field, kinds ...string) []resolve.Field {
	specs := make([]resolve.Field, len(fields))
	for i, f := range fields {
		specs[i] = resolve.Field{Name: f.Name, Value: p.parse(option+" "+f.Name, f.Value, kinds...)}
	}
	return specs
}

// spec parses the service's texts, which may have the placeholders of the kinds given.
func (s *Service) spec(kinds ...string) (*resolve.ServiceSpec, error) {
	var p textParser
	method, err := oauth.Method(s.AuthMethod)
	if err != nil {
		p.errs = append(p.errs, err)
	}
	spec := &resolve.ServiceSpec{
		BaseURL:       p.optional("base_url", s.BaseURL, kinds...),
		TokenURL:      p.optional("token_url", s.TokenURL, kinds...),
		Issuer:        p.optional("issuer", s.Issuer, kinds...),
		RevocationURL: p.optional("revocation_url", s.RevocationURL, kinds...),
		TokenHeaders:  p.fields("token_request_header", s.TokenRequestHeaders, kinds...),
		APIHeaders:    p.fields("api_header", s.APIHeaders, kinds...),
		APIQuery:      p.fields("api_query", s.APIQuery, kinds...),

		AuthMethod:     s.authMethod(),
		Method:         method,
		RawBasic:       s.BasicEncoding == encodingRaw,
		TokenTransport: string(s.TokenTransport),

		RequireGrantedScopes: s.RequireGrantedScopes,
		GrantType:            cmp.Or(s.GrantType, oauth.DefaultGrantType),
		RequestFormat:        cmp.Or(s.TokenRequestFormat, oauth.FormatForm),
		ScopeSeparator:       cmp.Or(s.TokenRequestScopeSeparator, " "),
		TokenPointer:         cmp.Or(s.TokenPointer, oauth.DefaultTokenPointer),
		ExpiresInPointer:     cmp.Or(s.ExpiresInPointer, oauth.DefaultExpiresInPointer),
		InsecureURLs:         s.insecureURLs(),
	}
	for _, param := range s.TokenRequestParams {
		parsed := resolve.RequestParam{Name: param.Name}
		for _, value := range param.Values {
			parsed.Values = append(parsed.Values, p.parse("token_request_param "+param.Name, value, kinds...))
		}
		spec.Params = append(spec.Params, parsed)
	}
	for _, resource := range s.Resources {
		spec.Resources = append(spec.Resources, p.parse("resource", resource, kinds...))
	}
	return spec, errors.Join(p.errs...)
}
