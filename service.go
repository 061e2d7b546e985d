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

// Service describes a service: its API, and how clients authenticate at its token endpoint. Each
// connector has one, and so does each connection without a connector.
//
// URLs and values may contain the placeholders `{env.*}` and `{file.*}`; those of a connector also
// `{param.<key>}` and `{config.<key>}`. They are resolved when the config is loaded and at every
// token request, never per proxied request. What a placeholder yields is not searched for further
// placeholders.
type Service struct {
	// The name of the service for people. Default: the name of the connector.
	Label string `json:"label,omitempty"`

	// The root of the API: an https URL, or http on loopback, without query, fragment and userinfo.
	// Every request goes to this host and stays below this path. Placeholders are resolved at every
	// token request. Required.
	BaseURL string `json:"base_url,omitempty"`

	// The full URL of the token endpoint: https, or http on loopback, without fragment and userinfo.
	// Its query is kept (RFC 6749 §3.2). Placeholders are resolved at every token request. Required,
	// unless `issuer` is given.
	TokenURL string `json:"token_url,omitempty"`

	// The authorization server's issuer identifier. Its metadata (RFC 8414, OpenID Connect Discovery)
	// name the token endpoint. Placeholders are resolved at every token request. Excludes `token_url`.
	Issuer string `json:"issuer,omitempty"`

	// How the client authenticates at the token endpoint: `client_secret_basic`,
	// `client_secret_post`, `client_secret_jwt`, `private_key_jwt`, `tls_client_auth` or `none`. No
	// other method is tried. Default: `client_secret_basic`.
	AuthMethod string `json:"auth_method,omitempty"`

	// How `client_secret_basic` encodes client id and secret: `form`, form-encoded (RFC 6749 §2.3.1),
	// or `raw`, as they are, for servers that do not decode them. Default: `form`.
	BasicEncoding string `json:"basic_encoding,omitempty"`

	// The URL of a page that says how to get scopes that the connector lacks. It is named in the error
	// when additional scopes are refused.
	ScopesHelp string `json:"scopes_help,omitempty"`

	// Whether a token is refused when the response lists its scopes and a required one is missing.
	// Default: false, a warning in the log.
	RequireGrantedScopes bool `json:"require_granted_scopes,omitempty"`

	// Further parameters of the token request, such as an audience. Placeholders in the values are
	// resolved at every token request.
	TokenRequestParams []RequestParam `json:"token_request_params,omitempty"`

	// Further headers of the token request. Placeholders in the values are resolved at every token
	// request.
	TokenRequestHeaders []Field `json:"token_request_headers,omitempty"`

	// Where the parameters of the token request are sent: in the body as a `form` or as `json`, or in
	// the URL's `query`. The method is POST in any case. Default: `form` (RFC 6749 §4.4.2).
	TokenRequestFormat string `json:"token_request_format,omitempty"`

	// The text between two scopes in the token request. Default: one space (RFC 6749 §3.3).
	TokenRequestScopeSeparator string `json:"token_request_scope_separator,omitempty"`

	// The value of `grant_type` in the token request. Default: `client_credentials` (RFC 6749 §4.4.2).
	GrantType string `json:"grant_type,omitempty"`

	// The JSON pointer (RFC 6901) to the token in the token response. Default: `/access_token`.
	TokenPointer string `json:"token_pointer,omitempty"`

	// The JSON pointer (RFC 6901) to the token's lifetime, in seconds, in the token response. Default:
	// `/expires_in`.
	ExpiresInPointer string `json:"expires_in_pointer,omitempty"`

	// TLS, forward proxy and timeouts of requests to the authorization server: the fields of
	// reverse_proxy's `http` transport.
	TokenTransport json.RawMessage `json:"token_transport,omitempty"`

	// Headers that are set on every request to the API, instead of the app's of the same name.
	// Placeholders in the values are resolved at every token request.
	APIHeaders []Field `json:"api_headers,omitempty"`

	// Query parameters that are set on every request to the API, instead of the app's of the same
	// name. Placeholders in the values are resolved at every token request.
	APIQuery []Field `json:"api_query,omitempty"`

	// The URLs, `token_url` and `base_url`, that may be http on a host that is not loopback, or whose
	// TLS certificate need not be verified. Others can then read secrets or tokens, so each is warned
	// about when the config is loaded. Default: none.
	AllowInsecure []string `json:"allow_insecure,omitempty"`

	// The label of the client id in the connector's form. Default: `Client ID`.
	ClientIDLabel string `json:"client_id_label,omitempty"`

	// The label of the client secret in the connector's form. Default: `Client secret`.
	ClientSecretLabel string `json:"client_secret_label,omitempty"`

	// The request to the API that proves that a connection works. Default: none; a token is proof then.
	Ping *Ping `json:"ping,omitempty"`

	// The resource indicators of the token request (RFC 8707): absolute URIs without fragment.
	// Placeholders are resolved at every token request.
	Resources []string `json:"resources,omitempty"`

	// The URL of the revocation endpoint (RFC 7009), where the token of a connection that is removed
	// or refreshed by hand is revoked, best effort. Default: that of the issuer's metadata, if any.
	RevocationURL string `json:"revocation_url,omitempty"`
}

// RequestParam is a further parameter of the token request. It is sent once for each of its values.
type RequestParam struct {
	// The parameter's name. Required.
	Name string `json:"name"`

	// The parameter's values, at least one. Required.
	Values []string `json:"values"`
}

// Field is a header or a query parameter.
type Field struct {
	// The name of the header or parameter. Required.
	Name string `json:"name"`

	// The value. Placeholders in it are resolved at every token request. Default: empty.
	Value string `json:"value"`
}

// Ping is a small request to the API that proves that a connection works.
type Ping struct {
	// The method of the request. Default: `GET`.
	Method string `json:"method,omitempty"`

	// The path below the base URL, with a query if there is one. It begins with a slash. Required.
	Path string `json:"path"`

	// The statuses that prove the connection, from 200 to 599. Default: any 2xx.
	Statuses []int `json:"statuses,omitempty"`
}

// Values of basic_encoding.
const (
	encodingForm = "form"
	encodingRaw  = "raw"
)

// optionText is an option with its text, which may have placeholders.
type optionText struct{ option, value string }

// texts returns all texts of the service that may have placeholders.
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

// check checks everything about a service that does not depend on a connection, and fills in
// defaults. Texts may have the placeholders of the given kinds.
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

// checkURLs checks which URLs are given, and the form of those without placeholders.
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

// insecureURLs returns the URLs that may be plain http.
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

// checkFields checks headers or query parameters. Headers get their canonical names.
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
			continue // checked once it is resolved
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

// authMethod returns the name of the authentication method, the default included.
func (s *Service) authMethod() string { return cmp.Or(s.AuthMethod, oauth.DefaultMethod) }

// textParser parses texts with placeholders and collects the errors.
type textParser struct{ errs []error }

func (p *textParser) parse(option, value string, kinds ...string) placeholder.Template {
	t, err := placeholder.Parse(value, kinds...)
	if err != nil {
		p.errs = append(p.errs, fmt.Errorf("%s: %w", option, err))
	}
	return t
}

// optional parses a text, or returns nil when it is empty.
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

// spec parses the service's texts, which may have the placeholders of the given kinds.
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
		for _, value := range param.Values {
			spec.Params = append(spec.Params, resolve.Field{Name: param.Name, Value: p.parse("token_request_param "+param.Name, value, kinds...)})
		}
	}
	for _, resource := range s.Resources {
		spec.Resources = append(spec.Resources, p.parse("resource", resource, kinds...))
	}
	return spec, errors.Join(p.errs...)
}
