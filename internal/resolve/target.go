package resolve

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
)

// flowsOfTarget runs the helper flows that the target depends on.
func (r *resolver) flowsOfTarget() error {
	if !slices.ContainsFunc(r.spec.apiTemplates(), r.spec.dependsOnFlow) {
		return nil
	}
	_, err := r.target()
	return err
}

// targetWithSecrets resolves the target of API requests, with all secrets that the API may know. It ends
// the requests of the pass.
func (r *resolver) targetWithSecrets() (*forward.Target, error) {
	target, err := r.target()
	if err != nil {
		return nil, err
	}
	r.goOffline()
	target.Secrets = r.requestSecrets()
	return target, nil
}

// target resolves the target of API requests, without its secrets.
func (r *resolver) target() (*forward.Target, error) {
	base, err := r.url("base_url", r.spec.BaseURL)
	if err != nil {
		return nil, err
	}
	target := &forward.Target{Base: plainBase(base), Insecure: r.spec.InsecureURLs.Base}
	target.Dial = net.JoinHostPort(target.Base.Hostname(), httpguard.Port(target.Base))
	var queryErr error
	target.Headers, err = r.fields("api_header", r.spec.APIHeaders, true)
	target.Query, queryErr = r.fields("api_query", r.spec.APIQuery, false)
	return target, errors.Join(err, queryErr)
}

// plainBase returns a base URL without a default port and without a trailing slash.
func plainBase(u *url.URL) *url.URL {
	base := &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}
	if port := u.Port(); port != "" && port == httpguard.Port(&url.URL{Scheme: u.Scheme}) {
		base.Host = strings.TrimSuffix(base.Host, ":"+port)
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base.Path, _ = url.PathUnescape(path)
	if base.EscapedPath() != path {
		base.RawPath = path
	}
	return base
}
