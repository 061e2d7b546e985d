package httphelper

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
)

// remember takes note of a token that is sent. An API may quote one long after, such as the rejected
// one in the answer to the replay.
func (g *grant) remember(token string) {
	if g.token != "" && g.token != token {
		g.older = append(g.older, g.token)
	}
	g.token = token
}

// hideEchoes puts marks into an answer's header where it holds a secret of the request. So reverse_proxy,
// which logs the header and keeps it in placeholders, does not know the secret, but header_down and
// handle_response find the fields as ever.
func (g *grant) hideEchoes(answer *http.Response) {
	for field, values := range answer.Header {
		for i, value := range values {
			if g.isEcho(value) {
				values[i] = g.hide(field, value)
			}
		}
	}
	if g.isEcho(answer.Status) {
		answer.Status = strconv.Itoa(answer.StatusCode) + " " + http.StatusText(answer.StatusCode)
	}
}

// hiddenValue is a value of an answer's header that the app gets and reverse_proxy does not.
type hiddenValue struct{ field, mark, value string }

// hide returns the mark for a value. Without a handler of ours nobody can show it to the app later.
func (g *grant) hide(field, value string) string {
	if g.toApp == nil {
		return redacted
	}
	mark := redacted + strconv.Itoa(len(g.hidden)) + redacted
	g.hidden = append(g.hidden, hiddenValue{field, mark, value})
	return mark
}

// showEchoes puts what was hidden into the header that the app gets, which reads all that the API has said.
func (g *grant) showEchoes() {
	if len(g.hidden) == 0 {
		return
	}
	for field, values := range g.toApp {
		field = http.CanonicalHeaderKey(field)
		for _, h := range g.hidden {
			if field != h.field {
				continue
			}
			for i, value := range values {
				values[i] = strings.ReplaceAll(value, h.mark, h.value)
			}
		}
	}
}

// dropEchoes removes the fields that hold a secret: after the answer, when the header only goes to
// the access log, and trailers to the app.
func (g *grant) dropEchoes() {
	for field, values := range g.toApp {
		if slices.ContainsFunc(values, g.isEcho) {
			delete(g.toApp, field)
		}
	}
}

// isEcho tells whether a value of an answer's header holds a secret of the request.
func (g *grant) isEcho(value string) bool {
	return g.holdsSecret(value) || strings.Contains(value, "%") && g.holdsEscaped(value)
}

// holdsEscaped tells whether a text holds a secret with percent signs, as in a query or a cookie, also
// when a place in it is escaped once more.
func (g *grant) holdsEscaped(text string) bool {
	for range 2 {
		text = decodeLeniently(text)
		if g.holdsSecret(text) {
			return true
		}
	}
	return false
}

// holdsSecret tells whether a text holds a secret of the request as it is.
func (g *grant) holdsSecret(text string) bool {
	holds := func(secret string) bool { return strings.Contains(text, secret) }
	if g.token != "" && holds(g.token) || slices.ContainsFunc(g.older, holds) {
		return true
	}
	return slices.ContainsFunc(g.target.secrets, func(secret string) bool {
		return len(secret) >= minPiece && holds(secret)
	})
}

// errNoAnswer stands for errors that may quote what the API says.
var errNoAnswer = errors.New("the API's answer broke off or is not HTTP")

// quietError lets only errors pass that tell of the network, of TLS or of the app. Those of net/http
// about an answer that is not HTTP quote it, and it may hold the token.
func quietError(err error) error {
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
	return errNoAnswer
}

// quietBody is an answer's body with quiet errors: those about trailers quote them.
type quietBody struct {
	io.ReadCloser
	res *http.Response
}

// Read implements io.Reader.
func (b quietBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	dropOwnProxyStatus(b.res.Trailer)
	return n, quietError(err)
}

// quiet wraps the body of an answer, unless it is none or a tunnel.
func quiet(res *http.Response) {
	if res.Body != http.NoBody && res.StatusCode != http.StatusSwitchingProtocols {
		res.Body = quietBody{res.Body, res}
	}
}
