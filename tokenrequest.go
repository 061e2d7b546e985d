package httphelper

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const defaultGrantType = "client_credentials"

// errNonceGiven is a refusal by a server that wants a nonce in the DPoP proof and has given one.
var errNonceGiven = errors.New("a DPoP nonce was given")

// tokenRequest is everything that one token request needs, resolved.
type tokenRequest struct {
	tokenURL         string
	auth             clientAuth
	clientID         string
	scopes           []string
	required         []string // of the scopes: those that requireGranted is about
	requireGranted   bool
	grantType        string // "": client_credentials
	params           url.Values
	resources        []string
	headers          http.Header
	format           string // "" or form, json, query
	separator        string // between scopes; "": one space
	tokenPointer     string // "": /access_token
	expiresInPointer string // "": /expires_in
	defaultLifetime  time.Duration
	dpop             *dpopKey         // what the token shall be bound to; nil: bearer
	certificate      *tls.Certificate // what the client shows; nil: none
	secrets          []string         // known secrets, taken out of error codes
	known            *redactor        // of the secrets; nil: not needed so far

	certificateProves bool // the certificate is the proof of the client
}

// do makes the request, once more if the server wants a nonce in the DPoP proof. The error is a
// *tokenError, or ctx's when it was canceled.
func (r *tokenRequest) do(ctx context.Context, client *http.Client) (*grantedToken, error) {
	granted, err := r.try(ctx, client)
	if errors.Is(err, errNonceGiven) {
		granted, err = r.try(ctx, client)
	}
	if err != nil {
		return nil, tokenFailure(ctx, err)
	}
	return granted, nil
}

func (r *tokenRequest) try(ctx context.Context, client *http.Client) (*grantedToken, error) {
	credentials, err := r.auth.credentials(r.tokenURL)
	if err != nil {
		return nil, configurationError("proving the client: %v", err)
	}
	exchange := &tokenExchange{tokenRequest: r.guarding(credentials), credentials: credentials, client: client}
	config := clientcredentials.Config{
		ClientID:       r.clientID,
		ClientSecret:   credentials.secret,
		TokenURL:       r.tokenURL,
		AuthStyle:      credentials.style,
		EndpointParams: r.fields(credentials),
	}
	inner := context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: exchange})
	_, err = config.Token(inner)
	return exchange.granted, err
}

// guarding returns the request with the credentials among the known secrets, in each form in which
// a server that quotes its requests could give them away.
func (r *tokenRequest) guarding(c credentials) *tokenRequest {
	secrets := slices.Concat(r.secrets, []string{c.secret, c.fields.Get("client_assertion")})
	for _, secret := range secrets {
		secrets = append(secrets, url.QueryEscape(secret))
	}
	if c.style == oauth2.AuthStyleInHeader {
		header := http.Request{Header: make(http.Header)}
		c.setBasic(&header, r.clientID)
		secrets = append(secrets, strings.TrimPrefix(header.Header.Get("Authorization"), "Basic "))
	}
	guarding := *r
	guarding.secrets, guarding.known = secrets, nil
	return &guarding
}

// fields returns the request's fields without those that the library adds: id and secret.
func (r *tokenRequest) fields(c credentials) url.Values {
	fields := url.Values{"grant_type": {defaultGrantType}}
	if r.grantType != "" {
		fields.Set("grant_type", r.grantType)
	}
	if len(r.scopes) > 0 {
		fields.Set("scope", strings.Join(r.scopes, r.scopeSeparator()))
	}
	addAll(fields, r.params)
	addAll(fields, url.Values{"resource": r.resources})
	addAll(fields, c.fields)
	return fields
}

func (r *tokenRequest) scopeSeparator() string {
	if r.separator == "" {
		return " "
	}
	return r.separator
}

func addAll(to, from url.Values) {
	for name, values := range from {
		if len(values) > 0 {
			to[name] = append(to[name], values...)
		}
	}
}

// tokenExchange stands between the library and the token endpoint. It gives the request the shape
// that the service wants and judges the answer, of which the library sees no more than the token.
type tokenExchange struct {
	*tokenRequest
	credentials credentials
	client      *http.Client
	granted     *grantedToken
}

