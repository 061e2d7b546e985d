package httphelper

import (
	"net/url"
	"slices"
	"time"
)

// connectionSpec is a connection as it is configured: what is fixed while a config runs, and the
// templates of what is read when it is needed. Templates that are nil are not configured.
type connectionSpec struct {
	*serviceSpec

	clientID                *text
	clientSecret, clientKey *text
	secretFile, keyFile     *text // paths
	assertionFile           *text // path
	keyID, audience         *text
	signingAlg              string
	assertionLifetime       time.Duration

	certificateFile, certificateKeyFile *text // paths

	dpop        bool
	dpopKeyFile *text // path

	parameterValues map[string]parameterValue

	requestedScopes []string
	requiredScopes  []string // those that a token must have when requireGrantedScopes is set

	defaultLifetime time.Duration
}

// serviceSpec is the part of a connectionSpec that all connections of a connector share.
type serviceSpec struct {
	baseURL                            *text
	tokenURL, issuer, revocationURL    *text
	params                             []paramSpec
	tokenHeaders, apiHeaders, apiQuery []fieldSpec
	resources                          []text

	authMethod     string
	method         authMethod
	rawBasic       bool
	tokenTransport string // its configuration

	requireGrantedScopes           bool
	grantType                      string
	requestFormat                  string
	scopeSeparator                 string
	tokenPointer, expiresInPointer string

	insecureURLs insecureURLs

	parameters   []parameterSpec
	configValues []configValueSpec
}

// paramSpec is an extra parameter of the token request.
type paramSpec struct {
	name   string
	values []text
}

// fieldSpec is a header or query parameter.
type fieldSpec struct {
	name  string
	value text
}

// parameterSpec is a parameter of a connector.
type parameterSpec struct {
	key      string
	password bool
	options  []string // of a dropdown; nil: any value
}

// parameterValue is the value of a parameter, or the path of a file that holds it.
type parameterValue struct {
	value text
	file  *text
}

// configValueSpec is a config value of a connector: a template, or the result of a flow.
type configValueSpec struct {
	key      string
	password bool
	hidden   bool
	value    text
	flow     *flowSpec // nil: value counts
}

// flowSpec is a helper flow of a connector.
type flowSpec struct {
	name   string
	digest string // of its configuration
	flow   flow
}

func (s *serviceSpec) parameter(key string) parameterSpec {
	i := slices.IndexFunc(s.parameters, func(p parameterSpec) bool { return p.key == key })
	return s.parameters[i]
}

func (s *serviceSpec) configValue(key string) configValueSpec {
	i := slices.IndexFunc(s.configValues, func(v configValueSpec) bool { return v.key == key })
	return s.configValues[i]
}

// insecureURLs says for which URLs http to hosts that are not loopback is permitted.
type insecureURLs struct{ token, base bool }

// expand expands the template of a URL option and checks it by the rules of its option (rule 2).
func (i insecureURLs) expand(option string, t text, values *valueSource) (*url.URL, error) {
	u, err := t.expandURL(values)
	if err == nil {
		err = checkURLOption(option, u)
	}
	if err != nil {
		return nil, withOption(option, err)
	}
	allowed, argument := i.token, "token_url"
	if option == "base_url" {
		allowed, argument = i.base, "base_url"
	}
	return u, checkScheme(u, allowed, option, argument)
}

// checkURLOption checks what the URL of an option must be beyond a URL.
func checkURLOption(option string, u *url.URL) error {
	switch option {
	case "base_url":
		return checkBaseURL(u)
	case "issuer":
		return checkIssuer(u)
	default:
		return nil
	}
}

// dependsOnFlow reports whether the value of a template needs a helper flow.
func (s *serviceSpec) dependsOnFlow(t text) bool { return len(s.flowsOf(t)) > 0 }

// flowsOf returns the helper flows that the value of a template needs.
func (s *serviceSpec) flowsOf(t text) []*flowSpec {
	var flows []*flowSpec
	for _, key := range t.keys(kindConfig) {
		if f := s.configValue(key).flow; f != nil && !slices.Contains(flows, f) {
			flows = append(flows, f)
		}
	}
	return flows
}

// constant reports whether the value of a template stays the same while the config runs.
func (s *connectionSpec) constant(t text) bool {
	if len(t.keys(kindFile)) > 0 || s.dependsOnFlow(t) {
		return false
	}
	for _, key := range t.keys(kindParam) {
		if v := s.parameterValues[key]; v.file != nil || !s.constant(v.value) {
			return false
		}
	}
	for _, key := range t.keys(kindConfig) {
		if !s.constant(s.configValue(key).value) {
			return false
		}
	}
	return true
}

// apiTemplates are the templates that requests to the API are made of.
func (s *serviceSpec) apiTemplates() []text {
	return slices.Concat([]text{*s.baseURL}, valuesOf(s.apiHeaders), valuesOf(s.apiQuery))
}

func valuesOf(fields []fieldSpec) []text {
	values := make([]text, len(fields))
	for i, f := range fields {
		values[i] = f.value
	}
	return values
}
