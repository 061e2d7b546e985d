package httphelper

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	discoveryAge   = time.Hour   // after which metadata are fetched again
	discoveryPause = time.Minute // between two attempts while older metadata serve

	// Of the time that is left, while older metadata serve, one part in so many may be spent on newer.
	discoveryShare = 4
)

// discovery finds an authorization server's endpoints by its issuer identifier (RFC 8414, OpenID
// Connect Discovery). It is safe for concurrent use.
type discovery struct {
	issuer        string
	allowInsecure bool             // http endpoints on other hosts than loopback
	now           func() time.Time // nil: time.Now

	mu    sync.Mutex
	known *serverMetadata
	asked time.Time // when the issuer was asked last
	until time.Time // when it is to be asked again
}

// serverMetadata is what a client needs of the metadata (RFC 8414 §2, RFC 8705 §5).
type serverMetadata struct {
	Issuer string `json:"issuer"`
	endpoints
	Aliases     endpoints `json:"mtls_endpoint_aliases"`
	AuthMethods []string  `json:"token_endpoint_auth_methods_supported"`
}

type endpoints struct {
	Token      string `json:"token_endpoint"`
	Revocation string `json:"revocation_endpoint"` // may be absent
}

// find returns the endpoints for a client with this auth_method. With a client certificate they are
// those that ask for one. The error is a *tokenError, or ctx's when it was canceled.
func (d *discovery) find(ctx context.Context, client *http.Client, method string, withCertificate bool) (endpoints, error) {
	metadata, err := d.metadata(ctx, client)
	if err != nil {
		return endpoints{}, err
	}
	if err := metadata.checkMethod(orDefault(method, defaultAuthMethod)); err != nil {
		d.doubt()
		return endpoints{}, err
	}
	return metadata.choose(withCertificate), nil
}

// metadata returns the cached metadata while they are fresh, or cannot be refreshed.
func (d *discovery) metadata(ctx context.Context, client *http.Client) (*serverMetadata, error) {
	d.mu.Lock()
	known, fresh := d.known, d.clock().Before(d.until)
	d.mu.Unlock()
	if known != nil && fresh {
		return known, nil
	}
	if deadline, ok := ctx.Deadline(); ok && known != nil {
		limited, cancel := context.WithTimeout(ctx, time.Until(deadline)/discoveryShare)
		defer cancel()
		ctx = limited
	}
	fetched, err := d.fetch(ctx, client)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = d.clock()
	switch {
	case err == nil:
		d.known, d.until = fetched, d.asked.Add(discoveryAge)
	case known == nil:
		return nil, err
	default:
		d.until = d.asked.Add(discoveryPause)
	}
	return d.known, nil
}

// doubt has the issuer asked again soon, because something that the metadata say has failed.
func (d *discovery) doubt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until = d.asked.Add(discoveryPause)
}

func (d *discovery) clock() time.Time {
	if d.now == nil {
		return time.Now()
	}
	return d.now()
}

// fetch asks each place where the metadata may be.
func (d *discovery) fetch(ctx context.Context, client *http.Client) (*serverMetadata, error) {
	places, err := wellKnown(d.issuer)
	if err != nil {
		return nil, err
	}
	var failure error
	for _, place := range places {
		var metadata *serverMetadata
		if metadata, err = d.fetchFrom(ctx, client, place); err == nil {
			return metadata, nil
		}
		if failure == nil || !errors.Is(err, errNoMetadata) {
			failure = err
		}
	}
	if errors.Is(failure, errNoMetadata) {
		return nil, configurationError("issuer: there are no metadata of an authorization server (RFC 8414): check issuer, or give token_url")
	}
	return nil, failure
}

// wellKnown returns the places of RFC 8414 §3.1 and OpenID Connect Discovery §4.
func wellKnown(issuer string) ([]string, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, configurationError("issuer is not a URL without query and fragment")
	}
	root, path := u.Scheme+"://"+u.Host, strings.TrimSuffix(u.EscapedPath(), "/")
	return []string{
		root + "/.well-known/oauth-authorization-server" + path,
		root + path + "/.well-known/openid-configuration",
	}, nil
}

// errNoMetadata is the answer of a place that holds none.
var errNoMetadata = errors.New("no metadata here")

func (d *discovery) fetchFrom(ctx context.Context, client *http.Client, place string) (*serverMetadata, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, place, nil)
	if err != nil {
		return nil, configurationError("issuer is not a URL")
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
	body, err := readAnswer(resp)
	if err != nil && !errors.Is(err, errUnreadableAnswer) {
		return nil, networkFailure(ctx, "the issuer", err)
	}
	return d.parse(body)
}

func (d *discovery) parse(body []byte) (*serverMetadata, error) {
	metadata := new(serverMetadata)
	if json.Unmarshal(withoutMark(body), metadata) != nil {
		return nil, errNoMetadata
	}
	if metadata.Issuer != d.issuer {
		return nil, configurationError("issuer: the metadata are those of another issuer: write it exactly as the authorization server does, with or without a final slash")
	}
	return metadata, d.checkEndpoints(metadata)
}

func (d *discovery) checkEndpoints(m *serverMetadata) error {
	if m.Token == "" {
		return configurationError("issuer: the metadata name no token_endpoint")
	}
	for _, endpoint := range []string{m.Token, m.Revocation, m.Aliases.Token, m.Aliases.Revocation} {
		if endpoint == "" {
			continue
		}
		u, err := parseURL(endpoint)
		if err == nil {
			err = checkScheme(u, d.allowInsecure, "token_url")
		}
		if err == nil && u.Scheme != "https" && strings.HasPrefix(d.issuer, "https:") && !d.allowInsecure {
			err = errors.New("it is http while the issuer is https") // on loopback somebody else may listen
		}
		if err != nil {
			return configurationError("issuer: an endpoint in the metadata cannot be used: %v", err)
		}
	}
	return nil
}

// choose prefers the endpoints that ask for a certificate when there is one to show.
func (m *serverMetadata) choose(withCertificate bool) endpoints {
	chosen := m.endpoints
	if withCertificate {
		chosen.Token = orDefault(m.Aliases.Token, chosen.Token)
		chosen.Revocation = orDefault(m.Aliases.Revocation, chosen.Revocation)
	}
	return chosen
}

// checkMethod compares auth_method with what the server supports; when it does not say, that is
// client_secret_basic (RFC 8414 §2).
func (m *serverMetadata) checkMethod(method string) error {
	ours := supportedMethods(m.AuthMethods) // only names that we know are told on
	switch {
	case len(m.AuthMethods) == 0 && method == defaultAuthMethod, slices.Contains(ours, method):
		return nil
	case len(m.AuthMethods) == 0:
		return configurationError("auth_method %s: the issuer's metadata list no methods, which means %s; use that, or token_url instead of issuer", method, defaultAuthMethod)
	case len(ours) == 0:
		return configurationError("auth_method %s: the issuer's metadata list no method that is known here", method)
	default:
		return configurationError("auth_method %s: the issuer's metadata list only %s; use one of them, or token_url instead of issuer", method, strings.Join(ours, ", "))
	}
}
