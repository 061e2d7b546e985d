package resolve

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

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// Connection resolves the values of one connection, as they are when they are needed. Each
// token request resolves all of them in one pass, so that every file is read once.
type Connection struct {
	name    string
	Spec    *Spec
	Clients Clients
	logger  *zap.Logger

	Certificate *keys.Certificate                     // nil: no client certificate
	key         keys.LastGood[string, string]         // the private key of the client, PEM or JWK
	dpop        *oauth.DPoPKey                        // made at start; nil: bearer tokens, or the key is in a file
	dpopFile    keys.LastGood[string, *oauth.DPoPKey] // the key in the file, with the nonces for it
	issuer      oauth.Issuer                          // metadata of the issuer, if the token endpoint is found that way

	// CurrentToken returns the token in use, which must not be seen in what a server says.
	CurrentToken func() *oauth.Token

	endpoint atomic.Pointer[string] // the token endpoint for people, as of the last token request
}

// Clients makes requests to the authorization server, with a client certificate unless it is nil.
type Clients interface {
	Client(certificate *tls.Certificate) *http.Client
}

// New prepares a connection and reads the keys that it needs from the start.
func New(name string, spec *Spec, logger *zap.Logger) (*Connection, error) {
	c := &Connection{name: name, Spec: spec, logger: logger, CurrentToken: func() *oauth.Token { return nil }}
	c.key.Owner, c.dpopFile.Owner = c, c
	if spec.CertificateFile != nil {
		certFile, err := spec.CertificateFile.Expand(nil)
		keyFile, keyErr := spec.CertificateKeyFile.Expand(nil)
		if err := errors.Join(err, keyErr); err != nil {
			return nil, withOption("client_certificate", err)
		}
		c.Certificate = keys.NewCertificate(certFile, keyFile, c)
	}
	if !spec.DPoP {
		return c, nil
	}
	var err error
	if spec.DPoPKeyFile == nil {
		c.dpop, err = oauth.GenerateDPoPKey()
		return c, err
	}
	_, err = c.resolver(context.Background()).dpopKey()
	return c, err
}

// WarnUnusable logs that a key or certificate cannot be used any more.
func (c *Connection) WarnUnusable(reason error) {
	c.logger.Warn("a key or certificate on disk cannot be used; the last good one stays in use for a moment",
		zap.String("connection", c.name), zap.Duration("moment", keys.ReplacementTime), zap.String("reason", reason.Error()))
}

// Check reads everything once, as far as it can be known without a request, so that mistakes are
// found when the config is loaded.
func (c *Connection) Check() error {
	r := c.offlineResolver()
	_, err := r.fingerprintValues()
	errs := []error{err}
	if m, err := r.credentials(); err == nil {
		_, err = c.Spec.Method.New(m)
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

// Fetch makes one token request with everything as it is now. The fingerprint is that of the
// credentials that it was made with.
func (c *Connection) Fetch(ctx context.Context) (token *oauth.Token, fingerprint string, err error) {
	r := c.resolver(ctx)
	request, err := r.tokenRequest()
	r.goOffline()
	fingerprint = r.fingerprint()
	endpoint := r.view().endpoint()
	c.endpoint.Store(&endpoint)
	if err != nil {
		return nil, fingerprint, asConfigurationError(err)
	}
	request.Secrets = r.knownSecrets()
	token, err = request.Do(ctx, c.Clients.Client(request.Certificate))
	if err != nil {
		c.issuer.Recheck()
	}
	return token, fingerprint, err
}

// Fingerprint is a digest of the credentials as they are now, and of what else goes into a token
// request. Unreadable ones have a fingerprint too, so that becoming readable is a change.
func (c *Connection) Fingerprint() string { return c.offlineResolver().fingerprint() }

// Revoke tells the authorization server that a token is not needed any more, if it has an endpoint
// for that (RFC 7009).
func (c *Connection) Revoke(ctx context.Context, token *oauth.Token) error {
	if c.Spec.RevocationURL == nil && c.Spec.Issuer == nil {
		return nil
	}
	r := c.resolver(ctx)
	request := new(oauth.Request)
	endpoint, err := r.client(request)
	if err != nil {
		return asConfigurationError(err)
	}
	if endpoint == "" {
		return nil
	}
	return request.Revoke(ctx, c.Clients.Client(request.Certificate), endpoint, token)
}

// asConfigurationError is the failure of a value that could not be resolved: a flow's own, or a
// mistake in the configuration.
func asConfigurationError(err error) error {
	if failed, ok := errors.AsType[*oauth.Error](err); ok {
		return failed // it names its cause, whichever option needs the value
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return oauth.ConfigurationErrorf("%v", err)
}

// TokenHost is the host of the token endpoint or the issuer; where a helper flow decides on it, the
// template.
func (c *Connection) TokenHost() string {
	option, t := "token_url", c.Spec.TokenURL
	if t == nil {
		option, t = "issuer", c.Spec.Issuer
	}
	if !c.Spec.dependsOnFlow(*t) {
		if u, err := c.offlineResolver().url(option, t); err == nil {
			return u.Host
		}
	}
	return t.String()
}

// CertificateReplaced reports whether a token is bound to another client certificate than the files hold now.
func (c *Connection) CertificateReplaced(token *oauth.Token) bool {
	if c.Certificate == nil || token == nil || token.Certificate == nil {
		return false
	}
	// The same certificate may have been loaded by another connection or config.
	now, err := c.Certificate.Load()
	return err == nil && !slices.EqualFunc(now.Certificate, token.Certificate.Certificate, slices.Equal)
}

// Target resolves the place of the API and what requests to it carry. The error is a *oauth.Error, or
// ctx's.
func (c *Connection) Target(ctx context.Context) (*forward.Target, error) {
	target, err := c.resolver(ctx).target()
	if err != nil {
		return nil, asConfigurationError(err)
	}
	return target, nil
}

// ConstantTarget is the target of a connection whose requests to the API are always made of the same
// values, nil for others.
func (c *Connection) ConstantTarget() (*forward.Target, error) {
	if slices.ContainsFunc(c.Spec.apiTemplates(), func(t placeholder.Template) bool { return !c.Spec.constant(t) }) {
		return nil, nil
	}
	return c.offlineResolver().target()
}

// HiddenInHost returns the placeholders in the host of base_url whose values must not be shown.
func (c *Connection) HiddenInHost(host string) []string {
	v := c.View()
	var placeholders []string
	for _, kind := range []string{placeholder.Param, placeholder.Config} {
		for _, key := range c.Spec.BaseURL.Keys(kind) {
			value, err := v.resolver.lookup(kind, key)
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
func valueOrFileOption(option string, file *placeholder.Template) string {
	if file != nil {
		return option + "_file"
	}
	return option
}
