package resolve

import (
	"net/url"
	"slices"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// Spec is a connection as it is configured: what is fixed while a config runs, and the
// templates of what is read when it is needed. Templates that are nil are not configured.
type Spec struct {
	*ServiceSpec

	ClientID                *placeholder.Template
	ClientSecret, ClientKey *placeholder.Template
	SecretFile, KeyFile     *placeholder.Template // paths
	AssertionFile           *placeholder.Template // path
	KeyID, Audience         *placeholder.Template
	SigningAlg              string
	AssertionLifetime       time.Duration

	CertificateFile, CertificateKeyFile *placeholder.Template // paths

	DPoP        bool
	DPoPKeyFile *placeholder.Template // path

	ParameterValues map[string]ParameterValue

	RequestedScopes []string
	RequiredScopes  []string // those that a token must have when RequireGrantedScopes is set

	DefaultLifetime time.Duration
}

// ServiceSpec is the part of a Spec that all connections of a connector share.
type ServiceSpec struct {
	BaseURL                            *placeholder.Template
	TokenURL, Issuer, RevocationURL    *placeholder.Template
	Params                             []RequestParam
	TokenHeaders, APIHeaders, APIQuery []Field
	Resources                          []placeholder.Template

	AuthMethod     string
	Method         oauth.AuthMethod
	RawBasic       bool
	TokenTransport string // its configuration

	RequireGrantedScopes           bool
	GrantType                      string
	RequestFormat                  string
	ScopeSeparator                 string
	TokenPointer, ExpiresInPointer string

	InsecureURLs InsecureURLs

	Parameters   []Parameter
	ConfigValues []ConfigValue
}

// RequestParam is an extra parameter of the token request.
type RequestParam struct {
	Name   string
	Values []placeholder.Template
}

// Field is a header or query parameter.
type Field struct {
	Name  string
	Value placeholder.Template
}

// Parameter is a parameter of a connector.
type Parameter struct {
	Key      string
	Password bool
	Options  []string // of a dropdown; nil: any value
}

// ParameterValue is the value of a parameter, or the path of a file that holds it.
type ParameterValue struct {
	Value placeholder.Template
	File  *placeholder.Template
}

// ConfigValue is a config value of a connector: a template, or the result of a flow.
type ConfigValue struct {
	Key      string
	Password bool
	Hidden   bool
	Value    placeholder.Template
	Flow     *Flow // nil: value counts
}

// Flow is a helper flow of a connector.
type Flow struct {
	Name   string
	Digest string // of its configuration
	Flow   flows.Flow
}

func (s *ServiceSpec) parameter(key string) Parameter {
	i := slices.IndexFunc(s.Parameters, func(p Parameter) bool { return p.Key == key })
	return s.Parameters[i]
}

func (s *ServiceSpec) configValue(key string) ConfigValue {
	i := slices.IndexFunc(s.ConfigValues, func(v ConfigValue) bool { return v.Key == key })
	return s.ConfigValues[i]
}

// InsecureURLs says for which URLs http to hosts that are not loopback is permitted.
type InsecureURLs struct{ Token, Base bool }

// Expand expands the template of a URL option and checks it by the rules of its option (rule 2).
func (i InsecureURLs) Expand(option string, t placeholder.Template, values *placeholder.Values) (*url.URL, error) {
	u, err := t.ExpandURL(values)
	if err == nil {
		err = checkURLOption(option, u)
	}
	if err != nil {
		return nil, withOption(option, err)
	}
	allowed, argument := i.Token, "token_url"
	if option == "base_url" {
		allowed, argument = i.Base, "base_url"
	}
	return u, httpguard.CheckScheme(u, allowed, option, argument)
}

// checkURLOption checks what the URL of an option must be beyond a URL.
func checkURLOption(option string, u *url.URL) error {
	switch option {
	case "base_url":
		return httpguard.CheckBaseURL(u)
	case "issuer":
		return httpguard.CheckIssuer(u)
	default:
		return nil
	}
}

// dependsOnFlow reports whether the value of a template needs a helper flow.
func (s *ServiceSpec) dependsOnFlow(t placeholder.Template) bool { return len(s.flowsOf(t)) > 0 }

// flowsOf returns the helper flows that the value of a template needs.
func (s *ServiceSpec) flowsOf(t placeholder.Template) []*Flow {
	var flows []*Flow
	for _, key := range t.Keys(placeholder.Config) {
		if f := s.configValue(key).Flow; f != nil && !slices.Contains(flows, f) {
			flows = append(flows, f)
		}
	}
	return flows
}

// constant reports whether the value of a template stays the same while the config runs.
func (s *Spec) constant(t placeholder.Template) bool {
	if len(t.Keys(placeholder.File)) > 0 || s.dependsOnFlow(t) {
		return false
	}
	for _, key := range t.Keys(placeholder.Param) {
		if v := s.ParameterValues[key]; v.File != nil || !s.constant(v.Value) {
			return false
		}
	}
	for _, key := range t.Keys(placeholder.Config) {
		if !s.constant(s.configValue(key).Value) {
			return false
		}
	}
	return true
}

// apiTemplates are the templates that requests to the API are made of.
func (s *ServiceSpec) apiTemplates() []placeholder.Template {
	return slices.Concat([]placeholder.Template{*s.BaseURL}, valuesOf(s.APIHeaders), valuesOf(s.APIQuery))
}

func valuesOf(fields []Field) []placeholder.Template {
	values := make([]placeholder.Template, len(fields))
	for i, f := range fields {
		values[i] = f.Value
	}
	return values
}

// LiteralSecrets are warnings about secrets that are literals in the configuration.
func (s *Spec) LiteralSecrets() []string {
	var warnings []string
	warn := func(option string) {
		warnings = append(warnings, option+" is a literal in the configuration, where Caddy shows it: use {env.*}, {file.*} or a file")
	}
	if s.ClientSecret != nil && s.ClientSecret.IsLiteral() {
		warn("client_secret")
	}
	if s.ClientKey != nil && s.ClientKey.IsLiteral() {
		warn("client_key")
	}
	for _, p := range s.Parameters {
		if v := s.ParameterValues[p.Key]; p.Password && v.File == nil && v.Value.IsLiteral() {
			warn("parameter " + p.Key)
		}
	}
	for _, v := range s.ConfigValues {
		if v.Password && v.Flow == nil && v.Value.IsLiteral() {
			warn("config_value " + v.Key)
		}
	}
	return warnings
}