// RoundTrip implements http.RoundTripper.
func (x *tokenExchange) RoundTrip(req *http.Request) (*http.Response, error) {
	shaped, err := x.shape(req)
	if err != nil {
		return nil, err
	}
	sent := time.Now()
	resp, err := x.client.Do(shaped)
	if err != nil {
		return nil, networkFailure(req.Context(), tokenEndpoint, err)
	}
	defer resp.Body.Close()
	nonceGiven := x.dpop != nil && x.dpop.tokenNonces.set(shaped.URL, resp.Header)
	granted, err := x.judge(req.Context(), resp, sent)
	if err != nil {
		if failure := asTokenError(err); nonceGiven && failure.code == dpopNonceWanted {
			return nil, fmt.Errorf("%w: %w", errNonceGiven, failure)
		}
		return nil, err
	}
	x.granted = granted
	return plainAnswer(req, granted)
}

// shape returns the request as the service wants it.
func (x *tokenExchange) shape(req *http.Request) (*http.Request, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	out := req.Clone(req.Context())
	if x.credentials.raw {
		x.credentials.setBasic(out, x.clientID)
	}
	out.Header.Set("Accept", "application/json")
	for name, values := range x.headers {
		out.Header[http.CanonicalHeaderKey(name)] = values
	}
	if x.dpop != nil {
		if err := x.dpop.sign(out); err != nil {
			return nil, err
		}
	}
	return out, placeFields(out, string(body), x.format)
}

// placeFields puts the form-encoded fields where the format wants them.
func placeFields(req *http.Request, fields, format string) error {
	switch format {
	case "json":
		body, err := fieldsAsJSON(fields)
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		setBody(req, body)
	case "query":
		if req.URL.RawQuery != "" {
			fields = req.URL.RawQuery + "&" + fields
		}
		req.URL.RawQuery = fields
		req.Header.Del("Content-Type")
		setBody(req, nil)
	default:
		setBody(req, []byte(fields))
	}
	return nil
}

// fieldsAsJSON turns form-encoded fields into an object of strings, several values into an array.
func fieldsAsJSON(fields string) ([]byte, error) {
	values, err := url.ParseQuery(fields)
	if err != nil {
		return nil, errors.New("parsing the token request's fields")
	}
	object := make(map[string]any, len(values))
	for name, list := range values {
		object[name] = list
		if len(list) == 1 {
			object[name] = list[0]
		}
	}
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	err = encoder.Encode(object)
	return bytes.TrimSpace(body.Bytes()), err
}

func setBody(req *http.Request, body []byte) {
	req.ContentLength = int64(len(body))
	req.GetBody = func() (io.ReadCloser, error) {
		if len(body) == 0 {
			return http.NoBody, nil
		}
		return io.NopCloser(bytes.NewReader(body)), nil
	}
	req.Body, _ = req.GetBody()
}

// plainAnswer is an answer without surprises, for the library to read.
func plainAnswer(req *http.Request, t *grantedToken) (*http.Response, error) {
	body, err := json.Marshal(map[string]string{"access_token": t.value, "token_type": t.kind})
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK,
		Header:     http.Header{"Content-Type": {"application/json"}},
		Body:       io.NopCloser(bytes.NewReader(body)),
		Request:    req,
	}, nil
}

// newTokenClient returns the client for requests that carry credentials. It does not follow
// redirects, because the credentials are for the configured host only.
func newTokenClient(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: noRedirects{transport}}
}

// noRedirects makes an error of every redirect, before net/http looks at where it leads.
type noRedirects struct {
	http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t noRedirects) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 || resp.StatusCode > 399 {
		return resp, nil
	}
	resp.Body.Close()
	return nil, configurationError("the server answered with a redirect (status %d), which is not followed: check the URL", resp.StatusCode)
}

// absoluteURI has the characters of an absolute URI, which are not those of a fragment (RFC 3986 §2).
var absoluteURI = regexp.MustCompile(`^[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]+$`)

// checkResourceURI checks a resource indicator (RFC 8707 §2).
func checkResourceURI(resource string) error {
	u, err := url.Parse(resource)
	if err != nil || !u.IsAbs() || !absoluteURI.MatchString(resource) {
		return errors.New("resource: an absolute URI without a fragment is needed (RFC 8707)")
	}
	return nil
}
