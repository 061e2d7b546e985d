package resolve

import (
	"errors"
	"slices"

	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// Check resolves everything once, as far as that needs no request, so that mistakes are found when the
// config is loaded.
func (c *Connection) Check() error {
	r := c.offlineResolver()
	_, err := r.fingerprintValues()
	errs := []error{err}
	if creds, err := r.credentials(); err == nil {
		_, err = c.Spec.Method.New(creds)
		errs = append(errs, err)
	}
	for _, check := range r.checksWithoutFlows() {
		errs = append(errs, check())
	}
	return errors.Join(errs...)
}

// checksWithoutFlows returns the checks of the values that depend on no helper flow.
func (r *resolver) checksWithoutFlows() []func() error {
	s := r.spec
	var checks []func() error
	add := func(templates []placeholder.Template, check func() error) {
		if !slices.ContainsFunc(templates, s.dependsOnFlow) {
			checks = append(checks, check)
		}
	}
	for option, u := range map[string]*placeholder.Template{"base_url": s.BaseURL, "token_url": s.TokenURL, "issuer": s.Issuer, "revocation_url": s.RevocationURL} {
		if u != nil {
			add([]placeholder.Template{*u}, func() error { _, err := r.url(option, u); return err })
		}
	}
	var params []placeholder.Template
	for _, p := range s.Params {
		params = append(params, p.Values...)
	}
	add(params, func() error { _, err := r.params(); return err })
	add(valuesOf(s.TokenHeaders), func() error { _, err := r.tokenHeaders(); return err })
	add(s.Resources, func() error { _, err := r.resources(); return err })
	add(valuesOf(s.APIHeaders), func() error { _, err := r.fields("api_header", s.APIHeaders, true); return err })
	add(valuesOf(s.APIQuery), func() error { _, err := r.fields("api_query", s.APIQuery, false); return err })
	return checks
}
