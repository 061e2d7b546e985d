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
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

const (
	metadataLifetime = time.Hour   // after which metadata are fetched again
	metadataRetry    = time.Minute // after a failed attempt, while older metadata are in use

	// While older metadata are in use, fetching may take one fourth of the time that is left for the
	// token request.
	metadataTimeShare = 4

	maxShownIssuer = 256 // bytes of an issuer that may be shown
)

// Issuer finds the endpoints of an authorization server by its issuer identifier (RFC 8414, OpenID
// Connect Discovery). It remembers the metadata of one issuer, until another is requested. The zero
// Issuer is ready to use. It is safe for concurrent use: the lock guards what is remembered, and is not
// held while metadata are fetched.
type Issuer struct {
	Now func() time.Time // nil: time.Now. Set it before the first use.

	mu         sync.Mutex
	identifier string          // of the issuer that the metadata are of
	metadata   *serverMetadata // nil: none are known
	fetched    time.Time       // when the last attempt to fetch them ended
	freshUntil time.Time       // when to fetch them again
}

// IssuerRequest describes the client that endpoints are requested for.
type IssuerRequest struct {
	Issuer          string // the issuer identifier
	AllowInsecure   bool   // whether endpoints may be http on other hosts than loopback
	Method          string // auth_method; "": DefaultMethod
	WithCertificate bool   // the client has a certificate: prefer the endpoints that request one

	// Secrets returns known secrets, which no error may reveal. Nil: there are none.
	Secrets func() []string
}

// Endpoints are the URLs of an authorization server that clients send requests to.
type Endpoints struct {
	Token      string `json:"token_endpoint"`
	Revocation string `json:"revocation_endpoint"` // "": none
}

// serverMetadata are those metadata that a client needs (RFC 8414 §2, RFC 8705 §5).
type serverMetadata struct {
	Issuer string `json:"issuer"`
	Endpoints
	Aliases     Endpoints `json:"mtls_endpoint_aliases"`
	AuthMethods []string  `json:"token_endpoint_auth_methods_supported"`
}

// Endpoints returns the endpoints for a client. The error is an *Error, or that of ctx when ctx was
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

// TokenEndpoint returns the token endpoint in the remembered metadata, "" if there are none. It makes no
// request.
func (i *Issuer) TokenEndpoint(withCertificate bool) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.metadata == nil {
		return ""
	}
	return i.metadata.choose(withCertificate).Token
}

// Recheck has the metadata fetched again soon, because something that they say has not worked.
func (i *Issuer) Recheck() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.freshUntil = i.fetched.Add(metadataRetry)
}

// fresh returns the remembered metadata if they are fresh, or if fetching newer ones fails.
func (i *Issuer) fresh(ctx context.Context, client *http.Client, r IssuerRequest) (*serverMetadata, error) {
	known, fresh := i.known(r.Issuer)
	if known != nil && fresh {
		return known, nil
	}
	if deadline, ok := ctx.Deadline(); ok && known != nil {
		limited, cancel := context.WithTimeout(ctx, time.Until(deadline)/metadataTimeShare)
		defer cancel()
		ctx = limited
	}
	fetched, err := r.fetch(ctx, client)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fetched = i.clock()
	switch {
	case err == nil:
		i.identifier, i.metadata, i.freshUntil = r.Issuer, fetched, i.fetched.Add(metadataLifetime)
		return fetched, nil
	case known == nil:
		return nil, err
	}
	if i.metadata == known { // and not those of another issuer by now
		i.freshUntil = i.fetched.Add(metadataRetry)
	}
	return known, nil
}

// known returns the remembered metadata of an issuer, nil if there are none, and whether they are fresh.
// It forgets those of another issuer.
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

