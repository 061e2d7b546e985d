package httphelper

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
)

// Connection is a client's access to a service: its credentials, the values of the connector's
// parameters, and the scopes that it requests. It names a connector, or describes a service itself.
//
// The placeholders `{env.*}` and `{file.*}` are resolved when the config is loaded and at every token
// request, so that a rotated secret needs no reload. Other placeholders are errors.
type Connection struct {
	// The name of the connector. Excludes the fields of a service. Default: none; the connection
	// describes its service itself.
	Connector string `json:"connector,omitempty"`

	*Service // a pointer, since thousands of connections may have a connector instead

	// The client identifier (RFC 6749 §2.2). Required.
	ClientID string `json:"client_id,omitempty"`

	// The client secret. Use a placeholder: a literal secret is readable in Caddy's config and in its
	// autosave. Required for the methods `client_secret_*`, unless `client_secret_file` is given.
	ClientSecret string `json:"client_secret,omitempty"`

	// The path of a file with the client secret, read at every token request. One trailing newline is
	// trimmed. Excludes `client_secret`.
	ClientSecretFile string `json:"client_secret_file,omitempty"`

	// The private key for `private_key_jwt`, in PEM or as a JWK. Use a placeholder, as for
	// `client_secret`. Excludes `client_key_file`.
	ClientKey string `json:"client_key,omitempty"`

	// The path of a file with the private key for `private_key_jwt`, in PEM or as a JWK, read at every
	// token request. Excludes `client_key`.
	ClientKeyFile string `json:"client_key_file,omitempty"`

	// The path of a PEM file whose first certificate belongs to the private key. Assertions carry its
	// thumbprint (`x5t#S256`, RFC 7515 §4.1.8), as Microsoft Entra ID demands. It is read with the key at
	// every token request. One that does not fit the key is an error when the config is loaded; later,
	// while both are replaced, the last pair that fitted is used for 10 seconds. Default: none.
	ClientKeyCertificate string `json:"client_key_certificate,omitempty"`

	// The key id (`kid`) in assertions. Default: that of the JWK, if any.
	KeyID string `json:"key_id,omitempty"`

	// The algorithm that signs assertions (RFC 7518). Default: one that fits the key.
	SigningAlg string `json:"signing_alg,omitempty"`

	// The audience (`aud`) of assertions. Default: the issuer if `issuer` is given, else the token URL.
	AssertionAudience string `json:"assertion_audience,omitempty"`

	// How long an assertion is valid: at least one second, at most `24h`. Default: `60s`.
	AssertionLifetime caddy.Duration `json:"assertion_lifetime,omitempty"`

	// The path of a file with an assertion that the platform provides (RFC 7523), instead of a key. It
	// is read at every token request.
	ClientAssertionFile string `json:"client_assertion_file,omitempty"`

	// The path of a PEM file with the client certificate, which is presented to the token endpoint
	// (RFC 8705). Tokens that are bound to it are sent with it. Needs `client_certificate_key_file`.
	ClientCertificateFile string `json:"client_certificate_file,omitempty"`

	// The path of a PEM file with the client certificate's private key. Needs
	// `client_certificate_file`.
	ClientCertificateKeyFile string `json:"client_certificate_key_file,omitempty"`

	// Requests tokens that are bound to a key by DPoP (RFC 9449). Default: bearer tokens.
	DPoP *DPoP `json:"dpop,omitempty"`

	// The values of the connector's parameters, by key.
	Parameters map[string]ParameterValue `json:"parameters,omitempty"`

	// The scopes to request. With a connector, these are some of its scopes; the required ones are
	// always requested, and an empty list requests only those. Default: all of the connector's scopes,
	// or none without a connector.
	Scopes []string `json:"scopes,omitzero"`

	// Further scopes to request, in one text of at most 500 characters, separated as the connector's
	// `scopes_delimiter` says.
	AdditionalScopes string `json:"additional_scopes,omitempty"`

	// What requests may use the credentials for: a request must be permitted by one of these rules, and by
	// one of the connector's if there are any, else it gets a 403 and is not sent. So does one with
	// `X-HTTP-Method-Override`, `X-HTTP-Method`, `X-Method-Override`, `X-Original-URL` or `X-Rewrite-URL`, by
	// which some servers take a request for another. Without a connector, the `ping` must be permitted too;
	// the connector's ping and health checks need no permission. An empty list is an error. Default: all
	// requests.
	Allow []Allow `json:"allow,omitempty"`

	// How long before it expires a token is refreshed in the background. Default: a fifth of its
	// lifetime, at most `5m`. At most `24h`.
	RefreshBefore caddy.Duration `json:"refresh_before,omitempty"`

	// The lifetime of a token whose response does not say it, at most `24h`. One whose response says zero
	// lives a second, and this if the next response says zero too. Default: `5m`.
	DefaultLifetime caddy.Duration `json:"default_lifetime,omitempty"`

	// The longest time that fetching a token may take, and that a request waits for one, at most `1h`.
	// Default: `10s`.
	TokenTimeout caddy.Duration `json:"token_timeout,omitempty"`

	// Whether the first token is fetched when the config starts, and is refreshed without requests.
	// Default: false, a token is fetched at first use.
	Warm bool `json:"warm,omitempty"`
}

