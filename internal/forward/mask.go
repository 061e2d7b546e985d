package forward

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// remember remembers a token that is sent. An API may quote it later, for example the rejected token in
// its response to the replay.
func (q *Request) remember(token *oauth.Token) {
	if q.token != nil && q.token != token {
		q.older = append(q.older, q.token)
	}
	q.token = token
}

// sentSecrets returns the tokens that were sent, and the secrets that they were requested with.
func (q *Request) sentSecrets() []string {
	var secrets []string
	for _, token := range append(slices.Clone(q.older), q.token) {
		if token != nil {
			secrets = append(append(secrets, token.Value), token.RequestSecrets...)
		}
	}
	return secrets
}

// maskSecrets replaces the values of a response's header that contain a secret of the request with
// marks. So reverse_proxy, which logs the header and keeps it in placeholders, does not see the secret,
// but `header_down` and `handle_response` see the fields.
func (q *Request) maskSecrets(res *http.Response) {
	for field, values := range res.Header {
		for i, value := range values {
			if q.quotesSecret(value) {
				values[i] = q.mask(field, value)
			}
		}
	}
	if q.quotesSecret(res.Status) {
		res.Status = strconv.Itoa(res.StatusCode) + " " + http.StatusText(res.StatusCode)
	}
}

// maskedValue is a value of a response's header that the app gets and reverse_proxy does not see.
type maskedValue struct{ field, mark, value string }

// mask returns the mark for a value. If the request is not served by Serve, the value is lost, because
// nothing unmasks it.
func (q *Request) mask(field, value string) string {
	if q.appHeader == nil {
		return redact.Mark
	}
	mark := redact.Mark + strconv.Itoa(len(q.maskedValues)) + redact.Mark
	q.maskedValues = append(q.maskedValues, maskedValue{field, mark, value})
	return mark
}

// unmask restores the masked values in the header that the app gets.
func (q *Request) unmask() {
	if len(q.maskedValues) == 0 {
		return
	}
	for field, values := range q.appHeader {
		field = http.CanonicalHeaderKey(field)
		for _, masked := range q.maskedValues {
			if field != masked.field {
				continue
			}
			for i, value := range values {
				values[i] = strings.ReplaceAll(value, masked.mark, masked.value)
			}
		}
	}
}

// dropSecrets removes the fields that contain a secret once the response's header is sent: then the
// header is only read for trailers, the access log, and by handlers before this one, whose placeholders
// name its fields: Caddy's tracing does.
func (q *Request) dropSecrets() {
	for field, values := range q.appHeader {
		if slices.ContainsFunc(values, q.quotesSecret) {
			delete(q.appHeader, field)
		}
	}
}

// quotesSecret reports whether a value of a response's header contains a secret of the request.
func (q *Request) quotesSecret(value string) bool {
	return q.containsSecret(value) || strings.Contains(value, "%") && q.containsEscaped(value)
}

// containsEscaped reports whether a text contains a percent-encoded secret, as in a query or a cookie,
// or one that is encoded twice, as in a URL within a query.
func (q *Request) containsEscaped(text string) bool {
	for range 2 {
		text = httpguard.DecodeLeniently(text)
		if q.containsSecret(text) {
			return true
		}
	}
	return false
}

// containsSecret reports whether a text contains a secret of the request literally.
func (q *Request) containsSecret(text string) bool {
	contains := func(secret string) bool { return len(secret) >= redact.MinLength && strings.Contains(text, secret) }
	ofToken := func(token *oauth.Token) bool {
		return strings.Contains(text, token.Value) || slices.ContainsFunc(token.RequestSecrets, contains)
	}
	if q.token != nil && ofToken(q.token) || slices.ContainsFunc(q.older, ofToken) {
		return true
	}
	return slices.ContainsFunc(q.Target.Secrets, contains)
}

// sanitizeError returns err if it is about the network, TLS or the app, and errNoResponse otherwise:
// net/http's errors about a response that is not HTTP quote it, and it may contain the token.
func sanitizeError(err error) error {
	for _, known := range []error{io.EOF, context.Canceled, io.ErrUnexpectedEOF, errBodyTaken} {
		if errors.Is(err, known) {
			return err
		}
	}
	for _, known := range []any{new(net.Error), new(reverseproxy.DialError), new(*tls.CertificateVerificationError), new(tls.RecordHeaderError), new(caddyhttp.HandlerError), new(apiError), new(neterror.ProxyStatusError), new(neterror.ProxyURLError)} {
		if errors.As(err, known) {
			return err
		}
	}
	return errNoResponse
}

// sanitizedBody is a response's body with sanitized errors: those about trailers quote the trailers.
type sanitizedBody struct {
	io.ReadCloser
	res     *http.Response
	request *Request
}

// Read implements io.Reader.
func (b sanitizedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	if len(b.res.Trailer) > 0 {
		b.request.trailed = true
		dropOwnProxyStatus(b.res.Trailer)
	}
	err = sanitizeError(err)
	if err != io.EOF {
		b.request.broken = err
	}
	return n, err
}

// sanitizeBody wraps the body of a response, unless there is none or it is a tunnel.
func (q *Request) sanitizeBody(res *http.Response) {
	if res.Body != http.NoBody && res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = sanitizedBody{res.Body, res, q}
	}
}

// responseWriter unmasks for the app what was masked for reverse_proxy. In an informational response,
// such as 103 Early Hints, which does not pass the transport, it drops members of Proxy-Status that
// claim to be this proxy's. It drops the API's 100 Continue: net/http's server sends one itself when the
// transport begins to read the body, and some clients do not expect two. It also drops the status that
// reverse_proxy writes in place of an Error, which Serve writes.
type responseWriter struct {
	caddyhttp.ResponseWriterWrapper

	request *Request
}

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	switch {
	case status == http.StatusContinue, status == statusClientClosedRequest && w.request.denied != nil,
		status == http.StatusSwitchingProtocols && !w.request.responded: // an HTTP/2 API's, which means nothing
		return
	case status < http.StatusOK && status != http.StatusSwitchingProtocols:
		dropOwnProxyStatus(w.Header())
	default:
		if w.request.responded {
			w.request.countResponse()
		}
		keepUntyped(w.Header())
		w.request.unmask()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

var _ http.ResponseWriter = (*responseWriter)(nil)
