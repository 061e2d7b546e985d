// Package oauth makes one token request with the client-credentials grant (RFC 6749 §4.4) and
// understands its response: it proves the client, finds the endpoints of an issuer, binds tokens to keys
// and certificates, revokes them, and says what went wrong. It keeps no token and repeats no failed
// request, and it knows neither Caddy nor the configuration: its callers pass resolved values.
package oauth

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// DefaultGrantType is the grant_type of a Request without one.
const DefaultGrantType = "client_credentials"

// Values of Request.Format.
const (
	FormatForm  = "form" // the default
	FormatJSON  = "json"
	FormatQuery = "query"
)

// errNonceGiven is the refusal of a server that requires a nonce in the DPoP proof and has sent one.
var errNonceGiven = errors.New("a DPoP nonce was given")

// Request has everything that one token request needs, resolved.
type Request struct {
	TokenURL         string
	Auth             ClientAuth
	ClientID         string
	SendClientID     bool // client_id is among the fields even if the method has it in the header
	Scopes           []string
	Required         []string // those of Scopes that RequireGranted is about
	RequireGranted   bool     // a token without a required scope is an error
	GrantType        string   // "": client_credentials
	Params           url.Values
	Resources        []string
	Headers          http.Header
	Format           string           // one of the formats; "": FormatForm
	Separator        string           // between scopes; "": one space
	TokenTypes       []string         // what a response may call bearer tokens besides Bearer
	TokenPointer     string           // "": DefaultTokenPointer
	ExpiresInPointer string           // "": DefaultExpiresInPointer
	DefaultLifetime  time.Duration    // of a token without one; 0: 5 minutes
	DPoP             *DPoPKey         // the key to bind the token to; nil: a bearer token
	Certificate      *tls.Certificate // the client certificate; nil: none
	Secrets          []string         // known secrets, which no error code or scope may reveal
	redactor         *redact.Redactor // of Secrets; nil: not needed so far

	CertificateProves bool // the client is proved by its certificate
}

// Do makes the request, and again if the server requires a nonce in the DPoP proof. The error is an
// *Error, or that of ctx when ctx was canceled.
func (r *Request) Do(ctx context.Context, client *http.Client) (*Token, error) {
	granted, err := r.try(ctx, client)
	if errors.Is(err, errNonceGiven) {
		granted, err = r.try(ctx, client)
	}
	if err != nil {
		return nil, tokenFailure(ctx, err)
	}
	return granted, nil
}

func (r *Request) try(ctx context.Context, client *http.Client) (*Token, error) {
	params, err := r.Auth(r.TokenURL)
	if err != nil {
		return nil, ConfigurationErrorf("proving the client: %v", err)
	}
	exchange := &exchange{Request: r.withSecrets(params), params: params, client: client}
	config := clientcredentials.Config{
		ClientID:       r.ClientID,
		ClientSecret:   params.Secret,
		TokenURL:       r.TokenURL,
		AuthStyle:      params.Style,
		EndpointParams: r.Fields(params),
	}
	inner := context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: exchange})
	_, err = config.Token(inner)
	return exchange.granted, err
}

// withSecrets returns the request with the client's proof among the known secrets, in every form in
// which a server that quotes its requests could reveal it.
func (r *Request) withSecrets(p AuthParams) *Request {
	secrets := slices.Concat(r.Secrets, []string{p.Secret, p.fields.Get("client_assertion")})
	for _, secret := range secrets {
		secrets = append(secrets, url.QueryEscape(secret))
	}
	if p.Style == oauth2.AuthStyleInHeader {
		header := http.Request{Header: make(http.Header)}
		p.setBasic(&header, r.ClientID)
		secrets = append(secrets, strings.TrimPrefix(header.Header.Get("Authorization"), "Basic "))
	}
	known := *r
	known.Secrets, known.redactor = secrets, nil
	return &known
}

// Fields returns the fields of the request, except client_id and client_secret where the library adds
// them.
func (r *Request) Fields(p AuthParams) url.Values {
	fields := url.Values{"grant_type": {cmp.Or(r.GrantType, DefaultGrantType)}}
	if len(r.Scopes) > 0 {
		fields.Set("scope", strings.Join(r.Scopes, cmp.Or(r.Separator, " ")))
	}
	addAll(fields, r.Params)
	addAll(fields, url.Values{"resource": r.Resources})
	addAll(fields, p.fields)
	if r.SendClientID && p.Style == oauth2.AuthStyleInHeader {
		fields.Set("client_id", r.ClientID)
	}
	return fields
}

func addAll(to, from url.Values) {
	for name, values := range from {
		if len(values) > 0 {
			to[name] = append(to[name], values...)
		}
	}
}
