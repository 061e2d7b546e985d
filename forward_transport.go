package httphelper

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
)

// forwardTransport is an http transport to an API that keeps to the rules.
type forwardTransport struct {
	*reverseproxy.HTTPTransport

	roundTripper http.RoundTripper // the same: a seam for benchmarks

	forwardProxy func(*http.Request) (*url.URL, error) // for throughForwardProxy alone

	// TLS verifies the base URL's host whatever address is dialed, so that requests may be told
	// apart by that address: each upstream has connections of its own.
	pinned bool

	// reverse_proxy has removed the fields that proxies add; those that are there now, the user has set.
	proxyFields bool

	// For tokens that are bound to a client certificate; nil: there are none.
	certified *certificateTransports
}

// forwardTransportOptions say which requests a transport is for.
type forwardTransportOptions struct {
	target      *apiTarget // nil: any
	certificate bool       // tokens may be bound to a client certificate
	proxyFields bool       // Via, Forwarded and X-Forwarded-* were set by the user
}

// newForwardTransport builds the http transport that raw configures.
func newForwardTransport(ctx caddy.Context, raw json.RawMessage, o forwardTransportOptions) (*forwardTransport, error) {
	t := &forwardTransport{HTTPTransport: new(reverseproxy.HTTPTransport), proxyFields: o.proxyFields}
	t.roundTripper = t.HTTPTransport
	if err := json.Unmarshal(raw, t.HTTPTransport); err != nil {
		return nil, err
	}
	if t.Compression == nil {
		// The app and the API agree on it. Net/http would ask for it by itself, and undo it unseen.
		t.Compression = new(bool)
	}
	if o.target != nil {
		t.pinned = true
		if o.target.base.Scheme == "https" {
			t.pinName(o.target.base.Hostname())
		}
	}
	if err := provisionTransport(ctx, t.HTTPTransport); err != nil {
		return nil, err
	}
	t.chooseForwardProxyFirst()
	if o.certificate {
		t.certified = &certificateTransports{base: t.Transport}
	}
	return t, nil
}

func (t *forwardTransport) pinName(host string) {
	if t.TLS == nil {
		t.TLS = new(reverseproxy.TLSConfig)
	}
	t.TLS.ServerName = host
}

// roundTripAdmitted sends a request that a handler of ours has admitted, and leaves to the handler to
// tell the app why one was not sent.
func (t *forwardTransport) roundTripAdmitted(req *http.Request, q *forwardRequest) (*http.Response, error) {
	q.denied, q.answered = nil, false // of an attempt before
	res, err := t.send(req, q)
	refused, ok := errors.AsType[*forwardError](err)
	if !ok {
		q.count(q.sentOutcome())
		return res, err
	}
	q.count(refused.outcome())
	closeBody(req.Body)
	if refused.gated {
		q.denied = refused
		return nil, errors.New(refused.details)
	}
	// A missing token is no failure of the upstream.
	q.answered = true
	return refused.response(req), nil
}

