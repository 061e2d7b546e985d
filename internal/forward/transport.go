package forward

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// Transport is an http transport to an API that keeps to the rules.
type Transport struct {
	*reverseproxy.HTTPTransport

	Base http.RoundTripper // the same: a seam for benchmarks

	forwardProxy func(*http.Request) (*url.URL, error) // for throughForwardProxy alone

	// TLS verifies the base URL's host whatever address is dialed, so that requests may be told
	// apart by that address: each upstream has connections of its own.
	pinned bool

	// reverse_proxy has removed the fields that proxies add; those that are there now, the user has set.
	proxyFields bool

	// For tokens that are bound to a client certificate; nil: there are none.
	certified *httptransport.ByCertificate
}

// TransportOptions say which requests a transport is for.
type TransportOptions struct {
	Target      *Target // nil: any
	Certificate bool    // tokens may be bound to a client certificate
	ProxyFields bool    // Via, Forwarded and X-Forwarded-* were set by the user
}

// NewTransport builds the http transport that raw configures.
func NewTransport(ctx caddy.Context, raw json.RawMessage, o TransportOptions) (*Transport, error) {
	t := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), proxyFields: o.ProxyFields}
	t.Base = t.HTTPTransport
	if err := json.Unmarshal(raw, t.HTTPTransport); err != nil {
		return nil, err
	}
	if t.Compression == nil {
		// The app and the API agree on it. Net/http would ask for it by itself, and undo it unseen.
		t.Compression = new(bool)
	}
	if o.Target != nil {
		t.pinned = true
		if o.Target.Base.Scheme == "https" {
			t.pinName(o.Target.Base.Hostname())
		}
	}
	if err := httptransport.Provision(ctx, t.HTTPTransport); err != nil {
		return nil, err
	}
	t.chooseForwardProxyFirst()
	if o.Certificate {
		t.certified = &httptransport.ByCertificate{Base: t.Transport}
	}
	return t, nil
}

func (t *Transport) pinName(host string) {
	if t.TLS == nil {
		t.TLS = new(reverseproxy.TLSConfig)
	}
	t.TLS.ServerName = host
}

// RoundTripAdmitted sends a request that a handler of ours has admitted, and leaves to the handler to
// tell the app why one was not sent.
func (t *Transport) RoundTripAdmitted(req *http.Request, q *Request) (*http.Response, error) {
	q.denied, q.answered = nil, false // of an attempt before
	res, err := t.Send(req, q)
	refused, ok := errors.AsType[*Error](err)
	if !ok {
		q.count(q.SentOutcome())
		return res, err
	}
	q.count(refused.Outcome())
	CloseBody(req.Body)
	if refused.gated {
		q.denied = refused
		return nil, errors.New(refused.Details)
	}
	// A missing token is no failure of the upstream.
	q.answered = true
	return refused.Response(req), nil
}

// Send checks a request against the rules (rule 16), sends it with the newest token, and once more with
// a newer one when the API rejects the first (rule 18). The error is a *Error when the rules
// forbid to send.
func (t *Transport) Send(req *http.Request, q *Request) (*http.Response, error) {
	if err := t.check(req, q); err != nil {
		return nil, err
	}
	var token *oauth.Token
	if !q.keep {
		var err error
		if token, err = q.Conn.Tokens.Token(req.Context()); err != nil {
			return nil, NoTokenError(q.Conn.Name, err)
		}
	}
	res, err := t.sendWithRetry(req, q, token)
	if err != nil {
		return nil, transportError(err)
	}
	q.answered = true
	if token != nil && res.StatusCode == http.StatusUnauthorized {
		q.Conn.Metrics.CountUnauthorized(telemetry.Passed)
	}
	// The response must not lead to the request that carries the token.
	res.Request = req
	dropOwnProxyStatus(res.Header)
	q.rewriteLocations(req, res.Header)
	q.maskSecrets(res)
	sanitizeBody(res)
	return res, nil
}

// transportError is the error of an http transport: one of ours that it carries, or one that quotes
// nothing of the API.
func transportError(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, neterror.ErrCleartextProxy) {
		return NotAllowed(neterror.ErrCleartextProxy.Error())
	}
	return sanitizeError(err)
}

// check checks where a request is about to go (rule 16).
func (t *Transport) check(req *http.Request, q *Request) error {
	dial, ok := reverseproxy.GetDialInfo(req.Context())
	switch {
	case !ok:
		return NotAllowed("no upstream was chosen")
	case RefusedMethod(req.Method), req.URL.Opaque != "", httpguard.CheckPath(req.URL) != nil:
		return NotAllowed("its method or path has been changed to one that is refused")
	case req.Response != nil && req.Response.Request != nil && req.URL.Host != req.Response.Request.URL.Host:
		return NotAllowed("a redirect leads away from base_url")
	case q.Target.Base.Scheme == "https":
		if t.TLS != nil && t.TLS.InsecureSkipVerify && !q.Target.Insecure {
			return NotAllowed("tls_insecure_skip_verify needs allow_insecure base_url")
		}
		if !t.pinned && t.TLS != nil && t.TLS.ServerName != "" && !strings.EqualFold(t.TLS.ServerName, q.Target.Base.Hostname()) {
			return NotAllowed("tls_server_name must be the host of base_url")
		}
		return nil
	case namesSocket(dial), strings.EqualFold(dial.Address, q.Target.Dial):
		return nil
	default:
		return NotAllowed("in the clear only the address of base_url itself may be dialed")
	}
}

