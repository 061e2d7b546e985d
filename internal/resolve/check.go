package resolve

import (
	"errors"
	"slices"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// Check resolves everything once, except what depends on a helper flow, so that mistakes are found when
// the config is loaded. It returns the target of API requests, or nil if that may change while the config
// runs.
func (c *Connection) Check() (constant *forward.Target, err error) {
	r, s := c.offlineResolver(), &c.Spec
	_, err = r.fingerprintValues()
	errs := []error{err}
	if creds, err := r.credentials(); err == nil {
		_, err = s.Method.New(creds)
		errs = append(errs, err)
	}
	check := func(templates []placeholder.Template, resolve func() error) {
		if !slices.ContainsFunc(templates, s.dependsOnFlow) {
			errs = append(errs, resolve())
		}
	}
	for option, u := range map[string]*placeholder.Template{"base_url": s.BaseURL, "token_url": s.TokenURL, "issuer": s.Issuer, "revocation_url": s.RevocationURL} {
		if u != nil {
			check([]placeholder.Template{*u}, func() error { _, err := r.url(option, u); return err })
		}
	}
	check(valuesOf(s.Params), func() error { _, err := r.params(); return err })
	check(valuesOf(s.TokenHeaders), func() error { _, err := r.tokenHeaders(); return err })
	check(s.Resources, func() error { _, err := r.resources(); return err })
	check(valuesOf(s.APIHeaders), func() error { _, err := r.fields("api_header", s.APIHeaders, true); return err })
	check(valuesOf(s.APIQuery), func() error { _, err := r.fields("api_query", s.APIQuery, false); return err })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(s.apiTemplates(), func(t placeholder.Template) bool { return !s.constant(t) }) {
		return nil, nil
	}
	return r.targetWithSecrets()
}
