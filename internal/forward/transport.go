package forward

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// Transport sends requests to an API through Caddy's http transport, and keeps to the rules.
type Transport struct {
	*reverseproxy.HTTPTransport

	// Base makes the round trips. Default: HTTPTransport; benchmarks replace it.
	Base http.RoundTripper

	forwardProxy func(*http.Request) (*url.URL, error) // used by throughForwardProxy only

	// pinned: TLS verifies the host of the base URL whatever address is dialed. So the URL of a request
	// may name that address, and each upstream gets connections of its own.
	pinned bool

	// proxyFields: Via, Forwarded and X-Forwarded-* were set by the user and pass.
	proxyFields bool

	certified *httptransport.ByCertificate // nil: no token is bound to a client certificate

	// insecure: requests in the clear may go to any address, also where they are for localhost.
	insecure bool

	cleanedUp atomic.Bool // whether nobody closes idle connections any more
}

// TransportOptions say which requests a transport is for.
type TransportOptions struct {
	// Target is the target of all requests. Nil means that they may have any.
	Target *Target

	// Insecure says that requests in the clear may go to hosts that are not loopback.
	Insecure bool

	// Certificate says that tokens may be bound to a client certificate.
	Certificate bool

	// ProxyFields says that Via, Forwarded and X-Forwarded-* in a request were set by the user, because
	// reverse_proxy has removed its own.
	ProxyFields bool

	// Own are where connections to this machine are noted, if not nil.
	Own *OwnConnections
}

// defaultExpectContinueTimeout is how long a body of the app waits for the API's 100 Continue, if the app
// expects one. Caddy's default is not to wait, which sends large bodies in vain.
const defaultExpectContinueTimeout = caddy.Duration(2 * time.Second)

// defaultIdleConnections is how many idle connections to an address stay open. Caddy's default of 32 is meant for
// many upstreams. A sidecar has one API: with more requests at a time, it would close connections all the time
// and open others. More than this would pay only for larger bursts, and keep memory for two minutes after each.
const defaultIdleConnections = 128

// NewTransport returns a transport with raw as the configuration of the http transport.
func NewTransport(ctx caddy.Context, raw json.RawMessage, o TransportOptions) (*Transport, error) {
	t := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), pinned: o.Target != nil, proxyFields: o.ProxyFields, insecure: o.Insecure}
	t.Base = t.HTTPTransport
	if err := json.Unmarshal(raw, t.HTTPTransport); err != nil {
		return nil, err
	}
	t.ExpectContinueTimeout = cmp.Or(t.ExpectContinueTimeout, defaultExpectContinueTimeout)
	t.KeepAlive = cmp.Or(t.KeepAlive, new(reverseproxy.KeepAlive))
	t.KeepAlive.MaxIdleConnsPerHost = cmp.Or(t.KeepAlive.MaxIdleConnsPerHost, defaultIdleConnections)
	// The app and the API negotiate compression; net/http would request and undo it unseen.
	t.Compression = cmp.Or(t.Compression, new(bool))
	if t.pinned && o.Target.Base.Scheme == "https" {
		t.TLS = cmp.Or(t.TLS, new(reverseproxy.TLSConfig))
		t.TLS.ServerName = o.Target.Base.Hostname()
	}
	if err := httptransport.Provision(ctx, t.HTTPTransport); err != nil {
		return nil, err
	}
	t.chooseForwardProxyFirst()
	t.Transport.DialContext = o.Own.dialing(t.Transport.DialContext)
	if o.Certificate {
		t.certified = &httptransport.ByCertificate{Base: t.Transport}
	}
	return t, nil
}