// ownService returns the service that the connection describes itself.
func (c *Connection) ownService() *Service {
	if c.Service == nil {
		c.Service = new(Service)
	}
	return c.Service
}

// ParameterValue is the value of a parameter, or a file with the value.
type ParameterValue struct {
	// The value. Placeholders in it are resolved at every token request. Excludes `file`.
	Value string `json:"value,omitempty"`

	// The path of a file with the value, read at every token request. One trailing newline is trimmed.
	// Excludes `value`.
	File string `json:"file,omitempty"`
}

// DPoP requests tokens that are bound to a key (RFC 9449).
type DPoP struct {
	// The path of a file with the private key, in PEM or as a JWK. Default: a key that is generated.
	KeyFile string `json:"key_file,omitempty"`
}

// configuredConnection is a connection with the service that it uses.
type configuredConnection struct {
	name      string
	config    *Connection // nil once a connection is active
	connector *Connector  // nil: the connection describes its service itself
	service   *Service
	allowList httpguard.AllowList // the connection's own
}

// configure returns a connection with its service: the connector's or its own.
func (a *App) configure(name string, config *Connection) (*configuredConnection, error) {
	c := &configuredConnection{name: name, config: config}
	if config.Connector == "" {
		c.service = config.ownService()
		return c, nil
	}
	if c.connector = a.Connectors[config.Connector]; c.connector == nil {
		return nil, unknownName("connector", config.Connector, "", slices.Sorted(maps.Keys(a.Connectors)))
	}
	if own := config.Service; own != nil && !reflect.ValueOf(*own).IsZero() {
		return nil, fmt.Errorf("options of the service belong into the connector %s", config.Connector)
	}
	c.service = &c.connector.Service
	return c, nil
}

// parse checks the connection without the environment and files that it needs, and parses its texts. A
// connector has been checked before.
func (c *configuredConnection) parse() (*resolve.Spec, error) {
	var p textParser
	spec := c.spec(&p)
	if _, err := oauth.Method(c.service.AuthMethod); err == nil {
		p.errs = append(p.errs, c.checkOptions())
	}
	p.errs = append(p.errs, c.parseAllow())
	if !strings.Contains(strings.Join(c.config.Scopes, "")+c.config.AdditionalScopes, "{") {
		_, _, _, err := c.connector.requestedScopes(c.config)
		p.errs = append(p.errs, err)
	}
	return spec, errors.Join(p.errs...)
}

// parseAllow parses what requests may use the connection for. Its ping must be among that, but not one of its
// connector, whose author does not know the connection.
func (c *configuredConnection) parseAllow() (err error) {
	c.allowList, err = c.service.parseAllow(c.config.Allow)
	if err == nil && c.connector == nil {
		err = c.service.checkPing(c.allowList)
	}
	return err
}

