package httphelper

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// route is a way to an API: an http transport that keeps to the rules.
type route struct {
	*reverseproxy.HTTPTransport

	inner http.RoundTripper // the same: a seam for benchmarks

	forwardProxy func(*http.Request) (*url.URL, error) // for throughForwardProxy alone

	// TLS verifies the base URL's host whatever address is dialed, so that requests may be told
	// apart by that address: each upstream has connections of its own.
	pinned bool

	// reverse_proxy has removed what tells of a proxy; what there is now, the user has set.
	headerUp bool

	// For tokens that are bound to a client certificate; nil: there are none.
	certified *certificateTransports
}

// newRoute builds the http transport that raw configures: for conn, or for any connection.
func newRoute(ctx caddy.Context, raw json.RawMessage, conn *activeConnection, headerUp bool) (*route, error) {
	r := &route{HTTPTransport: new(reverseproxy.HTTPTransport), headerUp: headerUp}
	r.inner = r.HTTPTransport
	if err := json.Unmarshal(raw, r.HTTPTransport); err != nil {
		return nil, err
	}
	if r.Compression == nil {
		// The app and the API agree on it. Net/http would ask for it by itself, and undo it unseen.
		r.Compression = new(bool)
	}
	if conn != nil && conn.fixed != nil {
		r.pinned = true
		if conn.fixed.base.Scheme == "https" {
			r.pinName(conn.fixed.base.Hostname())
		}
	}
	if err := provisionTransport(ctx, r.HTTPTransport); err != nil {
		return nil, err
	}
	r.chooseForwardProxyFirst()
	if conn != nil && conn.certificate != nil {
		r.certified = &certificateTransports{base: r.Transport}
	}
	return r, nil
}

func (r *route) pinName(host string) {
	if r.TLS == nil {
		r.TLS = new(reverseproxy.TLSConfig)
	}
	r.TLS.ServerName = host
}

// refusalError carries a refusal through an http transport.
type refusalError struct{ *refusal }

func (e *refusalError) Error() string { return e.details }

// refuses checks where a request is about to go (rule 16).
func (r *route) refuses(req *http.Request, g *grant) *refusal {
	dial, ok := reverseproxy.GetDialInfo(req.Context())
	switch {
	case !ok:
		return notAllowed("no upstream was chosen")
	case refusedMethod(req.Method), req.URL.Opaque != "", cleanPathOf(req.URL) != nil:
		return notAllowed("its method or path has been changed to one that is refused")
	case req.Response != nil && req.Response.Request != nil && req.URL.Host != req.Response.Request.URL.Host:
		return notAllowed("a redirect leads away from base_url")
	case g.target.base.Scheme == "https":
		if r.TLS != nil && r.TLS.InsecureSkipVerify && !g.target.insecure {
			return notAllowed("tls_insecure_skip_verify needs allow_insecure base_url")
		}
		if !r.pinned && r.TLS != nil && r.TLS.ServerName != "" && !strings.EqualFold(r.TLS.ServerName, g.target.base.Hostname()) {
			return notAllowed("tls_server_name must be the host of base_url")
		}
		return nil
	case namesSocket(dial), strings.EqualFold(dial.Address, g.target.dial):
		return nil
	default:
		return notAllowed("in the clear only the address of base_url itself may be dialed")
	}
}

// namesSocket tells whether the config names the unix socket to dial, and not the request.
func namesSocket(dial reverseproxy.DialInfo) bool {
	return strings.HasPrefix(dial.Network, "unix") && dial.Upstream != nil && !strings.Contains(dial.Upstream.Dial, "{")
}

// notAllowed is a final request that rule 16 forbids.
func notAllowed(details string) *refusal {
	refused := misconfigured("the request is not sent: " + details)
	refused.gate = true
	return refused
}

// exchange sends a request with token, or without one when token is nil, and replays it once when
// the API rejects the token (rule 18).
func (r *route) exchange(req *http.Request, g *grant, token *grantedToken) (*http.Response, error) {
	body := newReplayBody(req, *g.injection.ReplayBuffer, g)
	defer body.finish()
	res, err := r.present(req, g, token, body)
	if err != nil || !g.rejected(res, token) {
		return res, err
	}
	newer := g.newerToken(req, token, body)
	if newer == nil || !body.rewind() {
		return res, nil
	}
	closeBody(res.Body)
	g.conn.metrics.replayed.Inc()
	return r.present(req, g, newer, body)
}

