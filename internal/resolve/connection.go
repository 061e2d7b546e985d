// Package resolve resolves the values of one connection, as they are now, into token requests and the
// target of API requests. It reads the environment, files and keys, and runs helper flows.
//
// It knows the configuration only as a Spec, which is parsed already, and leaves to others when a token
// is requested and how a request is sent.
package resolve

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// Connection resolves the values of one connection. Each token request resolves all of them in one
// pass, which reads every file once. It is a token.Fetcher.
type Connection struct {
	name   string
	Spec   Spec
	logger *zap.Logger

	// Client returns the client for requests to the authorization server, which shows the certificate,
	// unless that is nil. It must be set before the first one.
	Client func(certificate *tls.Certificate) *http.Client

	// CurrentToken returns the token in use, or nil. It is one of the secrets to redact. Default: none.
	CurrentToken func() *oauth.Token

	Certificate *keys.Certificate                     // nil: no client certificate
	key         keys.LastGood[keyPair, clientKey]     // the client's private key
	dpop        *oauth.DPoPKey                        // the key made at start; nil: bearer tokens, or it is in a file
	dpopFile    keys.LastGood[string, *oauth.DPoPKey] // the key in the file, with the nonces for it
	issuer      oauth.Issuer                          // the issuer's metadata, unless there is a token_url

	endpoint atomic.Pointer[string] // the result of Endpoint as of the last token request; nil: none so far
}

// Init sets the connection up, and reads the keys that must be usable from the start.
func (c *Connection) Init(name string, spec *Spec, logger *zap.Logger) error {
	c.name, c.Spec, c.logger = name, *spec, logger
	c.CurrentToken = func() *oauth.Token { return nil }
	c.key.Owner, c.dpopFile.Owner = c, c
	if spec.CertificateFile != nil {
		certFile, err := spec.CertificateFile.Expand(nil)
		keyFile, keyErr := spec.CertificateKeyFile.Expand(nil)
		if err := errors.Join(err, keyErr); err != nil {
			return withOption("client_certificate", err)
		}
		c.Certificate = keys.NewCertificate(certFile, keyFile, c)
	}
	if !spec.DPoP {
		return nil
	}
	var err error
	if spec.DPoPKeyFile == nil {
		c.dpop, err = oauth.GenerateDPoPKey()
		return err
	}
	_, err = c.resolver(context.Background()).dpopKey()
	return err
}

// WarnUnusable implements keys.Owner.
func (c *Connection) WarnUnusable(reason error) {
	c.logger.Warn("a key or certificate on disk cannot be used; the last good one stays in use for a moment",
		zap.String("connection", c.name), zap.Duration("moment", keys.ReplacementTime), zap.String("reason", reason.Error()))
}

// Prepare resolves all values of a token request as they are now. The fingerprint is that of the values
// in the request. The error is a *oauth.Error, or ctx's.
func (c *Connection) Prepare(ctx context.Context) (p token.Prepared, fingerprint string, err error) {
	r := c.resolver(ctx)
	request, err := r.tokenRequest()
	r.goOffline()
	fingerprint = r.fingerprint()
	endpoint := r.view().tokenURLOrIssuer()
	c.endpoint.Store(&endpoint)
	if err != nil {
		return nil, fingerprint, asConfigurationError(err)
	}
	request.Secrets = r.knownSecrets()
	return &preparedRequest{r, request}, fingerprint, nil
}

// preparedRequest is a token request whose values are resolved. It is a token.Prepared.
type preparedRequest struct {
	resolver *resolver // the pass that has resolved the values
	request  *oauth.Request
}

// Fetch makes the token request. The error is a *oauth.Error, or ctx's.
func (p *preparedRequest) Fetch(ctx context.Context) (*oauth.Token, error) {
	c := p.resolver.c
	granted, err := p.request.Do(ctx, c.Client(p.request.Certificate))
	if err != nil {
		c.issuer.Recheck()
		return nil, p.resolver.withHint(err)
	}
	granted.RequestSecrets = p.resolver.secrets
	return granted, nil
}

// Identity returns everything that shapes the token request, or nil if its tokens must not be shared.
func (p *preparedRequest) Identity() []byte { return p.resolver.identity(p.request) }

// Bind completes a token that another replica has obtained by an equal request.
func (p *preparedRequest) Bind(t *oauth.Token) {
	p.request.Bind(t)
	t.RequestSecrets = p.resolver.secrets
}

// Fingerprint returns a digest of the credentials and other values of a token request as they are now.
// Unreadable values have a fingerprint too, so that it changes when they become readable.
func (c *Connection) Fingerprint() string { return c.offlineResolver().fingerprint() }

// Revoke revokes a token, if the authorization server has an endpoint for that (RFC 7009).
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
	return request.Revoke(ctx, c.Client(request.Certificate), endpoint, token)
}

// asConfigurationError returns the failure for a value that could not be resolved: the failure of a
// helper flow, the end of the context, or a mistake in the configuration.
func asConfigurationError(err error) error {
	if failed, ok := errors.AsType[*oauth.Error](err); ok {
		return failed // which names the flow, so the option need not be named
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return oauth.ConfigurationErrorf("%v", err)
}

// TokenHost returns the host of the token endpoint or the issuer, or the template of its URL if that
// depends on a helper flow.
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

// CertificateReplaced reports whether a token is bound to another client certificate than the one that is
// in the files now.
func (c *Connection) CertificateReplaced(token *oauth.Token) bool {
	if c.Certificate == nil || token == nil || token.Certificate == nil {
		return false
	}
	// Another connection or config may have loaded the same certificate, so its content counts.
	now, err := c.Certificate.Load()
	return err == nil && !slices.EqualFunc(now.Certificate, token.Certificate.Certificate, slices.Equal)
}

// Target resolves the target of API requests. The error is a *oauth.Error, or ctx's.
func (c *Connection) Target(ctx context.Context) (*forward.Target, error) {
	target, err := c.resolver(ctx).targetWithSecrets()
	if err == nil {
		return target, nil
	}
	err = asConfigurationError(err)
	if failed, ok := errors.AsType[*oauth.Error](err); ok && c.CurrentToken() != nil {
		return nil, failed.AfterSuccess() // the flows of the target have worked with the token request
	}
	return nil, err
}