// unreadable returns the errors of what is not there now of the variables and files that the connection
// needs, as far as that is known without its connector's values.
func (c *configuredConnection) unreadable() error {
	p := textParser{keep: true}
	c.spec(&p)
	for _, scope := range c.config.Scopes {
		p.optional("scopes", scope)
	}
	p.optional("additional_scopes", c.config.AdditionalScopes)
	return p.unreadable()
}

// resolveScopes sets the scopes that the connection requests.
func (c *configuredConnection) resolveScopes(spec *resolve.Spec) (warnings []string, err error) {
	spec.RequestedScopes, spec.RequiredScopes, warnings, err = c.connector.requestedScopes(c.config)
	return warnings, err
}

// accepts checks that the header with the token is not one of the service's api_headers.
func (c *configuredConnection) accepts(p *RequestPolicy) error {
	for _, f := range c.service.APIHeaders {
		if f.Name == p.tokenField() {
			return fmt.Errorf("api_header %s is where the token goes", f.Name)
		}
	}
	return nil
}

// checkOptions checks that the connection's options are complete and agree with each other.
func (c *configuredConnection) checkOptions() error {
	conn := c.config
	errs := []error{c.checkCredentialOptions(), c.checkParameters()}
	if conn.ClientID == "" {
		errs = append(errs, errors.New("client_id is missing"))
	}
	durations := map[string]caddy.Duration{
		"refresh_before": conn.RefreshBefore, "default_lifetime": conn.DefaultLifetime,
		"token_timeout": conn.TokenTimeout, "assertion_lifetime": conn.AssertionLifetime,
	}
	for _, option := range slices.Sorted(maps.Keys(durations)) {
		most := 24 * time.Hour
		if option == "token_timeout" {
			most = time.Hour
		}
		switch duration := time.Duration(durations[option]); {
		case duration < 0:
			errs = append(errs, fmt.Errorf("%s must not be negative", option))
		case duration > most:
			errs = append(errs, fmt.Errorf("%s must be at most %dh", option, int(most.Hours())))
		}
	}
	if lifetime := time.Duration(conn.AssertionLifetime); lifetime > 0 && lifetime < time.Second {
		errs = append(errs, errors.New("assertion_lifetime must be a second at least, the resolution of the times in an assertion"))
	}
	return errors.Join(errs...)
}

// checkCredentialOptions compares the given credentials with what the authentication method needs.
func (c *configuredConnection) checkCredentialOptions() error {
	conn, name := c.config, c.service.authMethod()
	method, _ := oauth.Method(name)
	var errs []error
	given := func(options map[string]string) []string {
		return slices.DeleteFunc(slices.Sorted(maps.Keys(options)), func(option string) bool { return options[option] == "" })
	}
	one := func(needed bool, names []string, need string) {
		switch {
		case len(names) > 1:
			errs = append(errs, fmt.Errorf("%s exclude each other", strings.Join(names, " and ")))
		case needed && len(names) == 0:
			errs = append(errs, fmt.Errorf("auth_method %s needs %s", name, need))
		case !needed && len(names) == 1:
			errs = append(errs, fmt.Errorf("%s is not for auth_method %s", names[0], name))
		}
	}
	one(method.NeedsSecret, given(map[string]string{"client_secret": conn.ClientSecret, "client_secret_file": conn.ClientSecretFile}),
		"client_secret or client_secret_file")
	one(method.NeedsKey, given(map[string]string{"client_key": conn.ClientKey, "client_key_file": conn.ClientKeyFile, "client_assertion_file": conn.ClientAssertionFile}),
		"client_key_file, client_key or client_assertion_file")
	signing := given(map[string]string{"key_id": conn.KeyID, "signing_alg": conn.SigningAlg, "assertion_audience": conn.AssertionAudience})
	if conn.AssertionLifetime != 0 {
		signing = append(signing, "assertion_lifetime")
	}
	if conn.ClientKeyCertificate != "" && conn.ClientKey == "" && conn.ClientKeyFile == "" {
		errs = append(errs, errors.New("client_key_certificate needs client_key_file or client_key, which it belongs to"))
	}
	if len(signing) > 0 && (!method.Signs || conn.ClientAssertionFile != "") {
		errs = append(errs, fmt.Errorf("%s: nothing is signed here with auth_method %s", strings.Join(signing, ", "), name))
	}
	switch {
	case (conn.ClientCertificateFile == "") != (conn.ClientCertificateKeyFile == ""):
		errs = append(errs, errors.New("client_certificate needs both the certificate's file and the key's"))
	case method.NeedsCertificate && conn.ClientCertificateFile == "":
		errs = append(errs, fmt.Errorf("auth_method %s needs client_certificate", name))
	}
	return errors.Join(errs...)
}

