package httphelper

import "github.com/caddyserver/caddy/v2"

// Connection is one use of a service: the client's credentials, the answers to a connector's
// parameters and the choice of scopes. It names a connector, or holds a service of its own.
//
// Placeholders `{env.*}` and `{file.*}` are resolved when the config is loaded and again at every
// token request, so that a rotated secret needs no reload. No other placeholder is understood.
type Connection struct {
	// The connector that this connection uses. Excludes the fields of a service.
	Connector string `json:"connector,omitempty"`

	*Service // nil, of thousands of connections of a connector, is less to keep and to collect

	// The client identifier (RFC 6749 §2.2). Required.
	ClientID string `json:"client_id,omitempty"`

	// The client secret. Required for the secret methods, unless `client_secret_file` is given.
	// Use a placeholder: Caddy shows a literal one in its config and its autosave.
	ClientSecret string `json:"client_secret,omitempty"`

	// File with the client secret; one trailing newline is trimmed. Excludes `client_secret`.
	ClientSecretFile string `json:"client_secret_file,omitempty"`

	// Private key for `private_key_jwt`, PEM or JWK. Excludes `client_key_file`.
	ClientKey string `json:"client_key,omitempty"`

	// File with the private key for `private_key_jwt`, PEM or JWK.
	ClientKeyFile string `json:"client_key_file,omitempty"`

	// The key id put into assertions. Default: the JWK's own, if any.
	KeyID string `json:"key_id,omitempty"`

	// The signature algorithm of assertions (RFC 7518). Default: by the key's type.
	SigningAlg string `json:"signing_alg,omitempty"`

	// The audience of assertions. Default: the issuer when known, else the token URL.
	AssertionAudience string `json:"assertion_audience,omitempty"`

	// How long an assertion is valid. Default: `60s`.
	AssertionLifetime caddy.Duration `json:"assertion_lifetime,omitempty"`

	// File with an assertion that the platform mounts, instead of a key (RFC 7523).
	ClientAssertionFile string `json:"client_assertion_file,omitempty"`

	// File with the client certificate towards the token endpoint, PEM. Needs
	// `client_certificate_key_file`.
	ClientCertificateFile string `json:"client_certificate_file,omitempty"`

	// File with the client certificate's private key, PEM.
	ClientCertificateKeyFile string `json:"client_certificate_key_file,omitempty"`

	// DPoP-bound tokens (RFC 9449). Default: bearer tokens.
	DPoP *DPoP `json:"dpop,omitempty"`

	// The answers to the connector's parameters, by key.
	Parameters map[string]Answer `json:"parameters,omitempty"`

	// The connector's scopes that are requested, the required ones always included; an empty list
	// means only those. Without a connector: the scopes themselves. Default: all of the connector's.
	Scopes []string `json:"scopes,omitzero"`

	// Further scopes in one text of at most 500 characters, separated as the connector says.
	AdditionalScopes string `json:"additional_scopes,omitempty"`

	// How long before its expiry a token is replaced in the background. Default: a fifth of its
	// life, at most 5m.
	RefreshBefore caddy.Duration `json:"refresh_before,omitempty"`

	// The life of a token when the server does not say. Default: `5m`.
	DefaultLifetime caddy.Duration `json:"default_lifetime,omitempty"`

	// The longest fetch of a token, and the longest wait for one. Default: `10s`.
	TokenTimeout caddy.Duration `json:"token_timeout,omitempty"`

	// Fetch the first token at start, and keep one ready while idle. Default: fetch at first use.
	Warm bool `json:"warm,omitempty"`
}

// ownService is the service that the connection describes itself.
func (c *Connection) ownService() *Service {
	if c.Service == nil {
		c.Service = new(Service)
	}
	return c.Service
}

// Answer is a connection's answer to a parameter: a value, or a file that holds it.
type Answer struct {
	// The answer. Excludes `file`.
	Value string `json:"value,omitempty"`

	// File with the answer; one trailing newline is trimmed.
	File string `json:"file,omitempty"`
}

// DPoP asks for tokens that are bound to a key (RFC 9449).
type DPoP struct {
	// File with the private key, PEM or JWK. Default: a key made at start.
	KeyFile string `json:"key_file,omitempty"`
}
