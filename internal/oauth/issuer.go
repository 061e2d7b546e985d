package oauth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
)

const (
	discoveryAge   = time.Hour   // after which metadata are fetched again
	discoveryPause = time.Minute // between two attempts while older metadata serve

	// Of the time that is left, while older metadata serve, one part in so many may be spent on newer.
	discoveryShare = 4
)

// Issuer finds an authorization server's endpoints by its issuer identifier (RFC 8414, OpenID Connect
// Discovery), and remembers the metadata as long as the identifier is the same. It is safe for
// concurrent use.
type Issuer struct {
	Now func() time.Time // nil: time.Now

	mu         sync.Mutex
	identifier string // of the metadata
	metadata   *serverMetadata
	fetched    time.Time // when the metadata were requested last
	freshUntil time.Time
}

// IssuerRequest is what endpoints are requested for.
type IssuerRequest struct {
	Issuer          string
	AllowInsecure   bool   // http endpoints on other hosts than loopback
	Method          string // auth_method; "": the default
	WithCertificate bool   // the client has a certificate: endpoints that ask for one are preferred
}

// serverMetadata is what a client needs of the metadata (RFC 8414 §2, RFC 8705 §5).
type serverMetadata struct {
	Issuer string `json:"issuer"`
	Endpoints
	Aliases     Endpoints `json:"mtls_endpoint_aliases"`
	AuthMethods []string  `json:"token_endpoint_auth_methods_supported"`
}

type Endpoints struct {
	Token      string `json:"token_endpoint"`
	Revocation string `json:"revocation_endpoint"` // may be absent
}

// Endpoints returns the endpoints for a client. The error is a *Error, or ctx's when it was
// canceled.
func (i *Issuer) Endpoints(ctx context.Context, client *http.Client, r IssuerRequest) (Endpoints, error) {
	metadata, err := i.fresh(ctx, client, r)
	if err != nil {
		return Endpoints{}, err
	}
	if err := metadata.checkMethod(cmp.Or(r.Method, DefaultMethod)); err != nil {
		i.Recheck()
		return Endpoints{}, err
	}
	return metadata.choose(r.WithCertificate), nil
}

// TokenEndpoint is the token endpoint that the metadata name, empty while they are not known.
func (i *Issuer) TokenEndpoint(withCertificate bool) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.metadata == nil {
		return ""
	}
	return i.metadata.choose(withCertificate).Token
}

// Recheck has the metadata fetched again soon, because something that they say has failed.
func (i *Issuer) Recheck() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.freshUntil = i.fetched.Add(discoveryPause)
}

// fresh returns the remembered metadata while they are fresh, or cannot be refreshed.
func (i *Issuer) fresh(ctx context.Context, client *http.Client, r IssuerRequest) (*serverMetadata, error) {
	known, fresh := i.known(r.Issuer)
	if known != nil && fresh {
		return known, nil
	}
	if deadline, ok := ctx.Deadline(); ok && known != nil {
		limited, cancel := context.WithTimeout(ctx, time.Until(deadline)/discoveryShare)
		defer cancel()
		ctx = limited
	}
	fetched, err := r.fetch(ctx, client)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fetched = i.clock()
	switch {
	case err == nil:
		i.identifier, i.metadata, i.freshUntil = r.Issuer, fetched, i.fetched.Add(discoveryAge)
	case known == nil:
		return nil, err
	default:
		i.freshUntil = i.fetched.Add(discoveryPause)
	}
	return i.metadata, nil
}

// known returns the metadata of an issuer, if they are remembered, and whether they are fresh.
func (i *Issuer) known(identifier string) (metadata *serverMetadata, fresh bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.identifier != identifier {
		i.metadata = nil
	}
	return i.metadata, i.clock().Before(i.freshUntil)
}

func (i *Issuer) clock() time.Time {
	if i.Now == nil {
		return time.Now()
	}
	return i.Now()
}