// checkParameters compares the connection's parameter values with the connector's parameters.
func (c *configuredConnection) checkParameters() error {
	if c.connector == nil {
		if len(c.config.Parameters) > 0 {
			return errors.New("parameter needs a connector that asks for it")
		}
		return nil
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(c.config.Parameters)) {
		if value := c.config.Parameters[key]; value.Value != "" && value.File != "" {
			errs = append(errs, fmt.Errorf("parameter %s: parameter and parameter_file exclude each other", key))
		}
		if !c.connector.hasParameter(key) {
			errs = append(errs, fmt.Errorf("parameter %s: the connector %s has no such parameter%s", shownName(key), c.connector.name, c.connector.similar(key)))
		}
	}
	for _, p := range c.connector.Parameters {
		if c.parameterValue(p) == (ParameterValue{}) {
			errs = append(errs, fmt.Errorf("parameter %s is missing: the connector %s asks for it", p.Key, c.connector.name))
		}
	}
	return errors.Join(errs...)
}

// parameterValue returns the connection's value of a parameter, or a dropdown's default.
func (c *configuredConnection) parameterValue(p Parameter) ParameterValue {
	if value, ok := c.config.Parameters[p.Key]; ok && value != (ParameterValue{}) {
		return value
	}
	return ParameterValue{Value: p.Default}
}

// spec parses the connection's texts.
func (c *configuredConnection) spec(p *textParser) *resolve.Spec {
	conn := c.config
	s := &resolve.Spec{
		ClientID:           p.optional("client_id", conn.ClientID),
		ClientSecret:       p.optional("client_secret", conn.ClientSecret),
		ClientKey:          p.optional("client_key", conn.ClientKey),
		KeyID:              p.optional("key_id", conn.KeyID),
		Audience:           p.optional("assertion_audience", conn.AssertionAudience),
		SecretFile:         p.path("client_secret_file", conn.ClientSecretFile),
		KeyFile:            p.path("client_key_file", conn.ClientKeyFile),
		KeyCertificateFile: p.path("client_key_certificate", conn.ClientKeyCertificate),
		AssertionFile:      p.path("client_assertion_file", conn.ClientAssertionFile),
		CertificateFile:    p.path("client_certificate", conn.ClientCertificateFile),
		CertificateKeyFile: p.path("client_certificate", conn.ClientCertificateKeyFile),
		DPoP:               conn.DPoP != nil,
		SigningAlg:         conn.SigningAlg,
		AssertionLifetime:  time.Duration(conn.AssertionLifetime),
		DefaultLifetime:    time.Duration(conn.DefaultLifetime),
	}
	if conn.DPoP != nil {
		s.DPoPKeyFile = p.path("dpop", conn.DPoP.KeyFile)
	}
	if c.connector == nil {
		s.ServiceSpec = c.service.spec(p)
		return s
	}
	s.ServiceSpec = c.connector.spec
	s.ParameterValues = make(map[string]resolve.ParameterValue)
	for _, param := range c.connector.Parameters {
		value := c.parameterValue(param)
		s.ParameterValues[param.Key] = resolve.ParameterValue{
			Value: p.parse("parameter "+param.Key, value.Value),
			File:  p.path("parameter_file "+param.Key, value.File),
		}
	}
	return s
}
