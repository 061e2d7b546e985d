// Package adminapi contains the wire format of the admin API, its paths and its JSON, and a client.
//
// The server, which fills the types in, and the command line, which reads them, share this package, so
// that neither needs the other. It knows nothing of the configuration, and no type contains a secret.
package adminapi

import (
	"net/url"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// Paths of the admin API. The path of one connection or connector ends with its name.
const (
	ConnectionsPath = "/http_helper/connections"
	ConnectorsPath  = "/http_helper/connectors"
)

// Actions of a POST to a connection, which follow its path.
const (
	RefreshAction = "/refresh" // fetches a new token now
	PingAction    = "/ping"    // makes the request that proves the connection
)

// ValuesPart follows the path of a connection in that of its Values.
const ValuesPart = "/values"

// ConnectionPath returns the path of a connection, with an action or without.
func ConnectionPath(name, action string) string {
	return ConnectionsPath + "/" + url.PathEscape(name) + action
}

// ConnectorPath returns the path of a connector.
func ConnectorPath(name string) string { return ConnectorsPath + "/" + url.PathEscape(name) }

// Connection is a connection and its state.
type Connection struct {
	Name        string      `json:"name"`
	Connector   *string     `json:"connector"` // null: defined without one
	State       token.State `json:"state"`
	AuthMethod  string      `json:"auth_method"`
	TokenURL    *string     `json:"token_url"` // null: not known until the issuer is asked
	BaseURL     string      `json:"base_url"`
	Scopes      Scopes      `json:"scopes"`
	Token       *Token      `json:"token"` // null: no live one
	Counts      Counts      `json:"counts"`
	LastError   *Failure    `json:"last_error"`   // null: the last attempt did not fail
	NextAttempt *time.Time  `json:"next_attempt"` // null: not in a back-off
	Shared      Shared      `json:"shared"`

	// What requests may use it for: both must permit a request. Absent without such a limit.
	Allow          []Allow `json:"allow,omitempty"`
	ConnectorAllow []Allow `json:"connector_allow,omitempty"`
}

// Allow permits requests with one of its methods and one of its paths. Without methods any is permitted, and
// so is any path.
type Allow struct {
	Methods []string `json:"method,omitempty"`
	Paths   []string `json:"path,omitempty"`
}

// Shared says whether replicas share the token.
type Shared struct {
	State     string  `json:"state"`      // SharedOff, SharedOn or SharedDegraded
	LastError *string `json:"last_error"` // which operation of the storage failed, and how; null: none
}

// States of sharing.
const (
	SharedOff      = "off" // not configured, or the token is bound to a key that only this process has
	SharedOn       = "on"
	SharedDegraded = "degraded" // the storage fails and is left alone; this process gets tokens of its own
)

// Scopes are the scopes of a connection. The lists are never null.
type Scopes struct {
	Requested []string `json:"requested"`
	Granted   []string `json:"granted"` // none without a token; as requested when the server does not list them
	Missing   []string `json:"missing"`
	Confirmed *bool    `json:"confirmed"` // whether the server listed the granted ones; null without a token
}

// Unconfirmed reports whether there is a token whose scopes the server has not confirmed.
func (s Scopes) Unconfirmed() bool {
	return len(s.Requested) > 0 && s.Confirmed != nil && !*s.Confirmed
}

// Token contains the times of a token. The token itself is never shown.
type Token struct {
	Obtained time.Time `json:"obtained"`
	Expires  time.Time `json:"expires"`
	Refresh  time.Time `json:"refresh"`
	Source   string    `json:"source"` // SourceOwn or SourceShared
}

// Sources of tokens.
const (
	SourceOwn    = "own"    // a token request of this process
	SourceShared = "shared" // the storage; expires is then earlier, for clocks that differ
)

// Counts are what has happened since the connection came into use.
type Counts struct {
	TokenRequests uint64 `json:"token_requests"`
	TokenFailures uint64 `json:"token_failures"`
	Rejected      uint64 `json:"rejected"` // tokens, by the API
	Adopted       uint64 `json:"adopted"`  // tokens, from the storage
}

// Failure is the failure of the last token request.
type Failure struct {
	At      time.Time   `json:"at"`
	Class   oauth.Class `json:"class"`
	Code    *string     `json:"code"` // null: the server gave none that may be shown
	Message string      `json:"message"`
}

// Reason returns the failure in words, with the server's error code, as in the log.
func (f *Failure) Reason() string {
	if f.Code == nil {
		return f.Message
	}
	return f.Message + " (" + *f.Code + ")"
}

// Ping is the result of a ping. Without a response of the API, its status and body are null.
type Ping struct {
	Working  bool         `json:"working"`
	Response PingResponse `json:"service_response"`
}

// PingResponse is the API's response, and what it means.
type PingResponse struct {
	StatusCode *int    `json:"status_code"`
	Message    string  `json:"message"`
	Body       *string `json:"response_body"`
}

// Connector is a connector as a form: what it asks of a new connection.
type Connector struct {
	Name         string        `json:"name"`
	Label        string        `json:"label"`
	AuthMethod   string        `json:"auth_method"`
	TokenURL     *string       `json:"token_url"` // as written, without query; null: found by the issuer
	BaseURL      string        `json:"base_url"`  // as written
	Fields       []Field       `json:"fields"`
	ConfigValues []ConfigValue `json:"config_values"`
	Allow        []Allow       `json:"allow,omitempty"` // what all connections are limited to; absent without such a limit
	Scopes       []Scope       `json:"scopes"`
	Permissions  Permissions   `json:"permissions"`
	Connections  []string      `json:"connections"` // that use it
}

// Field is a field of the form. The fixed ones come first; they are options of a connection, the
// others its parameters.
type Field struct {
	Key     string   `json:"key"`
	Type    string   `json:"type"`
	Label   string   `json:"label"`
	Fixed   bool     `json:"fixed"`
	Options []Option `json:"options,omitempty"`
	Default string   `json:"default,omitempty"`
}

// Types of fields.
const (
	TypeText     = "text"
	TypePassword = "password"
	TypeDropdown = "dropdown"
	TypeFile     = "file" // a path
)

// Option is one choice of a dropdown.
type Option struct {
	Value string `json:"value"`
	Label string `json:"label"`
}

// ConfigValue is a config value that operators may see, as it is written. That of a password or of a
// helper flow is not shown.
type ConfigValue struct {
	Key   string  `json:"key"`
	Type  string  `json:"type"`
	Label string  `json:"label"`
	Value *string `json:"value"`
	Flow  *string `json:"flow"`
}

// Values are the values of a connection's parameters, and its connector's config values that operators may
// see, as they are now: without placeholders, but without secrets too. The lists are never null.
type Values struct {
	Parameters   []ParameterValue `json:"parameters"`
	ConfigValues []ConfigValue    `json:"config_values"`
}

// ParameterValue is the value of a parameter.
type ParameterValue struct {
	Key   string  `json:"key"`
	Type  string  `json:"type"`
	Label string  `json:"label"`
	Value *string `json:"value"` // null: it is a secret, or not known
}

// Scope is a scope of a connector.
type Scope struct {
	Name        string  `json:"name"`
	Required    bool    `json:"required"` // requested even where connections may choose
	Description *string `json:"description"`
}

// MaxAdditionalScopes is the most characters that additional scopes may have.
const MaxAdditionalScopes = 500

// Permissions say what a connection may choose.
type Permissions struct {
	CustomizeScopes  bool    `json:"customize_scopes"`
	AdditionalScopes bool    `json:"additional_scopes"`
	ScopesDelimiter  string  `json:"scopes_delimiter"`
	ScopesHelp       *string `json:"scopes_help"`
}