// present sends a copy of a request, and once more when the API wants a nonce in the proof of
// possession and gives one (RFC 9449 §9): that one, whatever other requests are told meanwhile.
func (r *route) present(req *http.Request, g *grant, token *grantedToken, body *replayBody) (*http.Response, error) {
	res, err := r.attempt(req, g, token, body, "")
	if err != nil || !wantsNonce(res, token) {
		return res, err
	}
	nonce := nonceIn(res.Header)
	if nonce == "" || !body.rewind() {
		return res, nil
	}
	closeBody(res.Body)
	return r.attempt(req, g, token, body, nonce)
}

// rejected tells whether the API's answer says that the token is no good.
func (g *grant) rejected(res *http.Response, token *grantedToken) bool {
	return res.StatusCode == http.StatusUnauthorized && token != nil &&
		g.injection.OnUnauthorized == unauthorizedRetry && !insufficientScope(res.Header) && !wantsNonce(res, token)
}

// newerToken replaces a rejected token, and waits for it if the request can be replayed at all.
func (g *grant) newerToken(req *http.Request, rejected *grantedToken, body *replayBody) *grantedToken {
	if body.replayable() {
		return g.conn.source.reject(req.Context(), rejected)
	}
	g.conn.source.reject(canceled, rejected)
	return nil
}

// attempt sends one copy of a request. nonce is what a proof of possession is to contain; "": the
// newest of the API's.
func (r *route) attempt(req *http.Request, g *grant, token *grantedToken, body *replayBody, nonce string) (*http.Response, error) {
	// The copy is shallow: request trailers arrive in the very map that req holds.
	out := &struct {
		req http.Request
		url url.URL
	}{*req, *req.URL}
	out.req.URL = &out.url
	g.target.place(&out.url)
	out.req.Host = g.target.base.Host
	out.req.Header = g.header(req.Header, token, r.headerUp)
	if reader := body.attempt(); reader != nil {
		out.req.Body = reader
	}
	if r.pinned || r.ProxyProtocol != "" {
		out.url.Host = req.URL.Host
	}
	if token != nil {
		g.remember(token.value)
	}
	if token == nil || token.key == nil {
		return r.roundTrip(&out.req, token)
	}
	place := out.url
	place.Host = g.target.base.Host // whatever stands there for dialing
	return r.roundTripProven(&out.req, &place, token, nonce)
}

// roundTripProven sends a request for a place with a proof of possession, and keeps the nonce in the
// answer.
func (r *route) roundTripProven(out *http.Request, place *url.URL, token *grantedToken, nonce string) (*http.Response, error) {
	nonces := &token.key.apiNonces
	nonce = orDefault(nonce, nonces.of(place))
	proven, err := provenAnew(out, func() (string, error) {
		return token.key.proof(out.Method, place, token.value, nonce)
	})
	if err != nil {
		closeBody(out.Body)
		return nil, &refusalError{misconfigured(err.Error())}
	}
	res, err := r.roundTrip(proven, token)
	if err == nil {
		nonces.learn(place, res.Header)
	}
	return res, err
}

// roundTrip hands a request to the http transport: to the one that shows the client certificate that
// the token is bound to, if it is (RFC 8705 §3).
func (r *route) roundTrip(out *http.Request, token *grantedToken) (*http.Response, error) {
	out, err := r.throughForwardProxy(out)
	if err != nil {
		closeBody(out.Body)
		return nil, err
	}
	if r.certified != nil && token != nil && token.certificate != nil {
		return r.certified.showing(token.certificate).RoundTrip(out)
	}
	return r.inner.RoundTrip(out)
}

// Cleanup closes idle connections.
func (r *route) Cleanup() error {
	if r.certified != nil {
		r.certified.CloseIdleConnections()
	}
	return r.HTTPTransport.Cleanup()
}

// header is what the API gets: the app's header without what only the sidecar may say, and what the
// sidecar says. Values are shared with the app's header, whose map stays as it is.
func (g *grant) header(app http.Header, token *grantedToken, tellsOfProxy bool) http.Header {
	header := maps.Clone(app)
	if header == nil {
		header = make(http.Header)
	}
	maps.DeleteFunc(header, func(field string, _ []string) bool { return !g.mayPass(field, tellsOfProxy) })
	if offersHTTP2(header["Upgrade"]) {
		delete(header, "Upgrade")
		delete(header, "Connection")
	}
	for _, field := range g.target.headers {
		header[field.Name] = []string{field.Value}
	}
	if token != nil {
		header[g.injection.AccessTokenHeader.Field] = g.conn.headerValue(g, g.injection, token)
	}
	return header
}

