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

// Spec is the configuration of a connection: what is fixed while a config runs, and the templates of
// what is read when it is needed. A template is nil if its option is not set.
type Spec struct {
	*ServiceSpec

	ClientID                *placeholder.Template
	ClientSecret, ClientKey *placeholder.Template
	SecretFile, KeyFile     *placeholder.Template // paths
	KeyCertificateFile      *placeholder.Template // path
	AssertionFile           *placeholder.Template // path
	KeyID, Audience         *placeholder.Template
	SigningAlg              string
	AssertionLifetime       time.Duration

	CertificateFile, CertificateKeyFile *placeholder.Template // paths

	DPoP        bool
	DPoPKeyFile *placeholder.Template // path

	ParameterValues map[string]ParameterValue

	RequestedScopes []string
	RequiredScopes  []string // the scopes that a token must have if RequireGrantedScopes is set

	DefaultLifetime time.Duration
}

// ServiceSpec is the part of a Spec that all connections of a connector share.
type ServiceSpec struct {
	BaseURL                            *placeholder.Template
	TokenURL, Issuer, RevocationURL    *placeholder.Template
	Params                             []Field // extra parameters of the token request; a name may occur several times
	TokenHeaders, APIHeaders, APIQuery []Field
	Resources                          []placeholder.Template

	AuthMethod          string // as configured
	Method              oauth.AuthMethod
	RawBasic            bool   // basic_encoding raw
	AssertionTyp        string // "": the default
	ClientAssertionType string // "": the default
	TokenTransport      string // the configuration of token_transport; different ones share no results

	RequireGrantedScopes           bool
	SendClientID                   bool
	GrantType                      string
	RequestFormat                  string
	ScopeSeparator                 string
	TokenTypes                     []string // what a response may call bearer tokens besides Bearer
	TokenPointer, ExpiresInPointer string

	InsecureURLs InsecureURLs

	Parameters   []Parameter
	ConfigValues []ConfigValue
}

// Field is a header field, or a parameter of a query or of the token request.
type Field struct {
	Name  string
	Value placeholder.Template
}

// Parameter is a parameter of a connector.
type Parameter struct {
	Key      string
	Password bool
	Options  []string // the values that a dropdown allows; nil: any
}

// ParameterValue is the value of a parameter, or the path of a file with the value.
type ParameterValue struct {
	Value placeholder.Template
	File  *placeholder.Template
}

// ConfigValue is a config value of a connector.
type ConfigValue struct {
	Key      string
	Password bool
	Hidden   bool
	Value    placeholder.Template
	Flow     *Flow // computes the value; nil: Value does
}

// Flow is a helper flow of a connector.
type Flow struct {
	name   string
	digest string // of its configuration
	flow   flows.Flow
}

// NewFlow returns the helper flow with a name and its configuration.
func NewFlow(name string, config []byte, flow flows.Flow) *Flow {
	return &Flow{name: name, digest: digestOf(config), flow: flow}
}

func (s *ServiceSpec) parameter(key string) Parameter {
	i := slices.IndexFunc(s.Parameters, func(p Parameter) bool { return p.Key == key })
	return s.Parameters[i]
}

func (s *ServiceSpec) configValue(key string) ConfigValue {
	i := slices.IndexFunc(s.ConfigValues, func(v ConfigValue) bool { return v.Key == key })
	return s.ConfigValues[i]
}

// InsecureURLs says which URLs may be http to hosts other than loopback.
type InsecureURLs struct {
	Token bool // token_url, issuer and revocation_url
	Base  bool // base_url
}

// Expand expands the template of a URL option and checks it by the rules of its option (rule 2).
func (i InsecureURLs) Expand(option string, t placeholder.Template, values *placeholder.Values) (*url.URL, error) {
	allowed, argument, check := i.Token, "token_url", func(*url.URL) error { return nil }
	switch option {
	case "base_url":
		allowed, argument, check = i.Base, "base_url", httpguard.CheckBaseURL
	case "issuer":
		check = httpguard.CheckIssuer
	}
	u, err := t.ExpandURL(values)
	if err == nil {
		err = check(u)
	}
	if err != nil {
		return nil, withOption(option, err)
	}
	return u, httpguard.CheckScheme(u, allowed, option, argument)
}

// dependsOnFlow reports whether the value of a template needs a helper flow.
func (s *ServiceSpec) dependsOnFlow(t placeholder.Template) bool { return len(s.flowsOf(t)) > 0 }

// flowsOf returns the helper flows that the value of a template needs.
func (s *ServiceSpec) flowsOf(t placeholder.Template) []*Flow {
	var needed []*Flow
	for _, key := range t.Keys(placeholder.Config) {
		if f := s.configValue(key).Flow; f != nil && !slices.Contains(needed, f) {
			needed = append(needed, f)
		}
	}
	return needed
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

// apiTemplates returns the templates of the target.
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