// RefusedMethod reports whether a method, in any case, could show the app our header or make a tunnel.
func RefusedMethod(method string) bool {
	return strings.EqualFold(method, http.MethodTrace) || strings.EqualFold(method, http.MethodConnect)
}

// namesSocket tells whether the config names the unix socket to dial, and not the request.
func namesSocket(dial reverseproxy.DialInfo) bool {
	return strings.HasPrefix(dial.Network, "unix") && dial.Upstream != nil && !strings.Contains(dial.Upstream.Dial, "{")
}

// NotAllowed is a final request that rule 16 forbids.
func NotAllowed(details string) *Error {
	e := misconfigured("the request is not sent: " + details)
	e.gated = true
	return e
}

// sendWithRetry sends a request with token, or without one when token is nil, and replays it once when
// the API rejects the token (rule 18).
func (t *Transport) sendWithRetry(req *http.Request, q *Request, token *oauth.Token) (*http.Response, error) {
	body := newReplayBody(req, q)
	defer body.finish()
	res, err := t.sendWithNonce(req, q, token, body)
	if err != nil || !q.rejected(res, token) {
		return res, err
	}
	newer := q.newerToken(req, token, body)
	if newer == nil || !body.rewind() {
		return res, nil
	}
	CloseBody(res.Body)
	q.Conn.Metrics.CountUnauthorized(telemetry.Replayed)
	return t.sendWithNonce(req, q, newer, body)
}

// sendWithNonce sends a copy of a request, and once more when the API wants a nonce in the proof of
// possession and gives one (RFC 9449 §9): that one, whatever other requests are told meanwhile.
func (t *Transport) sendWithNonce(req *http.Request, q *Request, token *oauth.Token, body *replayBody) (*http.Response, error) {
	res, err := t.sendOnce(req, q, token, body, "")
	if err != nil || !oauth.NeedsNonce(res, token) {
		return res, err
	}
	nonce := oauth.NonceIn(res.Header)
	if nonce == "" || !body.rewind() {
		return res, nil
	}
	CloseBody(res.Body)
	return t.sendOnce(req, q, token, body, nonce)
}

// rejected tells whether the API's response says that the token is no good.
func (q *Request) rejected(res *http.Response, token *oauth.Token) bool {
	return res.StatusCode == http.StatusUnauthorized && token != nil &&
		q.options.RetryUnauthorized && !oauth.InsufficientScope(res.Header) && !oauth.NeedsNonce(res, token)
}

// newerToken replaces a rejected token, and waits for it if the request can be replayed at all.
func (q *Request) newerToken(req *http.Request, rejected *oauth.Token, body *replayBody) *oauth.Token {
	if body.replayable() {
		return q.Conn.Tokens.Replace(req.Context(), rejected)
	}
	q.Conn.Tokens.Invalidate(rejected)
	return nil
}

// sendOnce sends one copy of a request. nonce is what a proof of possession is to contain; "": the
// newest of the API's.
func (t *Transport) sendOnce(req *http.Request, q *Request, token *oauth.Token, body *replayBody, nonce string) (*http.Response, error) {
	// The copy is shallow: request trailers arrive in the very map that req holds.
	out := &struct {
		req http.Request
		url url.URL
	}{*req, *req.URL}
	out.req.URL = &out.url
	q.Target.rewrite(&out.url)
	out.req.Host = q.Target.Base.Host
	out.req.Header = q.header(req.Header, token, t.proxyFields)
	if reader := body.attempt(); reader != nil {
		out.req.Body = reader
	}
	if t.pinned || t.ProxyProtocol != "" {
		out.url.Host = req.URL.Host
	}
	if token != nil {
		q.remember(token.Value)
	}
	if token == nil || token.DPoP == nil {
		return t.roundTrip(&out.req, token)
	}
	place := out.url
	place.Host = q.Target.Base.Host // whatever stands there for dialing
	return t.sendWithProof(&out.req, &place, token, nonce)
}

// sendWithProof sends a request for a place with a proof of possession, and keeps the nonce in the
// response.
func (t *Transport) sendWithProof(out *http.Request, place *url.URL, token *oauth.Token, nonce string) (*http.Response, error) {
	nonces := &token.DPoP.APINonces
	nonce = cmp.Or(nonce, nonces.Get(place))
	proven, err := oauth.WithDPoPProof(out, func() (string, error) {
		return token.DPoP.Proof(out.Method, place, token.Value, nonce)
	})
	if err != nil {
		CloseBody(out.Body)
		return nil, misconfigured(err.Error())
	}
	res, err := t.roundTrip(proven, token)
	if err == nil {
		nonces.Set(place, res.Header)
	}
	return res, err
}

// roundTrip hands a request to the http transport: to the one that shows the client certificate that
// the token is bound to, if it is (RFC 8705 §3).
func (t *Transport) roundTrip(out *http.Request, token *oauth.Token) (*http.Response, error) {
	out, err := t.throughForwardProxy(out)
	if err != nil {
		CloseBody(out.Body)
		return nil, err
	}
	if t.certified != nil && token != nil && token.Certificate != nil {
		return t.certified.For(token.Certificate).RoundTrip(out)
	}
	return t.Base.RoundTrip(out)
}

// Cleanup closes idle connections.
func (t *Transport) Cleanup() error {
	if t.certified != nil {
		t.certified.CloseIdleConnections()
	}
	return t.HTTPTransport.Cleanup()
}

// CloseBody closes a request's body that is not going to be sent.
func CloseBody(body io.Closer) {
	if body != nil {
		_ = body.Close()
	}
}
