package httphelper

import (
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
)

// flowsOfTarget runs the helper flows that requests to the API need.
func (r *resolver) flowsOfTarget() error {
	if !slices.ContainsFunc(r.spec.apiTemplates(), r.spec.dependsOnFlow) {
		return nil
	}
	_, err := r.target()
	return err
}

// target resolves the place of the API and what requests to it carry.
func (r *resolver) target() (*apiTarget, error) {
	base, err := r.url("base_url", r.spec.baseURL)
	if err != nil {
		return nil, err
	}
	target := &apiTarget{base: plainBase(base), insecure: r.spec.insecureURLs.base}
	target.dial = net.JoinHostPort(target.base.Hostname(), portOf(target.base))
	var queryErr error
	target.headers, err = r.fields("api_header", r.spec.apiHeaders, true)
	target.query, queryErr = r.fields("api_query", r.spec.apiQuery, false)
	target.secrets = r.secrets
	return target, errors.Join(err, queryErr)
}

// plainBase is a base URL without a default port and a trailing slash.
func plainBase(u *url.URL) *url.URL {
	base := &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}
	if port := u.Port(); port != "" && port == portOf(&url.URL{Scheme: u.Scheme}) {
		base.Host = strings.TrimSuffix(base.Host, ":"+port)
	}
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	base.Path, _ = url.PathUnescape(path)
	if base.EscapedPath() != path {
		base.RawPath = path
	}
	return base
}
