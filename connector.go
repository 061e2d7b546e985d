// Copyright 2026 The caddy-httphelper Authors
//
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
//     http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

package httphelper

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
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

	// Refuse a token whose answer lists scopes but lacks a required one. Default: warn.
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

	// JSON pointer (RFC 6901) to the token in the answer. Default: `/access_token`.
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

// Connector is what an integrator writes once about a service: how to get tokens for it and what
// to ask of each connection. Only a connector can have scopes to choose from, parameters, config
// values and helper flows.
type Connector struct {
	Service

	// The scopes the connector knows. Default: none.
	Scopes []Scope `json:"scopes,omitempty"`

	// Whether connections may choose among the scopes. Default: every scope is requested.
	CustomizeScopes bool `json:"customize_scopes,omitempty"`

	// Whether connections may add scopes of their own. Needs `customize_scopes`.
	AdditionalScopes bool `json:"additional_scopes,omitempty"`

	// How a person separates scopes in one text: `space` or `comma`. Default: `space`.
	ScopesDelimiter string `json:"scopes_delimiter,omitempty"`

	// The questions asked of every connection.
	Parameters []Parameter `json:"parameters,omitempty"`

	// Values that the connector supplies itself.
	ConfigValues []ConfigValue `json:"config_values,omitempty"`

	// Helper flows that compute config values.
	Flows []Flow `json:"flows,omitempty"`

	name string
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

// Parameter is a question that a connector asks of every connection. It always needs an answer.
type Parameter struct {
	// The name under which `{param.<key>}` finds the answer. Required.
	Key string `json:"key"`

	// `text`, `password` (a secret) or `dropdown`. Required.
	Type string `json:"type"`

	// What people see. Default: the key.
	Label string `json:"label,omitempty"`

	// The choices of a dropdown, one at least.
	Options []Option `json:"options,omitempty"`

	// The choice of a dropdown when a connection makes none. Default: a choice must be made.
	Default string `json:"default,omitempty"`
}

// Option is one choice of a dropdown parameter.
type Option struct {
	// The answer. Required.
	Value string `json:"value"`

	// What people see. Default: the value.
	Label string `json:"label,omitempty"`
}

// ConfigValue is a value that the connector supplies itself, from a text or from a helper flow.
type ConfigValue struct {
	// The name under which `{config.<key>}` finds the value. Required.
	Key string `json:"key"`

	// `text` or `password` (a secret). Required.
	Type string `json:"type"`

	// What people see. Default: the key.
	Label string `json:"label,omitempty"`

	// The value. May contain `{param.<key>}`. Excludes `flow`.
	Value string `json:"value,omitempty"`

	// The name of the helper flow that computes the value. Excludes `value`.
	Flow string `json:"flow,omitempty"`

	// Whether operators do not see the value. Default: they do.
	Hidden bool `json:"hidden,omitempty"`
}

// Flow is a helper flow: how config values are computed.
type Flow struct {
	// The name that config values use. Required.
	Name string `json:"name"`

	// The guest module that does the work, with the key `type`.
	FlowRaw json.RawMessage `json:"flow" caddy:"namespace=http_helper.flows inline_key=type"`
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

// App is Caddy's app `http_helper`: the connectors and connections of one config. Handlers and
// transports find connections here by name.
type App struct {
	// How services are authenticated against, by name.
	Connectors map[string]*Connector `json:"connectors,omitempty"`

	// The uses of connectors, by name.
	Connections map[string]*Connection `json:"connections,omitempty"`

	ctx caddy.Context
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http_helper",
		New: func() caddy.Module { return new(App) },
	}
}

// Start implements caddy.App.
func (*App) Start() error { return nil }

// Stop implements caddy.App.
func (*App) Stop() error { return nil }