// mayPass tells whether a field of the app's header goes on to the API (rules 15 and 17), also
// under a name that some servers take for the same.
func (g *grant) mayPass(field string, tellsOfProxy bool) bool {
	if field == "Authorization" {
		return g.keep
	}
	if alike := withHyphens(field); alike != field {
		field, tellsOfProxy = alike, false
	}
	if sameField(field, g.injection.AccessTokenHeader.Field) || slices.Contains(callerFields, field) {
		return false
	}
	if !tellsOfProxy && isProxyField(field) {
		return false
	}
	return !slices.ContainsFunc(g.target.headers, func(f Field) bool { return sameField(field, f.Name) })
}

// mayTrail tells whether a field may stand in a trailer of the app's: some servers merge trailers
// into the header.
func (g *grant) mayTrail(field string) bool {
	return field != "Authorization" && g.mayPass(field, false)
}

// sameField tells whether some servers take name for field, which has hyphens only.
func sameField(field, name string) bool {
	return len(field) == len(name) && field == withHyphens(name)
}

// withHyphens is the name of a field for servers that tell hyphens and underscores not apart.
func withHyphens(field string) string {
	if !strings.Contains(field, "_") {
		return field
	}
	return http.CanonicalHeaderKey(strings.ReplaceAll(field, "_", "-"))
}

// offersHTTP2 tells whether the app offers to go on in HTTP/2 on a connection of its own. There its
// requests would be beyond all rules. Some clients offer it with every request, so it is no error.
func offersHTTP2(upgrade []string) bool {
	return slices.ContainsFunc(upgrade, func(protocols string) bool { return strings.Contains(strings.ToLower(protocols), "h2c") })
}

// callerFields are never the app's to send: credentials of other schemes, and what proxies say of a
// client certificate (RFC 9440).
var callerFields = []string{"Proxy-Authorization", "Dpop", "Client-Cert", "Client-Cert-Chain"}

// addedFields are what reverse_proxy tells every API of itself.
var addedFields = []string{"Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// isProxyField tells whether a field tells the API of a proxy.
func isProxyField(field string) bool {
	return field == "Via" || field == "Forwarded" || strings.HasPrefix(field, "X-Forwarded-")
}

// withoutOurQuery takes the fields out of a place behind the sidecar, which adds them again: servers
// repeat a request's query when they redirect it. A place elsewhere stays as it is.
func withoutOurQuery(location string, fields []Field) string {
	place, fragment, hasFragment := strings.Cut(location, "#")
	path, query, _ := strings.Cut(place, "?")
	if query == "" || len(fields) == 0 || !strings.HasPrefix(path, "/") {
		return location
	}
	place = path
	if kept := otherPairs(query, fields); len(kept) > 0 {
		place += "?" + strings.Join(kept, "&")
	}
	if hasFragment {
		place += "#" + fragment
	}
	return place
}

// otherPairs are the pairs of a raw query that do not have the name of any of the fields.
func otherPairs(raw string, fields []Field) []string {
	if raw == "" {
		return nil
	}
	return slices.DeleteFunc(strings.Split(raw, "&"), func(pair string) bool { return namesAny(pair, fields) })
}

// withQuery replaces the fields in a raw query and leaves the rest as it was written.
func withQuery(raw string, fields []Field) string {
	kept := otherPairs(raw, fields)
	for _, f := range fields {
		kept = append(kept, url.QueryEscape(f.Name)+"="+url.QueryEscape(f.Value))
	}
	return strings.Join(kept, "&")
}

// namesAny tells whether a pair of a query, or a part of it at a semicolon, which some servers take
// for a separator too, has the name of one of the fields.
func namesAny(pair string, fields []Field) bool {
	for part := range strings.SplitSeq(pair, ";") {
		name, _, _ := strings.Cut(part, "=")
		if decoded, err := url.QueryUnescape(name); err == nil {
			name = decoded
		}
		for _, f := range fields {
			if f.Name == name {
				return true
			}
		}
	}
	return false
}

// acceptsTransport checks the options of an http transport that could send c's token elsewhere.
func (c *activeConnection) acceptsTransport(t *reverseproxy.HTTPTransport) error {
	if t.TLS == nil {
		return nil
	}
	if t.TLS.InsecureSkipVerify && !c.service.allowsInsecure("base_url") {
		return fmt.Errorf("connection %s: tls_insecure_skip_verify needs allow_insecure base_url", c.name)
	}
	if c.fixed == nil {
		return nil
	}
	if name := t.TLS.ServerName; name != "" && !strings.EqualFold(name, c.fixed.base.Hostname()) {
		return fmt.Errorf("connection %s: tls_server_name must be the host of base_url; name the certificate's host there and the address to dial with to", c.name)
	}
	return nil
}

// needsOwnRoute tells whether c's requests must not share connections with others': alone, since it
// costs nothing then and several upstreams may be dialed.
func (c *activeConnection) needsOwnRoute(alone bool) bool {
	return c.certificate != nil || (alone && c.fixed != nil)
}
