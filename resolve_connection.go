package httphelper

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
)

// resolvedConnection resolves the values of one connection, as they are when they are needed. Each
// token request resolves all of them in one pass, so that every file is read once.
type resolvedConnection struct {
	name    string
	spec    *connectionSpec
	clients httpClients
	logger  *zap.Logger

	certificate *certificateLoader         // nil: no client certificate
	key         lastGood[string, string]   // the private key of the client, PEM or JWK
	dpop        *dpopKey                   // made at start; nil: bearer tokens, or the key is in a file
	dpopFile    lastGood[string, *dpopKey] // the key in the file, with the nonces for it
	issuer      issuer                     // metadata of the issuer, if the token endpoint is found that way

	// currentToken returns the token in use, which must not be seen in what a server says.
	currentToken func() *grantedToken

	endpoint atomic.Pointer[string] // the token endpoint for people, as of the last token request
}

// httpClients makes requests to the authorization server, with a client certificate unless it is nil.
type httpClients interface {
	client(certificate *tls.Certificate) *http.Client
}

// newResolvedConnection prepares a connection and reads the keys that it needs from the start.
func newResolvedConnection(name string, spec *connectionSpec, logger *zap.Logger) (*resolvedConnection, error) {
	c := &resolvedConnection{name: name, spec: spec, logger: logger, currentToken: func() *grantedToken { return nil }}
	c.key.owner, c.dpopFile.owner = c, c
	if spec.certificateFile != nil {
		certFile, err := spec.certificateFile.expand(nil)
		keyFile, keyErr := spec.certificateKeyFile.expand(nil)
		if err := errors.Join(err, keyErr); err != nil {
			return nil, withOption("client_certificate", err)
		}
		c.certificate = &certificateLoader{certFile: certFile, keyFile: keyFile}
		c.certificate.last.owner = c
	}
	if !spec.dpop {
		return c, nil
	}
	var err error
	if spec.dpopKeyFile == nil {
		c.dpop, err = generateDPoPKey()
		return c, err
	}
	_, err = c.resolver(context.Background()).dpopKey()
	return c, err
}

// warnUnusable logs that a key or certificate cannot be used any more.
func (c *resolvedConnection) warnUnusable(reason error) {
	c.logger.Warn("a key or certificate on disk cannot be used; the last good one stays in use for a moment",
		zap.String("connection", c.name), zap.Duration("moment", replacementTime), zap.String("reason", reason.Error()))
}

// check reads everything once, as far as it can be known without a request, so that mistakes are
// found when the config is loaded.
func (c *resolvedConnection) check() error {
	r := c.offlineResolver()
	_, err := r.fingerprintValues()
	errs := []error{err}
	if m, err := r.credentials(); err == nil {
		_, err = c.spec.method.make(m)
		errs = append(errs, err)
	}
	for _, known := range r.checksWithoutFlows() {
		errs = append(errs, known())
	}
	return errors.Join(errs...)
}

// checksWithoutFlows are the checks of those values that need no helper flow.
func (r *resolver) checksWithoutFlows() []func() error {
	s := r.spec
	var checks []func() error
	add := func(templates []text, check func() error) {
		if !slices.ContainsFunc(templates, s.dependsOnFlow) {
			checks = append(checks, check)
		}
	}
	for option, u := range map[string]*text{"base_url": s.baseURL, "token_url": s.tokenURL, "issuer": s.issuer, "revocation_url": s.revocationURL} {
		if u != nil {
			add([]text{*u}, func() error { _, err := r.url(option, u); return err })
		}
	}
	var params []text
	for _, p := range s.params {
		params = append(params, p.values...)
	}
	add(params, func() error { _, err := r.params(); return err })
	add(valuesOf(s.tokenHeaders), func() error { _, err := r.tokenHeaders(); return err })
	add(s.resources, func() error { _, err := r.resources(); return err })
	add(valuesOf(s.apiHeaders), func() error { _, err := r.fields("api_header", s.apiHeaders, true); return err })
	add(valuesOf(s.apiQuery), func() error { _, err := r.fields("api_query", s.apiQuery, false); return err })
	return checks
}