// send checks a request against the rules (rule 16), sends it with the newest token, and once more with
// a newer one when the API rejects the first (rule 18). The error is a *forwardError when the rules
// forbid to send.
func (t *forwardTransport) send(req *http.Request, q *forwardRequest) (*http.Response, error) {
	if err := t.check(req, q); err != nil {
		return nil, err
	}
	var token *grantedToken
	if !q.keep {
		var err error
		if token, err = q.conn.tokens.Token(req.Context()); err != nil {
			return nil, noTokenError(q.conn.name, err)
		}
	}
	res, err := t.sendWithRetry(req, q, token)
	if err != nil {
		return nil, transportError(err)
	}
	q.answered = true
	if token != nil && res.StatusCode == http.StatusUnauthorized {
		q.conn.metrics.unauthorized(unauthorizedPassed)
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
	if e, ok := errors.AsType[*forwardError](err); ok {
		return e
	}
	if errors.Is(err, errCleartextProxy) {
		return notAllowed(errCleartextProxy.Error())
	}
	return sanitizeError(err)
}

// check checks where a request is about to go (rule 16).
func (t *forwardTransport) check(req *http.Request, q *forwardRequest) error {
	dial, ok := reverseproxy.GetDialInfo(req.Context())
	switch {
	case !ok:
		return notAllowed("no upstream was chosen")
	case refusedMethod(req.Method), req.URL.Opaque != "", cleanPathOf(req.URL) != nil:
		return notAllowed("its method or path has been changed to one that is refused")
	case req.Response != nil && req.Response.Request != nil && req.URL.Host != req.Response.Request.URL.Host:
		return notAllowed("a redirect leads away from base_url")
	case q.target.base.Scheme == "https":
		if t.TLS != nil && t.TLS.InsecureSkipVerify && !q.target.insecure {
			return notAllowed("tls_insecure_skip_verify needs allow_insecure base_url")
		}
		if !t.pinned && t.TLS != nil && t.TLS.ServerName != "" && !strings.EqualFold(t.TLS.ServerName, q.target.base.Hostname()) {
			return notAllowed("tls_server_name must be the host of base_url")
		}
		return nil
	case namesSocket(dial), strings.EqualFold(dial.Address, q.target.dial):
		return nil
	default:
		return notAllowed("in the clear only the address of base_url itself may be dialed")
	}
}

// refusedMethod reports whether a method, in any case, could show the app our header or make a tunnel.
func refusedMethod(method string) bool {
	return strings.EqualFold(method, http.MethodTrace) || strings.EqualFold(method, http.MethodConnect)
}

// namesSocket tells whether the config names the unix socket to dial, and not the request.
func namesSocket(dial reverseproxy.DialInfo) bool {
	return strings.HasPrefix(dial.Network, "unix") && dial.Upstream != nil && !strings.Contains(dial.Upstream.Dial, "{")
}

// notAllowed is a final request that rule 16 forbids.
func notAllowed(details string) *forwardError {
	e := misconfigured("the request is not sent: " + details)
	e.gated = true
	return e
}

// sendWithRetry sends a request with token, or without one when token is nil, and replays it once when
// the API rejects the token (rule 18).
func (t *forwardTransport) sendWithRetry(req *http.Request, q *forwardRequest, token *grantedToken) (*http.Response, error) {
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
	closeBody(res.Body)
	q.conn.metrics.unauthorized(unauthorizedReplayed)
	return t.sendWithNonce(req, q, newer, body)
}

// sendWithNonce sends a copy of a request, and once more when the API wants a nonce in the proof of
// possession and gives one (RFC 9449 §9): that one, whatever other requests are told meanwhile.
func (t *forwardTransport) sendWithNonce(req *http.Request, q *forwardRequest, token *grantedToken, body *replayBody) (*http.Response, error) {
	res, err := t.sendOnce(req, q, token, body, "")
	if err != nil || !needsNonce(res, token) {
		return res, err
	}
	nonce := nonceIn(res.Header)
	if nonce == "" || !body.rewind() {
		return res, nil
	}
	closeBody(res.Body)
	return t.sendOnce(req, q, token, body, nonce)
}

// rejected tells whether the API's response says that the token is no good.
func (q *forwardRequest) rejected(res *http.Response, token *grantedToken) bool {
	return res.StatusCode == http.StatusUnauthorized && token != nil &&
		q.options.retryUnauthorized && !insufficientScope(res.Header) && !needsNonce(res, token)
}

// newerToken replaces a rejected token, and waits for it if the request can be replayed at all.
func (q *forwardRequest) newerToken(req *http.Request, rejected *grantedToken, body *replayBody) *grantedToken {
	if body.replayable() {
		return q.conn.tokens.replace(req.Context(), rejected)
	}
	q.conn.tokens.invalidate(rejected)
	return nil
}

// sendOnce sends one copy of a request. nonce is what a proof of possession is to contain; "": the
// newest of the API's.
func (t *forwardTransport) sendOnce(req *http.Request, q *forwardRequest, token *grantedToken, body *replayBody, nonce string) (*http.Response, error) {
	// The copy is shallow: request trailers arrive in the very map that req holds.
	out := &struct {
		req http.Request
		url url.URL
	}{*req, *req.URL}
	out.req.URL = &out.url
	q.target.rewrite(&out.url)
	out.req.Host = q.target.base.Host
	out.req.Header = q.header(req.Header, token, t.proxyFields)
	if reader := body.attempt(); reader != nil {
		out.req.Body = reader
	}
	if t.pinned || t.ProxyProtocol != "" {
		out.url.Host = req.URL.Host
	}
	if token != nil {
		q.remember(token.value)
	}
	if token == nil || token.key == nil {
		return t.roundTrip(&out.req, token)
	}
	place := out.url
	place.Host = q.target.base.Host // whatever stands there for dialing
	return t.sendWithProof(&out.req, &place, token, nonce)
}

// sendWithProof sends a request for a place with a proof of possession, and keeps the nonce in the
// response.
func (t *forwardTransport) sendWithProof(out *http.Request, place *url.URL, token *grantedToken, nonce string) (*http.Response, error) {
	nonces := &token.key.apiNonces
	nonce = cmp.Or(nonce, nonces.get(place))
	proven, err := withDPoPProof(out, func() (string, error) {
		return token.key.proof(out.Method, place, token.value, nonce)
	})
	if err != nil {
		closeBody(out.Body)
		return nil, misconfigured(err.Error())
	}
	res, err := t.roundTrip(proven, token)
	if err == nil {
		nonces.set(place, res.Header)
	}
	return res, err
}

// roundTrip hands a request to the http transport: to the one that shows the client certificate that
// the token is bound to, if it is (RFC 8705 §3).
func (t *forwardTransport) roundTrip(out *http.Request, token *grantedToken) (*http.Response, error) {
	out, err := t.throughForwardProxy(out)
	if err != nil {
		closeBody(out.Body)
		return nil, err
	}
	if t.certified != nil && token != nil && token.certificate != nil {
		return t.certified.transportFor(token.certificate).RoundTrip(out)
	}
	return t.roundTripper.RoundTrip(out)
}

// Cleanup closes idle connections.
func (t *forwardTransport) Cleanup() error {
	if t.certified != nil {
		t.certified.CloseIdleConnections()
	}
	return t.HTTPTransport.Cleanup()
}

// closeBody closes a request's body that is not going to be sent.
func closeBody(body io.Closer) {
	if body != nil {
		_ = body.Close()
	}
}
