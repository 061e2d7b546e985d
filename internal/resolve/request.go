package resolve

import (
	"cmp"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// tokenRequest resolves the token request. It also runs the helper flows that only the target needs, so
// that their failure shows as a failure of the token request, and not of the first API request.
func (r *resolver) tokenRequest() (*oauth.Request, error) {
	s := r.spec
	request := &oauth.Request{
		SendClientID:      s.SendClientID,
		Scopes:            s.RequestedScopes,
		Required:          s.RequiredScopes,
		RequireGranted:    s.RequireGrantedScopes,
		GrantType:         s.GrantType,
		Format:            s.RequestFormat,
		Separator:         s.ScopeSeparator,
		TokenTypes:        s.TokenTypes,
		TokenPointer:      s.TokenPointer,
		ExpiresInPointer:  s.ExpiresInPointer,
		DefaultLifetime:   s.DefaultLifetime,
		CertificateProves: s.Method.NeedsCertificate,
	}
	_, err := r.client(request)
	if err := errors.Join(err, r.extras(request), r.flowsOfTarget()); err != nil {
		return nil, err
	}
	return request, nil
}

// client resolves the client of a request and the token endpoint. It returns the revocation endpoint, or
// "" if there is none.
func (r *resolver) client(request *oauth.Request) (revocation string, err error) {
	creds, err := r.credentials()
	request.ClientID = creds.ClientID
	keysErr := r.keys(request)
	revocation, endpointErr := r.endpoints(request, &creds)
	if err := errors.Join(err, keysErr, endpointErr); err != nil {
		return "", err
	}
	request.Auth, err = r.spec.Method.New(creds)
	return revocation, err
}

// endpoints sets the token endpoint of a request, and returns the revocation endpoint, or "" if there is
// none. The issuer is the default audience of credentials.
func (r *resolver) endpoints(request *oauth.Request, creds *oauth.Credentials) (revocation string, err error) {
	s := r.spec
	u, revocationErr := r.url("revocation_url", s.RevocationURL)
	if u != nil {
		revocation = u.String()
	}
	if s.Issuer == nil {
		u, err := r.url("token_url", s.TokenURL)
		if u != nil {
			request.TokenURL = u.String()
		}
		return revocation, errors.Join(revocationErr, err)
	}
	issuer, err := r.url("issuer", s.Issuer)
	if err != nil {
		return "", errors.Join(revocationErr, err)
	}
	r.issuer = issuer.String()
	creds.Audience = cmp.Or(creds.Audience, r.issuer)
	found, err := r.c.issuer.Endpoints(r.ctx, r.c.Client(request.Certificate), oauth.IssuerRequest{
		Issuer: r.issuer, AllowInsecure: s.InsecureURLs.Token, Method: s.AuthMethod, WithCertificate: request.Certificate != nil,
		Secrets: r.c.KnownSecrets,
	})
	if err == nil {
		scheme, _, _ := strings.Cut(found.Token, ":")
		err = s.Method.CheckEndpoint(scheme)
	}
	request.TokenURL = found.Token
	return cmp.Or(revocation, found.Revocation), errors.Join(revocationErr, err)
}

// extras resolves the parameters, headers and resources of a request.
func (r *resolver) extras(request *oauth.Request) error {
	params, err := r.params()
	headers, headersErr := r.tokenHeaders()
	request.Params, request.Headers = make(url.Values), make(http.Header)
	for _, p := range params {
		request.Params.Add(p.Name, p.Value)
	}
	for _, h := range headers {
		request.Headers.Set(h.Name, h.Value)
	}
	var resourcesErr error
	request.Resources, resourcesErr = r.resources()
	return errors.Join(err, headersErr, resourcesErr)
}

func (r *resolver) params() ([]forward.Field, error) {
	return r.fields("token_request_param", r.spec.Params, false)
}

func (r *resolver) tokenHeaders() ([]forward.Field, error) {
	return r.fields("token_request_header", r.spec.TokenHeaders, true)
}

func (r *resolver) resources() ([]string, error) {
	resources := make([]string, len(r.spec.Resources))
	errs := make([]error, len(resources))
	for i, t := range r.spec.Resources {
		resources[i], errs[i] = r.expand("resource", &t)
		if errs[i] == nil {
			errs[i] = oauth.CheckResource(resources[i])
		}
		if errs[i] != nil {
			errs[i] = r.unusable(t, errs[i])
		}
	}
	return resources, errors.Join(errs...)
}