// fetch makes one token request with everything as it is now. The fingerprint is that of the
// credentials that it was made with.
func (c *resolvedConnection) fetch(ctx context.Context) (token *grantedToken, fingerprint string, err error) {
	r := c.resolver(ctx)
	request, err := r.tokenRequest()
	r.goOffline()
	fingerprint = r.fingerprint()
	endpoint := r.view().endpoint()
	c.endpoint.Store(&endpoint)
	if err != nil {
		return nil, fingerprint, asConfigurationError(err)
	}
	request.secrets = r.knownSecrets()
	token, err = request.do(ctx, c.clients.client(request.certificate))
	if err != nil {
		c.issuer.recheck()
	}
	return token, fingerprint, err
}

// fingerprint is a digest of the credentials as they are now, and of what else goes into a token
// request. Unreadable ones have a fingerprint too, so that becoming readable is a change.
func (c *resolvedConnection) fingerprint() string { return c.offlineResolver().fingerprint() }

// revoke tells the authorization server that a token is not needed any more, if it has an endpoint
// for that (RFC 7009).
func (c *resolvedConnection) revoke(ctx context.Context, token *grantedToken) error {
	if c.spec.revocationURL == nil && c.spec.issuer == nil {
		return nil
	}
	r := c.resolver(ctx)
	request := new(tokenRequest)
	endpoint, err := r.client(request)
	if err != nil {
		return asConfigurationError(err)
	}
	if endpoint == "" {
		return nil
	}
	return request.revoke(ctx, c.clients.client(request.certificate), endpoint, token)
}

// asConfigurationError is the failure of a value that could not be resolved: a flow's own, or a
// mistake in the configuration.
func asConfigurationError(err error) error {
	if failed, ok := errors.AsType[*tokenError](err); ok {
		return failed // it names its cause, whichever option needs the value
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return configurationError("%v", err)
}

// tokenHost is the host of the token endpoint or the issuer; where a helper flow decides on it, the
// template.
func (c *resolvedConnection) tokenHost() string {
	option, t := "token_url", c.spec.tokenURL
	if t == nil {
		option, t = "issuer", c.spec.issuer
	}
	if !c.spec.dependsOnFlow(*t) {
		if u, err := c.offlineResolver().url(option, t); err == nil {
			return u.Host
		}
	}
	return t.String()
}

// certificateReplaced reports whether a token is bound to another client certificate than the files hold now.
func (c *resolvedConnection) certificateReplaced(token *grantedToken) bool {
	if c.certificate == nil || token == nil || token.certificate == nil {
		return false
	}
	// The same certificate may have been loaded by another connection or config.
	now, err := c.certificate.load()
	return err == nil && !slices.EqualFunc(now.Certificate, token.certificate.Certificate, slices.Equal)
}

// target resolves the place of the API and what requests to it carry. The error is a *tokenError, or
// ctx's.
func (c *resolvedConnection) target(ctx context.Context) (*apiTarget, error) {
	target, err := c.resolver(ctx).target()
	if err != nil {
		return nil, asConfigurationError(err)
	}
	return target, nil
}

// constantTarget is the target of a connection whose requests to the API are always made of the same
// values, nil for others.
func (c *resolvedConnection) constantTarget() (*apiTarget, error) {
	if slices.ContainsFunc(c.spec.apiTemplates(), func(t text) bool { return !c.spec.constant(t) }) {
		return nil, nil
	}
	return c.offlineResolver().target()
}

// hiddenInHost returns the placeholders in the host of base_url whose values must not be shown.
func (c *resolvedConnection) hiddenInHost(host string) []string {
	v := c.view()
	var placeholders []string
	for _, kind := range []string{kindParam, kindConfig} {
		for _, key := range c.spec.baseURL.keys(kind) {
			value, err := v.r.lookup(kind, key)
			if err == nil && !v.mayShow(kind, key) && strings.Contains(host, strings.ToLower(value)) {
				placeholders = append(placeholders, "{"+kind+"."+key+"}")
			}
		}
	}
	return placeholders
}

// withOption names the option that an error is about.
func withOption(option string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", option, err)
}

// valueOrFileOption is the option that sets a value, or a file that holds it.
func valueOrFileOption(option string, file *text) string {
	if file != nil {
		return option + "_file"
	}
	return option
}
