package httphelper

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	maxRetryAfter = 5 * time.Minute
	maxErrorCode  = 64

	tokenEndpoint = "the token endpoint"
)

// configurationCodes are the OAuth error codes that somebody has to do something about, and what.
// The others are an outage.
var configurationCodes = map[string]string{
	"invalid_client":         "check client_id, its secret or key, and auth_method",
	"invalid_scope":          "the client may not have a scope that is asked for: check the scopes",
	"unauthorized_client":    "the client is not allowed to use this grant",
	"unsupported_grant_type": "check token_url and grant_type",
	"invalid_request":        "check token_url, auth_method and token_request_param",
	"invalid_target":         "check resource and token_request_param",
	"access_denied":          "the client is not allowed to have this token",
}

// passingCodes are further error codes that standards define, so that they give nothing away.
var passingCodes = map[string]bool{
	"temporarily_unavailable": true,
	"server_error":            true,
	"slow_down":               true,
}

func configurationError(format string, args ...any) *tokenError {
	return &tokenError{class: classConfiguration, status: http.StatusBadGateway, message: fmt.Sprintf(format, args...)}
}

func outageError(format string, args ...any) *tokenError {
	return &tokenError{class: classOutage, status: http.StatusServiceUnavailable, message: fmt.Sprintf(format, args...)}
}

// tokenFailure returns the tokenError in err, or ctx's error. Whatever else the library says is
// not passed on, because it may quote the URL or the answer.
func tokenFailure(ctx context.Context, err error) error {
	if failure, ok := errors.AsType[*tokenError](err); ok {
		return failure
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return configurationError("making the token request failed: check token_url")
}

// networkFailure says why there is no complete answer of a server, in words of our own: those of
// net/http contain the URL and its query.
func networkFailure(ctx context.Context, server string, err error) error {
	var failure *tokenError
	switch {
	case errors.As(err, &failure):
		return failure
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, errCleartextProxy):
		return configurationError("%s is not asked: %v", server, errCleartextProxy)
	case deadlinePassed(ctx):
		return asTokenError(context.DeadlineExceeded)
	}
	failure = outageError("%s cannot be reached: %s", server, describeNetworkError(err))
	failure.transient = true
	return failure
}

// deadlinePassed looks at the time too: a dialer may notice it a moment before ctx does.
func deadlinePassed(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

func describeNetworkError(err error) string {
	if operation := new(net.OpError); errors.As(err, &operation) && operation.Op == "proxyconnect" {
		return "the forward proxy cannot be reached: " + networkErrorCause(err)
	}
	return networkErrorCause(err)
}

func networkErrorCause(err error) string {
	var (
		dns          *net.DNSError
		timeout      net.Error
		operation    *net.OpError
		noTLS        tls.RecordHeaderError
		unknown      x509.UnknownAuthorityError
		wrongName    x509.HostnameError
		invalid      x509.CertificateInvalidError
		verification *tls.CertificateVerificationError
		proxy        forwardProxyError
		noProxy      forwardProxyURLError
	)
	switch {
	case errors.As(err, &proxy):
		return proxy.Error()
	case errors.As(err, &noProxy):
		return noProxy.Error()
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &unknown):
		return "its TLS certificate is signed by an unknown authority"
	case errors.As(err, &wrongName):
		return "its TLS certificate is for another host name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its TLS certificate has expired or is not yet valid"
	case errors.As(err, &verification):
		return "its TLS certificate is not valid"
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS"
	case errors.As(err, &operation) && operation.Op == "remote error":
		return "it refused the TLS handshake; it may want a client_certificate"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "host unreachable"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	case errors.As(err, &dns):
		return "looking up its host name failed"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed before the answer was complete"
	default:
		return "the connection broke"
	}
}

// refused is the failure that an answer with this status and OAuth error code means.
func (r *tokenRequest) refused(resp *http.Response, code string) *tokenError {
	hint, mistake := configurationCodes[code]
	var failure *tokenError
	switch {
	case mistake && resp.StatusCode < http.StatusInternalServerError:
		failure = configurationError("%s refused the request (status %d): %s", tokenEndpoint, resp.StatusCode, hint)
	case resp.StatusCode < http.StatusMultipleChoices:
		failure = configurationError("%s answered with an error (status %d)", tokenEndpoint, resp.StatusCode)
	default:
		failure = unavailable(resp, tokenEndpoint)
	}
	failure.code = r.safeCode(code)
	failure.retryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	return failure
}

// unavailable is the outage that an answer with this status means.
func unavailable(resp *http.Response, server string) *tokenError {
	failure := outageError("%s answered with status %d%s", server, resp.StatusCode, statusHint(resp.StatusCode))
	failure.retryAfter = parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	failure.transient = resp.StatusCode >= http.StatusInternalServerError && failure.retryAfter == 0
	return failure
}

// statusHint says what a status without an error code that explains it often means.
func statusHint(status int) string {
	switch status {
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		return ": check token_url"
	case http.StatusUnauthorized, http.StatusForbidden:
		return ": check the client's credentials and auth_method"
	case http.StatusTooManyRequests:
		return ": it asks for fewer requests"
	default:
		return ""
	}
}

// safeCode returns the error code if it may be passed on: it fits RFC 6749 §5.2, is short and
// gives away nothing of a known secret.
func (r *tokenRequest) safeCode(code string) string {
	if _, known := configurationCodes[code]; known || passingCodes[code] {
		return code
	}
	if len(code) > maxErrorCode || strings.ContainsFunc(code, notInErrorCode) || r.revealsSecret(code) {
		return ""
	}
	return code
}

// revealsSecret reports whether text that a server sent contains a known secret or a considerable
// piece of one, in any usual form.
func (r *tokenRequest) revealsSecret(text string) bool {
	if r.known == nil {
		r.known = newRedactor(r.secrets)
	}
	return r.known.redact(text) != text || len(text) >= minSecret && slices.ContainsFunc(r.secrets, func(secret string) bool {
		return strings.Contains(secret, text)
	})
}

func notInErrorCode(c rune) bool {
	return c < 0x20 || c > 0x7e || c == '"' || c == '\\'
}

// parseRetryAfter reads seconds or an HTTP date (RFC 9110 §10.2.3); what is neither counts as
// absent.
func parseRetryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}