// fetch requests the metadata from each URL that they may have.
func (r IssuerRequest) fetch(ctx context.Context, client *http.Client) (*serverMetadata, error) {
	urls, err := wellKnown(r.Issuer)
	if err != nil {
		return nil, err
	}
	var failure error
	for _, u := range urls {
		var metadata *serverMetadata
		if metadata, err = r.fetchFrom(ctx, client, u); err == nil {
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

// wellKnown returns the URLs of RFC 8414 §3.1 and OpenID Connect Discovery §4.
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

// errNoMetadata is the error of a URL that has no metadata.
var errNoMetadata = errors.New("no metadata here")

func (r IssuerRequest) fetchFrom(ctx context.Context, client *http.Client, metadataURL string) (*serverMetadata, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, metadataURL, nil)
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
	case isRefusal(resp.StatusCode), resp.StatusCode < 400 && resp.StatusCode != http.StatusOK:
		return nil, errNoMetadata
	case resp.StatusCode != http.StatusOK:
		return nil, unavailable(resp, "the issuer")
	}
	body, err := ReadBody(resp)
	if err != nil && !errors.Is(err, ErrUnreadable) {
		return nil, networkFailure(ctx, "the issuer", err)
	}
	return r.parse(body)
}

// parse returns the metadata in a response, if they are the issuer's and name usable endpoints.
func (r IssuerRequest) parse(body []byte) (*serverMetadata, error) {
	metadata := new(serverMetadata)
	if json.Unmarshal(trimBOM(body), metadata) != nil {
		return nil, errNoMetadata
	}
	if metadata.Issuer != r.Issuer {
		return nil, ConfigurationErrorf("issuer: the metadata are those of another issuer%s: write it exactly as the authorization server does, with or without a final slash", r.named(metadata.Issuer))
	}
	return metadata, r.checkEndpoints(metadata)
}

// named returns the issuer that was found in brackets for an error, or "" if it may not be shown: it is a
// short plain URL that reveals nothing of a known secret.
func (r IssuerRequest) named(issuer string) string {
	u, err := httpguard.ParseURL(issuer)
	if err != nil || httpguard.CheckIssuer(u) != nil || len(issuer) > maxShownIssuer || strings.ContainsFunc(issuer, notInShownURL) {
		return ""
	}
	if r.Secrets != nil {
		if secrets := r.Secrets(); reveals(issuer, secrets, redact.New(secrets)) {
			return ""
		}
	}
	return " (" + issuer + ")"
}

func notInShownURL(c rune) bool {
	return c <= 0x20 || c > 0x7e || strings.ContainsRune("\"<>\\^`|()", c)
}

// checkEndpoints checks that requests with secrets may be sent to all endpoints.
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
			err = errors.New("it is http while the issuer is https") // another program may listen on loopback
		}
		if err != nil {
			return ConfigurationErrorf("issuer: an endpoint in the metadata cannot be used: %v", err)
		}
	}
	return nil
}

// choose returns the endpoints for a client, with a certificate those that request one.
func (m *serverMetadata) choose(withCertificate bool) Endpoints {
	chosen := m.Endpoints
	if withCertificate {
		chosen.Token = cmp.Or(m.Aliases.Token, chosen.Token)
		chosen.Revocation = cmp.Or(m.Aliases.Revocation, chosen.Revocation)
	}
	return chosen
}

// checkMethod checks that the server supports a method. If the metadata list none, that is
// client_secret_basic (RFC 8414 §2).
func (m *serverMetadata) checkMethod(method string) error {
	supported := supportedMethods(m.AuthMethods) // errors quote known names only
	switch {
	case len(m.AuthMethods) == 0 && method == DefaultMethod, slices.Contains(supported, method):
		return nil
	case len(m.AuthMethods) == 0:
		return ConfigurationErrorf("auth_method %s: the issuer's metadata list no methods, which means %s; use that, or token_url instead of issuer", method, DefaultMethod)
	case len(supported) == 0:
		return ConfigurationErrorf("auth_method %s: the issuer's metadata list no method that is known here", method)
	default:
		return ConfigurationErrorf("auth_method %s: the issuer's metadata list only %s; use one of them, or token_url instead of issuer", method, strings.Join(supported, ", "))
	}
}
