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
// URLs and values of a connection may contain the placeholders `{env.*}` and `{file.*}`, those of a
// connector `{param.<key>}` and `{config.<key>}`. They are resolved when the config is loaded and at every
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

	// The `typ` header of assertions that are signed here, for `private_key_jwt` and
	// `client_secret_jwt`. Some services want `JWT`. Default: `client-authentication+jwt`, as the
	// successor of RFC 7523 requires.
	AssertionTyp string `json:"assertion_typ,omitempty"`

	// The value of `client_assertion_type` in the token request with `private_key_jwt`. Default:
	// `urn:ietf:params:oauth:client-assertion-type:jwt-bearer` (RFC 7523 §2.2).
	ClientAssertionType string `json:"client_assertion_type,omitempty"`

	// Whether `client_id` is among the fields of the token request even where the method puts it into the
	// header (RFC 6749 §3.2.1), for servers that want it in both places. Default: false.
	SendClientID bool `json:"send_client_id,omitempty"`

	// The URL of a page that says how to get scopes that the connector lacks. It is named in the error
	// when additional scopes are refused.
	ScopesHelp string `json:"scopes_help,omitempty"`

	// Whether a token is refused when the response lists its scopes and a required one is missing.
	// Default: false, a warning in the log.
	RequireGrantedScopes bool `json:"require_granted_scopes,omitempty"`

	// Further parameters of the token request, such as an audience. Placeholders in the values are
	// resolved at every token request.
	TokenRequestParams []RequestParam `json:"token_request_params,omitempty"`

	// Further headers of the token request. `Authorization` is allowed where the authentication method
	// does not use it, for a gateway in front of the token endpoint. Placeholders in the values are
	// resolved at every token request.
	TokenRequestHeaders []Field `json:"token_request_headers,omitempty"`

	// Where the parameters of the token request are sent: in the body as a `form` or as `json`, or in
	// the URL's `query`. The method is POST in any case. Default: `form` (RFC 6749 §4.4.2).
	TokenRequestFormat string `json:"token_request_format,omitempty"`

	// The text between two scopes in the token request. Default: one space (RFC 6749 §3.3).
	TokenRequestScopeSeparator string `json:"token_request_scope_separator,omitempty"`

	// The value of `grant_type` in the token request. Default: `client_credentials` (RFC 6749 §4.4.2).
	GrantType string `json:"grant_type,omitempty"`

	// What a token response may call a bearer token besides `Bearer`, in any case. Such a token is sent as
	// a bearer token. Default: nothing else; a token of another type is refused (RFC 6749 §7.1).
	TokenTypes []string `json:"token_types,omitempty"`

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

	// What the service calls the client id, such as `API key`. The command line asks for it by this label.
	// Default: `Client ID`.
	ClientIDLabel string `json:"client_id_label,omitempty"`

	// What the service calls the client secret. The command line asks for it by this label.
	// Default: `Client secret`.
	ClientSecretLabel string `json:"client_secret_label,omitempty"`

	// The request to the API that proves that a connection works. Default: none; a token is proof then.
	Ping *Ping `json:"ping,omitempty"`

	// The resource indicators of the token request (RFC 8707): absolute URIs without fragment.
	// Placeholders are resolved at every token request.
	Resources []string `json:"resources,omitempty"`

	// The statuses with which the API says that it rejects the token, from 400 to 499 without 404 and 429.
	// The token is then replaced and the request sent again (see `on_unauthorized`). A response whose
	// challenge says `insufficient_scope` (RFC 6750 §3.1) never says so. Default: 401.
	RejectedStatuses []int `json:"rejected_statuses,omitempty"`

	// The URL of the revocation endpoint (RFC 7009), where the token of a connection that is removed
	// or refreshed by hand is revoked, best effort. Default: that of the issuer's metadata, if any.
	RevocationURL string `json:"revocation_url,omitempty"`
}

