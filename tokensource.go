package httphelper

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/resolve"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// tokenSources holds the token sources of all loaded configs. Connections whose token requests are the
// same share a source, also across a reload.
var tokenSources = caddy.NewUsagePool()

// connectionTokens are the tokens of one connection: the source that obtains them, and what that needs
// of the connection. They implement forward.Tokens for requests and token.Observer for the source.
type connectionTokens struct {
	source  *token.Source
	key     token.Key
	user    token.User
	shares  *ShareTokens  // nil: the token is not shared
	timeout time.Duration // token_timeout

	values   *resolve.Connection
	clients  tokenClients
	metrics  *telemetry.Connection
	events   *telemetry.Events
	watching chan struct{} // closed when the client certificate is no longer watched; nil: it is not

	rejectedWith atomic.Int32 // the status of the API's last response that has rejected a token; 0: it is told
}

// acquireTokens acquires the source of the connection's tokens, which the running config may use
// already.
func (c *activeConnection) acquireTokens(app *App, metrics *telemetry.Connection) {
	t := &c.tokens
	t.values, t.metrics, t.events = &c.values, metrics, app.events
	t.timeout = cmp.Or(time.Duration(c.config.TokenTimeout), token.DefaultTimeout)
	t.key = c.values.Key()
	t.user = token.User{
		Name:          c.name,
		Host:          c.values.TokenHost(),
		Fetcher:       app.tracing.Fetcher(&c.values, c.name),
		RefreshBefore: time.Duration(c.config.RefreshBefore),
		Timeout:       time.Duration(c.config.TokenTimeout),
		Warm:          c.config.Warm,
		Logger:        c.logger,
		Observer:      t,
	}
	if app.ShareTokens != nil && c.values.Shareable() {
		t.shares, t.user.Shared = app.ShareTokens, app.ShareTokens
	}
	source, _, _ := tokenSources.LoadOrNew(t.key, func() (caddy.Destructor, error) { return token.NewSource(), nil }) // never fails
	t.source = source.(*token.Source)
	t.source.Attach(&t.user)
	c.values.CurrentToken = t.source.Current
}

// start puts the user's settings into effect.
func (t *connectionTokens) start() {
	t.source.Start(&t.user)
	t.watchCertificate()
}

// release releases the source. Requests in flight may still use it.
func (t *connectionTokens) release() {
	if t.source.Detach(&t.user) {
		_, _ = tokenSources.Delete(t.key) // Destruct never fails
	}
	if t.clients.certified != nil {
		t.clients.certified.CloseIdleConnections()
	}
	if t.watching != nil {
		close(t.watching)
	}
}

// timeoutGrace is the time that an attempt gets, beyond the timeout, to end by itself and say why.
const timeoutGrace = 100 * time.Millisecond

// Token returns the token for a request. The wait is bounded by the connection's own token_timeout,
// even where another user of the source waits longer.
func (t *connectionTokens) Token(ctx context.Context) (*oauth.Token, error) {
	if current := t.source.TryToken(ctx); current != nil {
		return current, nil
	}
	defer forward.NoteTokenWait(ctx, time.Now())
	limited, cancel := context.WithTimeout(ctx, t.timeout+timeoutGrace)
	defer cancel()
	current, err := t.source.Token(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return nil, token.ErrTimeout
	}
	return current, err
}

// Replace returns a token to retry with after an API has rejected one. The wait is bounded like that for
// the first token.
func (t *connectionTokens) Replace(ctx context.Context, rejected *oauth.Token, status int) *oauth.Token {
	t.rejectedWith.Store(int32(status)) //nolint:gosec // G115: statuses have three digits
	defer forward.NoteTokenWait(ctx, time.Now())
	limited, cancel := context.WithTimeout(ctx, t.timeout+timeoutGrace)
	defer cancel()
	return t.source.Replace(limited, rejected)
}

// ReplaceAdopted returns a token for a second retry, after an adopted one has been rejected too. The wait is
// bounded like that for the first token.
func (t *connectionTokens) ReplaceAdopted(ctx context.Context, rejected *oauth.Token) *oauth.Token {
	defer forward.NoteTokenWait(ctx, time.Now())
	limited, cancel := context.WithTimeout(ctx, t.timeout+timeoutGrace)
	defer cancel()
	return t.source.ReplaceAdopted(limited, rejected)
}

// Accept notes that the API has accepted a token.
func (t *connectionTokens) Accept(accepted *oauth.Token) { t.source.Accept(accepted) }

// Reject has a rejected token replaced without waiting.
func (t *connectionTokens) Reject(ctx context.Context, rejected *oauth.Token, status int) {
	t.rejectedWith.Store(int32(status)) //nolint:gosec // G115: statuses have three digits
	t.source.Reject(ctx, rejected)
}

