package resolve

import (
	"slices"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// KnownSecrets returns the secrets that must not appear in the texts of a server, as far as they are
// known without a request.
func (c *Connection) KnownSecrets() []string { return c.offlineResolver().knownSecrets() }

// knownSecrets returns the connection's secrets, its token, and the header and query values that may be
// API keys.
func (r *resolver) knownSecrets() []string {
	secrets := slices.Clone(r.connectionSecrets())
	var keys []string // what requests carry where services expect API keys
	for _, field := range slices.Concat(r.spec.TokenHeaders, r.spec.APIHeaders, r.spec.APIQuery) {
		if value, err := field.Value.Expand(r.values); err == nil {
			keys = append(keys, value)
			if field.Name == "Authorization" {
				keys = append(keys, afterScheme(value))
			}
		}
	}
	if u, err := r.url("token_url", r.spec.TokenURL); err == nil && u != nil {
		for _, query := range u.Query() {
			keys = append(keys, query...)
		}
	}
	secrets = append(secrets, slices.DeleteFunc(keys, func(key string) bool { return len(key) < redact.MinLength })...)
	if token := r.c.CurrentToken(); token != nil {
		secrets = append(secrets, token.Value)
	}
	return secrets
}

// connectionSecrets resolves the credentials, parameters and config values, and returns all secrets that
// the pass has resolved.
func (r *resolver) connectionSecrets() []string {
	_, _ = r.credentials()
	for _, p := range r.spec.Parameters {
		_, _ = r.parameter(p.Key)
	}
	for _, v := range r.spec.ConfigValues {
		_, _ = r.configValue(v.Key)
	}
	return r.secrets
}

// requestSecrets returns the secrets of the connection and of its token request, as far as they are known
// without a request.
func (r *resolver) requestSecrets() []string {
	var request oauth.Request
	_ = r.keys(&request)
	_ = r.extras(&request)
	return r.connectionSecrets()
}

// addSecret adds a value to the secrets of the pass, once.
func (r *resolver) addSecret(value string) {
	if value != "" && !slices.Contains(r.secrets, value) {
		r.secrets = append(r.secrets, value)
	}
}

// noteSecret adds a value to the secrets if it comes from the environment or a file, and is not too short
// for a secret.
func (r *resolver) noteSecret(t *placeholder.Template, value string) {
	if t.Reads() && len(value) >= redact.MinLength {
		r.addSecret(value)
	}
}

// afterScheme returns the credentials in the value of an Authorization header: a server that quotes them
// may leave out the scheme.
func afterScheme(authorization string) string {
	_, credentials, _ := strings.Cut(authorization, " ")
	return strings.TrimSpace(credentials)
}

// LiteralSecrets returns warnings about secrets that are literals in the configuration.
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