// RequestParam is a further parameter of the token request. It is sent once for each of its values.
type RequestParam struct {
	// What the token endpoint knows the parameter by, such as `audience`. Required.
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

// check checks everything about a service that does not depend on a connection, apart from its texts,
// and fills in defaults.
func (s *Service) check() error {
	_, err := oauth.Method(s.AuthMethod)
	errs := []error{
		prefixAll("auth_method", err),
		setDefault(&s.BasicEncoding, "basic_encoding", encodingForm, encodingRaw),
		setDefault(&s.TokenRequestFormat, "token_request_format", oauth.FormatForm, oauth.FormatJSON, oauth.FormatQuery),
		prefixAll("token_pointer", jsonpointer.Check(s.TokenPointer)),
		prefixAll("expires_in_pointer", jsonpointer.Check(s.ExpiresInPointer)),
		s.checkTokenTypes(),
		s.checkParams(),
		checkFields("token_request_header", s.TokenRequestHeaders, refusedTokenHeader),
		s.checkAuthorization(),
		s.checkAssertionOptions(),
		checkFields("api_header", s.APIHeaders, refusedAPIHeader),
		checkFields("api_query", s.APIQuery, nil),
		s.checkResources(),
		s.Ping.check(),
		s.checkRejectedStatuses(),
	}
	if s.BaseURL == "" {
		errs = append(errs, errors.New("base_url is missing"))
	}
	switch {
	case s.TokenURL == "" && s.Issuer == "":
		errs = append(errs, errors.New("token_url is missing"))
	case s.TokenURL != "" && s.Issuer != "":
		errs = append(errs, errors.New("token_url and issuer exclude each other"))
	}
	if u, err := url.Parse(s.ScopesHelp); s.ScopesHelp != "" && (err != nil || u.Scheme == "") {
		errs = append(errs, errors.New("scopes_help must be a URL"))
	}
	if err == nil && s.BasicEncoding == encodingRaw && s.authMethod() != oauth.DefaultMethod {
		errs = append(errs, fmt.Errorf("basic_encoding is for auth_method client_secret_basic, not %s", s.AuthMethod))
	}
	for _, what := range s.AllowInsecure {
		if what != "token_url" && what != "base_url" {
			errs = append(errs, errors.New("allow_insecure: it is for token_url and base_url only"))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) allowsInsecure(what string) bool { return slices.Contains(s.AllowInsecure, what) }

func (s *Service) checkTokenTypes() error {
	if slices.Contains(s.TokenTypes, "") {
		return errors.New("token_types: a name must not be empty")
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
			errs = append(errs, fmt.Errorf("token_request_param: %s is given twice; name it once with several values", nameOr(p.Name, "one of them")))
		case len(p.Values) == 0:
			errs = append(errs, fmt.Errorf("token_request_param: %s needs a value", p.Name))
		}
		seen[p.Name] = true
	}
	return errors.Join(errs...)
}

// checkFields checks headers, some of which are refused, or query parameters, of which none is. Headers
// get their canonical names.
func checkFields(option string, fields []Field, refused func(string) bool) error {
	var errs []error
	seen := make(map[string]bool)
	for i, f := range fields {
		if refused != nil {
			if !httpguts.ValidHeaderFieldName(f.Name) {
				errs = append(errs, fmt.Errorf("%s: a name is not that of a header field", option))
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
			errs = append(errs, fmt.Errorf("%s: %s is given twice", option, nameOr(f.Name, "one of them")))
		}
		seen[f.Name] = true
	}
	return errors.Join(errs...)
}

// checkAssertionOptions checks the options of assertions, which only some methods have.
func (s *Service) checkAssertionOptions() error {
	method, err := oauth.Method(s.AuthMethod)
	if err != nil {
		return nil // it is reported already
	}
	var errs []error
	if s.AssertionTyp != "" && !method.Signs {
		errs = append(errs, fmt.Errorf("assertion_typ: nothing is signed with auth_method %s", s.authMethod()))
	}
	if s.ClientAssertionType == "" {
		return errors.Join(errs...)
	}
	if !method.NeedsKey {
		errs = append(errs, fmt.Errorf("client_assertion_type is for auth_method private_key_jwt, not %s", s.authMethod()))
	}
	if u, err := url.Parse(s.ClientAssertionType); err != nil || u.Scheme == "" || strings.ContainsAny(s.ClientAssertionType, " {}") {
		errs = append(errs, errors.New("client_assertion_type must be a URI"))
	}
	return errors.Join(errs...)
}

// checkAuthorization refuses a header Authorization of the token request where the client's own
// authentication is in it.
func (s *Service) checkAuthorization() error {
	method, err := oauth.Method(s.AuthMethod)
	given := slices.ContainsFunc(s.TokenRequestHeaders, func(f Field) bool { return http.CanonicalHeaderKey(f.Name) == "Authorization" })
	if err != nil || !given || !method.UsesHeader {
		return nil
	}
	return fmt.Errorf("token_request_header: auth_method %s uses Authorization itself: with a gateway that wants its own there, use client_secret_post if the authorization server accepts it", s.authMethod())
}

func refusedTokenHeader(field string) bool {
	return field == "Dpop" || strings.HasPrefix(field, "Content-") || httpguard.ReservedField(field)
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

// checkRejectedStatuses refuses statuses that say nothing of a token: another one would be requested in
// vain, again and again.
func (s *Service) checkRejectedStatuses() error {
	var errs []error
	for i, status := range s.RejectedStatuses {
		switch {
		case status < 400 || status > 499 || status == http.StatusNotFound || status == http.StatusTooManyRequests:
			errs = append(errs, fmt.Errorf("rejected_statuses: %d is not a status from 400 to 499 other than 404 and 429", status))
		case slices.Contains(s.RejectedStatuses[:i], status):
			errs = append(errs, fmt.Errorf("rejected_statuses: %d is given more than once", status))
		}
	}
	return errors.Join(errs...)
}

func (p *Ping) check() error {
	if p == nil {
		return nil
	}
	var errs []error
	if p.Method != "" && !httpguts.ValidHeaderFieldName(p.Method) || p.Method == http.MethodTrace || p.Method == http.MethodConnect {
		errs = append(errs, errors.New("ping: the method cannot be used"))
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

// parseText parses a text of a connector, in which placeholders of some kinds are understood, or without
// kinds one of a connection, in which {env.*} and {file.*} are.
func parseText(value string, kinds []string) (placeholder.Template, error) {
	if len(kinds) > 0 {
		return placeholder.ParseConnectors(value, kinds...)
	}
	return placeholder.Parse(value)
}

// textParser parses texts and collects the errors.
type textParser struct {
	kinds     []string   // of placeholders in a connector; none: the texts are those of a connection
	connector *Connector // whose keys the placeholders name; nil if there are none
	errs      []error

	keep  bool // whether to keep the texts
	texts []parsedText
}

// parsedText is the text of an option.
type parsedText struct {
	option string
	text   placeholder.Template
	isPath bool // the path of a file with the value
}

func (p *textParser) parse(option, value string) placeholder.Template {
	t, err := parseText(value, p.kinds)
	if err == nil {
		err = p.connector.checkKeys(t)
	}
	p.errs = append(p.errs, prefixAll(option, err))
	if p.keep && err == nil {
		p.texts = append(p.texts, parsedText{option: option, text: t})
	}
	return t
}

// path parses the path of a file.
func (p *textParser) path(option, value string) *placeholder.Template {
	t := p.optional(option, value)
	if last := len(p.texts) - 1; last >= 0 && t != nil && p.texts[last].option == option {
		p.texts[last].isPath = true
	}
	return t
}

// unreadable returns the errors of variables and files that are not there now.
func (p *textParser) unreadable() error {
	var errs []error
	for _, t := range p.texts {
		if len(t.text.Keys(placeholder.Param))+len(t.text.Keys(placeholder.Config)) > 0 {
			continue
		}
		value, err := t.text.ExpandLines(nil)
		if err == nil && t.isPath {
			_, err = placeholder.ReadFile(value)
		}
		errs = append(errs, prefixAll(t.option, err))
	}
	return errors.Join(errs...)
}

// optional parses a text, or returns nil when it is empty.
func (p *textParser) optional(option, value string) *placeholder.Template {
	if value == "" {
		return nil
	}
	t := p.parse(option, value)
	return &t
}

// url parses a URL, and checks it if it has no placeholders.
func (p *textParser) url(option, value string, insecure resolve.InsecureURLs) *placeholder.Template {
	t := p.optional(option, value)
	if t != nil && len(t.Parts) > 0 && t.IsLiteral() {
		_, err := insecure.Expand(option, *t, nil)
		p.errs = append(p.errs, err)
	}
	return t
}

func (p *textParser) fields(option string, fields []Field) []resolve.Field {
	specs := make([]resolve.Field, len(fields))
	for i, f := range fields {
		specs[i] = resolve.Field{Name: f.Name, Value: p.parse(option+" "+f.Name, f.Value)}
	}
	return specs
}

// spec checks the service and parses its texts.
func (s *Service) spec(p *textParser) *resolve.ServiceSpec {
	p.errs = append(p.errs, s.check())
	method, _ := oauth.Method(s.AuthMethod)
	insecure := resolve.InsecureURLs{Token: s.allowsInsecure("token_url"), Base: s.allowsInsecure("base_url")}
	spec := &resolve.ServiceSpec{
		BaseURL:       p.url("base_url", s.BaseURL, insecure),
		TokenURL:      p.url("token_url", s.TokenURL, insecure),
		Issuer:        p.url("issuer", s.Issuer, insecure),
		RevocationURL: p.url("revocation_url", s.RevocationURL, insecure),
		TokenHeaders:  p.fields("token_request_header", s.TokenRequestHeaders),
		APIHeaders:    p.fields("api_header", s.APIHeaders),
		APIQuery:      p.fields("api_query", s.APIQuery),

		AuthMethod:     s.authMethod(),
		Method:         method,
		RawBasic:       s.BasicEncoding == encodingRaw,
		TokenTransport: string(s.TokenTransport),

		RequireGrantedScopes: s.RequireGrantedScopes,
		AssertionTyp:         s.AssertionTyp,
		ClientAssertionType:  s.ClientAssertionType,
		SendClientID:         s.SendClientID,
		GrantType:            cmp.Or(s.GrantType, oauth.DefaultGrantType),
		RequestFormat:        s.TokenRequestFormat,
		ScopeSeparator:       cmp.Or(s.TokenRequestScopeSeparator, " "),
		TokenTypes:           s.TokenTypes,
		TokenPointer:         cmp.Or(s.TokenPointer, oauth.DefaultTokenPointer),
		ExpiresInPointer:     cmp.Or(s.ExpiresInPointer, oauth.DefaultExpiresInPointer),
		InsecureURLs:         insecure,
	}
	for _, param := range s.TokenRequestParams {
		for _, value := range param.Values {
			spec.Params = append(spec.Params, resolve.Field{Name: param.Name, Value: p.parse("token_request_param "+param.Name, value)})
		}
	}
	for _, resource := range s.Resources {
		spec.Resources = append(spec.Resources, p.parse("resource", resource))
	}
	return spec
}