// fetch tries each place where the metadata may be.
func (r IssuerRequest) fetch(ctx context.Context, client *http.Client) (*serverMetadata, error) {
	places, err := wellKnown(r.Issuer)
	if err != nil {
		return nil, err
	}
	var failure error
	for _, place := range places {
		var metadata *serverMetadata
		if metadata, err = r.fetchFrom(ctx, client, place); err == nil {
			return metadata, nil
		}
		if failure == nil || !errors.Is(err, errNoMetadata) {
			failure = err
		}
	}
	if errors.Is(failure, errNoMetadata) {
		return nil, ConfigurationErrorf("issuer: there are no metadata of an authorization server (RFC 8414): check issuer, or give token_url")
	}
	return nil, failure
}

// wellKnown returns the places of RFC 8414 §3.1 and OpenID Connect Discovery §4.
func wellKnown(issuer string) ([]string, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, ConfigurationErrorf("issuer is not a URL without query and fragment")
	}
	root, path := u.Scheme+"://"+u.Host, strings.TrimSuffix(u.EscapedPath(), "/")
	return []string{
		root + "/.well-known/oauth-authorization-server" + path,
		root + path + "/.well-known/openid-configuration",
	}, nil
}

// errNoMetadata is the answer of a place that holds none.
var errNoMetadata = errors.New("no metadata here")

func (r IssuerRequest) fetchFrom(ctx context.Context, client *http.Client, place string) (*serverMetadata, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, ConfigurationErrorf("issuer is not a URL")
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, networkFailure(ctx, "the issuer", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests:
		return nil, unavailable(resp, "the issuer")
	case resp.StatusCode != http.StatusOK:
		return nil, errNoMetadata
	}
	body, err := ReadBody(resp)
	if err != nil && !errors.Is(err, ErrUnreadable) {
		return nil, networkFailure(ctx, "the issuer", err)
	}
	return r.parse(body)
}

func (r IssuerRequest) parse(body []byte) (*serverMetadata, error) {
	metadata := new(serverMetadata)
	if json.Unmarshal(trimBOM(body), metadata) != nil {
		return nil, errNoMetadata
	}
	if metadata.Issuer != r.Issuer {
		return nil, ConfigurationErrorf("issuer: the metadata are those of another issuer: write it exactly as the authorization server does, with or without a final slash")
	}
	return metadata, r.checkEndpoints(metadata)
}

func (r IssuerRequest) checkEndpoints(m *serverMetadata) error {
	if m.Token == "" {
		return ConfigurationErrorf("issuer: the metadata name no token_endpoint")
	}
	for _, endpoint := range []string{m.Token, m.Revocation, m.Aliases.Token, m.Aliases.Revocation} {
		if endpoint == "" {
			continue
		}
		u, err := httpguard.ParseURL(endpoint)
		if err == nil {
			err = httpguard.CheckScheme(u, r.AllowInsecure, "token_url", "token_url")
		}
		if err == nil && u.Scheme != "https" && strings.HasPrefix(r.Issuer, "https:") && !r.AllowInsecure {
			err = errors.New("it is http while the issuer is https") // on loopback somebody else may listen
		}
		if err != nil {
			return ConfigurationErrorf("issuer: an endpoint in the metadata cannot be used: %v", err)
		}
	}
	return nil
}

// choose prefers the endpoints that ask for a certificate when there is one to show.
func (m *serverMetadata) choose(withCertificate bool) Endpoints {
	chosen := m.Endpoints
	if withCertificate {
		chosen.Token = cmp.Or(m.Aliases.Token, chosen.Token)
		chosen.Revocation = cmp.Or(m.Aliases.Revocation, chosen.Revocation)
	}
	return chosen
}

// checkMethod compares auth_method with what the server supports; when it does not say, that is
// client_secret_basic (RFC 8414 §2).
func (m *serverMetadata) checkMethod(method string) error {
	ours := supportedMethods(m.AuthMethods) // only names that we know are told on
	switch {
	case len(m.AuthMethods) == 0 && method == DefaultMethod, slices.Contains(ours, method):
		return nil
	case len(m.AuthMethods) == 0:
		return ConfigurationErrorf("auth_method %s: the issuer's metadata list no methods, which means %s; use that, or token_url instead of issuer", method, DefaultMethod)
	case len(ours) == 0:
		return ConfigurationErrorf("auth_method %s: the issuer's metadata list no method that is known here", method)
	default:
		return ConfigurationErrorf("auth_method %s: the issuer's metadata list only %s; use one of them, or token_url instead of issuer", method, strings.Join(ours, ", "))
	}
}
