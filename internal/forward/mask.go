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
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// remember takes note of a token that is sent. An API may quote one long after, such as the rejected
// one in the response to the replay.
func (q *Request) remember(token string) {
	if q.token != "" && q.token != token {
		q.older = append(q.older, q.token)
	}
	q.token = token
}

// maskSecrets puts marks into a response's header where it holds a secret of the request. So reverse_proxy,
// which logs the header and keeps it in placeholders, does not know the secret, but header_down and
// handle_response find the fields as ever.
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

// maskedValue is a value of a response's header that the app gets and reverse_proxy does not.
type maskedValue struct{ field, mark, value string }

// mask returns the mark for a value. Without a handler of ours nobody can show it to the app later.
func (q *Request) mask(field, value string) string {
	if q.appHeader == nil {
		return redact.Mark
	}
	mark := redact.Mark + strconv.Itoa(len(q.maskedValues)) + redact.Mark
	q.maskedValues = append(q.maskedValues, maskedValue{field, mark, value})
	return mark
}

// unmask puts what was hidden into the header that the app gets, which reads all that the API has said.
func (q *Request) unmask() {
	if len(q.maskedValues) == 0 {
		return
	}
	for field, values := range q.appHeader {
		field = http.CanonicalHeaderKey(field)
		for _, h := range q.maskedValues {
			if field != h.field {
				continue
			}
			for i, value := range values {
				values[i] = strings.ReplaceAll(value, h.mark, h.value)
			}
		}
	}
}

// dropSecrets removes the fields that hold a secret: after the response, when the header only goes to
// the access log, and trailers to the app.
func (q *Request) dropSecrets() {
	for field, values := range q.appHeader {
		if slices.ContainsFunc(values, q.quotesSecret) {
			delete(q.appHeader, field)
		}
	}
}

// quotesSecret tells whether a value of a response's header holds a secret of the request.
func (q *Request) quotesSecret(value string) bool {
	return q.holdsSecret(value) || strings.Contains(value, "%") && q.holdsEscaped(value)
}

// holdsEscaped tells whether a text holds a secret with percent signs, as in a query or a cookie, also
// when a place in it is escaped once more.
func (q *Request) holdsEscaped(text string) bool {
	for range 2 {
		text = httpguard.DecodeLeniently(text)
		if q.holdsSecret(text) {
			return true
		}
	}
	return false
}

// holdsSecret tells whether a text holds a secret of the request as it is.
func (q *Request) holdsSecret(text string) bool {
	holds := func(secret string) bool { return strings.Contains(text, secret) }
	if q.token != "" && holds(q.token) || slices.ContainsFunc(q.older, holds) {
		return true
	}
	return slices.ContainsFunc(q.Target.Secrets, func(secret string) bool {
		return len(secret) >= redact.MinLength && holds(secret)
	})
}

// errNoResponse replaces errors that may quote what the API says.
var errNoResponse = errors.New("the API's response broke off or is not HTTP")

// sanitizeError lets only errors pass that tell of the network, of TLS or of the app. Those of net/http
// about a response that is not HTTP quote it, and it may hold the token.
func sanitizeError(err error) error {
	for _, known := range []error{io.EOF, nil, context.Canceled, io.ErrUnexpectedEOF, errBodyTaken} {
		if errors.Is(err, known) {
			return err
		}
	}
	var (
		network      net.Error
		dial         reverseproxy.DialError
		verification *tls.CertificateVerificationError
		noTLS        tls.RecordHeaderError
		app          caddyhttp.HandlerError
	)
	if errors.As(err, &network) || errors.As(err, &dial) || errors.As(err, &verification) || errors.As(err, &noTLS) || errors.As(err, &app) {
		return err
	}
	return errNoResponse
}

// sanitizedBody is a response's body with sanitized errors: those about trailers quote them.
type sanitizedBody struct {
	io.ReadCloser
	res *http.Response
}

// Read implements io.Reader.
func (b sanitizedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	dropOwnProxyStatus(b.res.Trailer)
	return n, sanitizeError(err)
}

// sanitizeBody wraps the body of a response, unless it is none or a tunnel.
func sanitizeBody(res *http.Response) {
	if res.Body != http.NoBody && res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = sanitizedBody{res.Body, res}
	}
}

// responseWriter unmasks for the app what was masked for reverse_proxy. It keeps an API from speaking in our
// name in an informational response, such as 103 early hints, which goes straight from its connection
// to the app.
type responseWriter struct {
	caddyhttp.ResponseWriterWrapper

	request *Request
}

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	if status < http.StatusOK && status != http.StatusSwitchingProtocols {
		dropOwnProxyStatus(w.Header())
	} else {
		w.request.unmask()
	}
	w.ResponseWriterWrapper.WriteHeader(status)
}

var _ http.ResponseWriter = (*responseWriter)(nil)
