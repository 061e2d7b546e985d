package oauth

import (
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

const DefaultGrantType = "client_credentials"

// errNonceGiven is a refusal by a server that wants a nonce in the DPoP proof and has given one.
var errNonceGiven = errors.New("a DPoP nonce was given")

// Request is everything that one token request needs, resolved.
type Request struct {
	TokenURL         string
	Auth             ClientAuth
	ClientID         string
	Scopes           []string
	Required         []string // of the scopes: those that RequireGranted is about
	RequireGranted   bool
	GrantType        string // "": client_credentials
	Params           url.Values
	Resources        []string
	Headers          http.Header
	Format           string // "" or form, json, query
	Separator        string // between scopes; "": one space
	TokenPointer     string // "": /access_token
	ExpiresInPointer string // "": /expires_in
	DefaultLifetime  time.Duration
	DPoP             *DPoPKey         // what the token shall be bound to; nil: bearer
	Certificate      *tls.Certificate // what the client shows; nil: none
	Secrets          []string         // known secrets, taken out of error codes
	redactor         *redact.Redactor // of the secrets; nil: not needed so far

	CertificateProves bool // the certificate is the proof of the client
}

// Do makes the request, once more if the server wants a nonce in the DPoP proof. The error is a
// *Error, or ctx's when it was canceled.
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
	credentials, err := r.Auth.Params(r.TokenURL)
	if err != nil {
		return nil, ConfigurationErrorf("proving the client: %v", err)
	}
	exchange := &exchange{Request: r.withSecrets(credentials), credentials: credentials, client: client}
	config := clientcredentials.Config{
		ClientID:       r.ClientID,
		ClientSecret:   credentials.Secret,
		TokenURL:       r.TokenURL,
		AuthStyle:      credentials.Style,
		EndpointParams: r.Fields(credentials),
	}
	inner := context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: exchange})
	_, err = config.Token(inner)
	return exchange.granted, err
}

// withSecrets returns the request with the credentials among the known secrets, in each form in which
// a server that quotes its requests could give them away.
func (r *Request) withSecrets(c AuthParams) *Request {
	secrets := slices.Concat(r.Secrets, []string{c.Secret, c.fields.Get("client_assertion")})
	for _, secret := range secrets {
		secrets = append(secrets, url.QueryEscape(secret))
	}
	if c.Style == oauth2.AuthStyleInHeader {
		header := http.Request{Header: make(http.Header)}
		c.setBasic(&header, r.ClientID)
		secrets = append(secrets, strings.TrimPrefix(header.Header.Get("Authorization"), "Basic "))
	}
	guarding := *r
	guarding.Secrets, guarding.redactor = secrets, nil
	return &guarding
}

// Fields returns the request's fields without those that the library adds: id and secret.
func (r *Request) Fields(c AuthParams) url.Values {
	fields := url.Values{"grant_type": {DefaultGrantType}}
	if r.GrantType != "" {
		fields.Set("grant_type", r.GrantType)
	}
	if len(r.Scopes) > 0 {
		fields.Set("scope", strings.Join(r.Scopes, r.scopeSeparator()))
	}
	addAll(fields, r.Params)
	addAll(fields, url.Values{"resource": r.Resources})
	addAll(fields, c.fields)
	return fields
}

func (r *Request) scopeSeparator() string {
	if r.Separator == "" {
		return " "
	}
	return r.Separator
}

func addAll(to, from url.Values) {
	for name, values := range from {
		if len(values) > 0 {
			to[name] = append(to[name], values...)
		}
	}
}

// values of token_request_format

const FormatForm = "form"
