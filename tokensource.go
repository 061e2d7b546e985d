package httphelper

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// connectionTokens are the tokens of one connection.
type connectionTokens struct {
	source  *token.Source
	timeout time.Duration // token_timeout
	key     token.Key
	user    *token.User
}

// tokenSources holds the sources of all configs by what shapes their token requests.
var tokenSources = caddy.NewUsagePool()

// acquire takes the source for a key, which a running config may hold already.
func (t *connectionTokens) acquire(key token.Key, u *token.User) {
	source, _, _ := tokenSources.LoadOrNew(key, func() (caddy.Destructor, error) { return token.NewSource(), nil }) // never fails
	t.key, t.user, t.source = key, u, source.(*token.Source)
	t.source.Attach(u)
}

// release lets go of the source. Requests that still run may go on using it.
func (t *connectionTokens) release() {
	if t.source.Detach(t.user) {
		_, _ = tokenSources.Delete(t.key) // Destruct never fails
	}
}

// timeoutGrace lets an attempt that began with a wait end by itself, and say why.
const timeoutGrace = 100 * time.Millisecond

// Token returns the token for a request. The connection's own token_timeout bounds the wait, even
// where it shares the token with one that waits longer.
func (t *connectionTokens) Token(ctx context.Context) (*oauth.Token, error) {
	if current := t.source.TryToken(ctx); current != nil {
		return current, nil
	}
	limited, cancel := context.WithTimeout(ctx, t.timeout+timeoutGrace)
	defer cancel()
	current, err := t.source.Token(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return nil, token.ErrTimeout
	}
	return current, err
}

// Invalidate takes a token out of use that an API has rejected, and reports whether a newer one may be
// requested.
func (t *connectionTokens) Invalidate(rejected *oauth.Token) bool {
	return t.source.Invalidate(rejected)
}

// Replace invalidates a token and waits for a newer one.
func (t *connectionTokens) Replace(ctx context.Context, rejected *oauth.Token) *oauth.Token {
	return t.source.Replace(ctx, rejected)
}

// acquireTokens takes the source of the connection's tokens, which a running config may hold already.
func (c *activeConnection) acquireTokens() {
	c.tokens.timeout = cmp.Or(time.Duration(c.config.TokenTimeout), token.DefaultTokenTimeout)
	user := &token.User{
		Name:          c.name,
		Host:          c.values.TokenHost(),
		Fetcher:       telemetry.TracedFetcher{Fetcher: c.values, Tracing: c.app.tracing, Connection: c.name},
		RefreshBefore: time.Duration(c.config.RefreshBefore),
		Timeout:       time.Duration(c.config.TokenTimeout),
		Warm:          c.config.Warm,
		Logger:        c.logger,
		Observer:      c,
	}
	c.tokens.acquire(c.values.Key(), user)
	c.values.CurrentToken = c.tokens.source.Current
}

// refresh replaces the connection's token now, and revokes the old one.
func (c *activeConnection) refresh(ctx context.Context) error {
	source := c.tokens.source
	old := source.Current()
	if err := source.Refresh(ctx); err != nil {
		return err
	}
	if now := source.Current(); old != nil && now != nil && now.Value != old.Value {
		go c.revoke(old) //nolint:gosec // it must outlive the request for the refresh
	}
	return nil
}

// revoke tells the authorization server that a token is not needed any more. Nothing depends on it.
func (c *activeConnection) revoke(token *oauth.Token) {
	ctx, cancel := context.WithTimeout(context.Background(), c.tokens.timeout)
	defer cancel()
	if err := c.values.Revoke(ctx, token); err != nil {
		c.logger.Warn("revoking a token failed", zap.String("connection", c.name), zap.Error(err))
	}
}

// Removed revokes the last token of a connection that the running config does not have any
// more. One that has only changed may have been granted the same token again, and so may one that is
// in the config again when the process has been restarted.
func (c *activeConnection) Removed(token *oauth.Token) {
	if app := activeApp(); caddy.Exiting() || app.active[c.name] != nil {
		return
	}
	c.revoke(token)
}

// Endpoint is the token endpoint for people.
func (c *activeConnection) Endpoint() string { return c.values.Endpoint() }

// Observe is called after each token request and each rejection.
func (c *activeConnection) Observe(event token.Event) {
	c.forward.Metrics.Observe(event)
	c.app.events.EmitToken(c.name, event)
}

// tokenClients makes requests to the authorization server of one connection.
type tokenClients struct {
	transport *reverseproxy.HTTPTransport
	certified *httptransport.ByCertificate // the same with the client certificate; nil without one
}

// provisionClients builds what talks to the authorization server.
func (c *activeConnection) provisionClients(certificate bool) error {
	var err error
	if c.clients.transport, err = c.app.tokenTransport(c.service.TokenTransport); err != nil {
		return err
	}
	transport := c.clients.transport
	if transport.TLS != nil && transport.TLS.InsecureSkipVerify && !c.service.allowsInsecure("token_url") {
		return errors.New("token_transport: tls_insecure_skip_verify needs allow_insecure token_url")
	}
	if certificate {
		c.clients.certified = &httptransport.ByCertificate{Base: transport.Transport}
	}
	return nil
}

// Client makes requests with a client certificate, unless that is nil.
func (t *tokenClients) Client(certificate *tls.Certificate) *http.Client {
	var transport http.RoundTripper = t.transport
	if certificate != nil {
		transport = t.certified.For(certificate)
	}
	return oauth.NewClient(httptransport.WithDialCause(transport))
}

func (t *tokenClients) closeIdleConnections() {
	if t.certified != nil {
		t.certified.CloseIdleConnections()
	}
}

// certificatePause is how often the files of a client certificate are read between token requests.
const certificatePause = 10 * time.Second

// watchCertificate watches the client certificate until the connection is released: tokens that are
// bound to one that has been replaced are replaced too (RFC 8705 §6.3), since that one may soon have
// expired. Until then such a token stays in use, with the certificate that it is bound to.
func (c *activeConnection) watchCertificate() {
	if c.clients.certified == nil {
		return
	}
	c.watching = make(chan struct{})
	go func() {
		ticker := time.NewTicker(certificatePause)
		defer ticker.Stop()
		for {
			c.expireBoundToken()
			select {
			case <-ticker.C:
			case <-c.watching:
				return
			}
		}
	}()
}

// expireBoundToken has the token replaced if it is bound to another certificate than the files hold.
func (c *activeConnection) expireBoundToken() {
	defer token.RecoverAndLog(c.logger, "reading the client certificate")
	if token := c.tokens.source.Current(); c.values.CertificateReplaced(token) {
		c.tokens.source.Expire(token)
	}
}