// check refuses a request that is about to go where the token must not go (rule 16).
func (t *Transport) check(req *http.Request, q *Request) error {
	dial, ok := q.dialInfo(req)
	switch {
	case !ok:
		return NotAllowed("no upstream was chosen")
	case RefusesMethod(req.Method), req.URL.Opaque != "", httpguard.CheckPath(req.URL) != nil:
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

// dialInfo returns the address to dial, and whether there is one: that of reverse_proxy's upstream, or the
// target's if a Proxy forwards the request.
func (q *Request) dialInfo(req *http.Request) (reverseproxy.DialInfo, bool) {
	if q.direct {
		return reverseproxy.DialInfo{Network: "tcp", Address: q.Target.Dial}, true
	}
	return reverseproxy.GetDialInfo(req.Context())
}

// RefusesMethod reports whether requests with a method, in any case, are not forwarded: TRACE could show
// the token to the app, and CONNECT makes a tunnel.
func RefusesMethod(method string) bool {
	return strings.EqualFold(method, http.MethodTrace) || strings.EqualFold(method, http.MethodConnect)
}

// namesSocket reports whether a unix socket is dialed whose name does not depend on the request.
func namesSocket(dial reverseproxy.DialInfo) bool {
	return strings.HasPrefix(dial.Network, "unix") && dial.Upstream != nil && !strings.Contains(dial.Upstream.Dial, "{")
}

// Send checks where a request goes (rule 16) and that it is permitted (rule 34), and sends it with the newest
// token, once more with a newer one when the API rejects the first (rule 18), and again when the API limits the
// rate (rule 36). The error is a *Error if the request must not be sent. Behind a handler that serves q, use
// q.RoundTrip instead.
func (t *Transport) Send(req *http.Request, q *Request) (*http.Response, error) {
	if err := t.check(req, q); err != nil {
		return nil, err
	}
	if refused := q.refuse(req); refused != nil {
		return nil, refused
	}
	token, err := q.currentToken(req)
	if err != nil {
		return nil, NoTokenError(q.Conn.Name, err)
	}
	q.rejectedBefore = false
	res, err := t.sendWithBody(req, q, token)
	if err != nil {
		return nil, transportError(err)
	}
	if err := q.loopIn(res); err != nil {
		return nil, err
	}
	if err := checkResponse(q.received, res); err != nil {
		CloseBody(res.Body)
		return nil, err
	}
	q.responded, q.status = true, res.StatusCode
	if q.rejected {
		q.Conn.Metrics.Count(telemetry.Passed)
	}
	q.limited = q.ofApp && limitsRate(res)
	// The response must not lead to the request that carries the token.
	res.Request = req
	dropOwnProxyStatus(res.Header)
	q.rewriteLocations(res.Header)
	if !q.direct {
		q.maskSecrets(res)
		q.markUntyped(res)
	}
	q.sanitizeBody(res)
	return res, nil
}

// currentToken returns the token that a request is sent with now, nil if it has an Authorization of its own.
// The error is a *oauth.Error, or that of the request's context.
func (q *Request) currentToken(req *http.Request) (*oauth.Token, error) {
	if q.keep {
		return nil, nil
	}
	return q.Conn.Tokens.Token(req.Context())
}

// transportError returns the *Error within an error of the http transport, or an error that quotes
// nothing of the API.
func transportError(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if reason := neterror.NotSent(err); reason != nil {
		return NotAllowed(reason.Error())
	}
	return sanitizeError(err)
}

// sendWithNonce sends a request once more when the API's response requires a nonce in the proof of possession
// and gives one (RFC 9449 §9). It uses that nonce even if other requests got newer ones meanwhile.
func (t *Transport) sendWithNonce(req *http.Request, q *Request, token *oauth.Token, body *replayBody, res *http.Response) (*http.Response, error) {
	if !oauth.NeedsNonce(res, token) {
		return res, nil
	}
	nonce := oauth.NonceIn(res.Header)
	if nonce == "" || !body.rewind() {
		return res, nil
	}
	CloseBody(res.Body)
	return t.sendOnce(req, q, token, body, nonce)
}

// sendOnce makes one attempt to send a request. A proof of possession contains nonce, or the API's newest nonce
// if that is empty. If the token is bound to a client certificate, the http transport with that certificate
// sends it (RFC 8705 §3).
func (t *Transport) sendOnce(req *http.Request, q *Request, token *oauth.Token, body *replayBody, nonce string) (*http.Response, error) {
	out, place, err := q.prove(t.outgoing(req, q, token, body), token, nonce)
	if err == nil {
		out, err = t.throughForwardProxy(out, q)
	}
	if err != nil {
		CloseBody(out.Body)
		return nil, err
	}
	if !t.insecure {
		out = httptransport.OnlyLoopback(out)
	}
	// Caddy lets requests under way go on after a reload. (The connection of an upgrade is never idle.)
	out.Close = out.Close || t.cleanedUp.Load() && out.Header.Get("Upgrade") == ""
	base := t.Base
	if t.certified != nil && token != nil && token.Certificate != nil {
		base = t.certified.For(token.Certificate)
	}
	began := time.Now()
	res, err := base.RoundTrip(out)
	q.took = time.Since(began)
	q.rejected = token != nil && err == nil && q.rejects(res)
	if place != nil && err == nil {
		token.DPoP.APINonces.Set(place, res.Header)
	}
	return res, err
}

// outgoing returns the request to send in one attempt, with the token.
func (t *Transport) outgoing(req *http.Request, q *Request, token *oauth.Token, body *replayBody) *http.Request {
	out, dialed := q.copy(req), req.URL.Host
	q.Target.rewrite(out.URL)
	out.Host = q.Target.Base.Host
	if out.ContentLength >= 0 {
		out.TransferEncoding = nil // the app's; request_buffers has found out the length
	}
	q.setHeader(out.Header, token, t.proxyFields)
	if reader := body.attempt(); reader != nil {
		out.Body, out.GetBody, out.Trailer = reader, body.again, reader.trailer
	}
	if t.pinned || t.ProxyProtocol != "" {
		out.URL.Host = dialed
	}
	if token != nil {
		q.remember(token)
	}
	return out
}

// prove returns a request with a proof of possession, if its token needs one, and the URL that the proof is for:
// the one without the address to dial.
func (q *Request) prove(out *http.Request, token *oauth.Token, nonce string) (*http.Request, *url.URL, error) {
	if token == nil || token.DPoP == nil {
		return out, nil, nil
	}
	place := *out.URL
	place.Host = q.Target.Base.Host
	nonce = cmp.Or(nonce, token.DPoP.APINonces.Get(&place))
	proven, err := oauth.WithDPoPProof(out, func() (string, error) {
		return token.DPoP.Proof(out.Method, &place, token.Value, nonce)
	})
	if err != nil {
		return out, nil, misconfigured(err.Error())
	}
	return proven, &place, nil
}

// copy returns a copy of a request for one attempt, with a URL and a header that may be changed. The first
// attempt of a Proxy sends the proxy's own copy of the app's request. Otherwise there is a new copy, because
// reverse_proxy still uses its request, and net/http may still read the one of an attempt before.
func (q *Request) copy(req *http.Request) *http.Request {
	if q.direct && !q.attempted {
		q.attempted = true
		return req
	}
	out := &struct {
		req http.Request
		url url.URL
	}{*req, *q.received.URL}
	out.req.URL = &out.url
	out.req.Header = maps.Clone(req.Header)
	return &out.req
}

// Cleanup closes idle connections to the API. Those of requests that are sent later end with them.
func (t *Transport) Cleanup() error {
	t.cleanedUp.Store(true)
	if t.certified != nil {
		t.certified.CloseIdleConnections()
	}
	return t.HTTPTransport.Cleanup()
}

// CloseBody closes the body of a request that is not sent. The body may be nil.
func CloseBody(body io.Closer) {
	if body != nil {
		_ = body.Close()
	}
}