// refresh replaces the token now, and revokes the old one unless other replicas may use it.
func (t *connectionTokens) refresh(ctx context.Context) error {
	old := t.source.Current()
	shared := t.source.Shares(old) // afterwards it may be one that the source has forgotten
	if err := t.source.Refresh(ctx); err != nil {
		return err
	}
	if current := t.source.Current(); old != nil && current != nil && current.Value != old.Value && !shared && !t.source.Shares(old) {
		go t.revoke(old) //nolint:gosec // it must outlive the request for the refresh
	}
	return nil
}

// revoke revokes a token at the authorization server, best effort.
func (t *connectionTokens) revoke(revoked *oauth.Token) {
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	if err := t.values.Revoke(ctx, revoked); err != nil {
		t.user.Logger.Warn("revoking a token failed", zap.String("connection", t.user.Name), zap.Error(err))
	}
}

// Endpoint returns the token endpoint as it may be shown.
func (t *connectionTokens) Endpoint() string { return t.values.Endpoint() }

// Observe counts a token request or a rejection, and emits its event. Which status has rejected a token is known
// if the request was one of this connection, and not of another one with the same token.
func (t *connectionTokens) Observe(event token.Event) {
	if event.Rejected {
		event.Status = int(t.rejectedWith.Swap(0))
	}
	t.metrics.Observe(event)
	t.events.Emit(t.user.Name, event)
}

// Removed revokes the last token of a connection that is not in the running config any more. One that
// only changed may have got the same token again, and so may one that a restarted process has again.
func (t *connectionTokens) Removed(last *oauth.Token) {
	if caddy.Exiting() || activeApp().active[t.user.Name] != nil {
		return
	}
	t.revoke(last)
}

// certificatePause is the time between two looks at the files of a client certificate.
const certificatePause = 10 * time.Second

// watchCertificate watches the client certificate, if there is one, until release. A token that is
// bound to a certificate (RFC 8705 §6.3) is replaced when that has been replaced, since it may soon
// expire. Until then the token is used with the certificate that it is bound to.
func (t *connectionTokens) watchCertificate() {
	if t.clients.certified == nil {
		return
	}
	t.watching = make(chan struct{})
	go func() {
		ticker := time.NewTicker(certificatePause)
		defer ticker.Stop()
		for {
			t.expireBoundToken()
			select {
			case <-ticker.C:
			case <-t.watching:
				return
			}
		}
	}()
}

// expireBoundToken expires the token if it is bound to another certificate than the one in the files.
func (t *connectionTokens) expireBoundToken() {
	defer token.RecoverAndLog(t.user.Logger, "reading the client certificate")
	if current := t.source.Current(); t.values.CertificateReplaced(current) {
		t.source.Expire(current)
	}
}

// tokenClients make requests to the authorization server of one connection.
type tokenClients struct {
	transport *reverseproxy.HTTPTransport
	certified *httptransport.ByCertificate // the same with the client certificate; nil without one
	insecure  bool                         // requests in the clear may go to any address
}

// provision gets the transport that the service configures.
func (t *tokenClients) provision(app *App, service *Service, certificate bool) error {
	transport, err := app.tokenTransport(service.TokenTransport)
	if err != nil {
		return err
	}
	t.transport, t.insecure = transport, service.allowsInsecure("token_url")
	if transport.TLS != nil && transport.TLS.InsecureSkipVerify && !t.insecure {
		return errors.New("token_transport: tls_insecure_skip_verify needs allow_insecure token_url")
	}
	if certificate {
		t.certified = &httptransport.ByCertificate{Base: transport.Transport}
	}
	return nil
}

// client returns a client that presents a certificate, unless that is nil.
func (t *tokenClients) client(certificate *tls.Certificate) *http.Client {
	var transport http.RoundTripper = t.transport
	if certificate != nil {
		transport = t.certified.For(certificate)
	}
	if !t.insecure { // a shared transport keeps no connections, so none is left behind for this request
		transport = httptransport.WithOnlyLoopback{RoundTripper: transport}
	}
	return oauth.NewClient(httptransport.WithUserAgent{RoundTripper: transport, Agent: userAgent()})
}

// userAgent returns what requests to an authorization server say of their sender. Some firewalls refuse
// Go's own.
var userAgent = sync.OnceValue(func() string { return "caddy-httphelper/" + cmp.Or(strings.Trim(version(), "()"), "unknown") })

// Interface guards
var (
	_ forward.Tokens = (*connectionTokens)(nil)
	_ token.Observer = (*connectionTokens)(nil)
)
