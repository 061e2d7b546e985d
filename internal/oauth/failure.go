package oauth

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

const (
	MaxRetryAfter = 5 * time.Minute // the longest pause that a server is granted
	MaxErrorCode  = 64              // bytes of an error code that may be shown

	tokenEndpoint = "the token endpoint"
)

// configurationCodes are the OAuth error codes of configuration errors, and what to do about them. With
// any other code, an error response is an outage.
var configurationCodes = map[string]string{
	"invalid_client":         "check client_id, its secret or key, and auth_method",
	"invalid_scope":          "the client may not have a scope that is requested: check the scopes",
	"unauthorized_client":    "the client is not allowed to use this grant",
	"unsupported_grant_type": "check token_url and grant_type",
	"invalid_request":        "check token_url, auth_method and token_request_param",
	"invalid_target":         "check resource and token_request_param",
	"access_denied":          "the client is not allowed to have this token",
}

// outageCodes are the error codes of outages that standards define, so that they reveal nothing.
var outageCodes = map[string]bool{
	"temporarily_unavailable": true,
	"server_error":            true,
	"slow_down":               true,
}

// tokenFailure returns the Error in err, or ctx's error. Any other error of the library is not passed
// on, because it may quote the URL or the response.
func tokenFailure(ctx context.Context, err error) error {
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return ConfigurationErrorf("making the token request failed: check token_url")
}

// networkFailure returns the reason why there is no complete response of a server. It does not use the
// messages of net/http, which contain the URL and its query.
func networkFailure(ctx context.Context, server string, err error) error {
	var failure *Error
	switch {
	case errors.As(err, &failure):
		return failure
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, neterror.ErrCleartextProxy):
		return ConfigurationErrorf("the request to %s was not sent: %v", server, neterror.ErrCleartextProxy)
	case neterror.DeadlinePassed(ctx):
		return AsError(context.DeadlineExceeded)
	}
	failure = OutageErrorf("%s cannot be reached: %s", server, neterror.Describe(err))
	failure.Transient = true
	return failure
}

// errorFor returns the error that a response with this OAuth error code means.
func (r *Request) errorFor(resp *http.Response, code string) *Error {
	hint, known := configurationCodes[code]
	var failure *Error
	switch {
	case known && resp.StatusCode < http.StatusInternalServerError:
		failure = ConfigurationErrorf("%s refused the request (status %d): %s", tokenEndpoint, resp.StatusCode, hint)
	case resp.StatusCode < http.StatusMultipleChoices:
		failure = ConfigurationErrorf("%s responded with an error (status %d)", tokenEndpoint, resp.StatusCode)
	default:
		failure = Unavailable(resp, tokenEndpoint)
	}
	failure.Code = r.safeCode(code)
	failure.RetryAfter = ParseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	return failure
}

// Unavailable returns the outage that a response with such a status means.
func Unavailable(resp *http.Response, server string) *Error {
	failure := OutageErrorf("%s responded with status %d%s", server, resp.StatusCode, statusHint(resp.StatusCode))
	failure.RetryAfter = ParseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	failure.Transient = resp.StatusCode >= http.StatusInternalServerError && failure.RetryAfter == 0
	return failure
}

// statusHint returns what a status often means that no known error code explains.
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

// safeCode returns the error code if it may be shown: it conforms to RFC 6749 §5.2, is short, and
// reveals nothing of a known secret.
func (r *Request) safeCode(code string) string {
	if _, known := configurationCodes[code]; known || outageCodes[code] {
		return code
	}
	if len(code) > MaxErrorCode || strings.ContainsFunc(code, notInErrorCode) || r.revealsSecret(code) {
		return ""
	}
	return code
}

// revealsSecret reports whether text from a server contains a known secret or a long piece of one, in
// any usual encoding.
func (r *Request) revealsSecret(text string) bool {
	if r.redactor == nil {
		r.redactor = redact.New(r.Secrets)
	}
	return r.redactor.Redact(text) != text || len(text) >= redact.MinLength && slices.ContainsFunc(r.Secrets, func(secret string) bool {
		return strings.Contains(secret, text)
	})
}

func notInErrorCode(c rune) bool {
	return c < 0x20 || c > 0x7e || c == '"' || c == '\\'
}

// ParseRetryAfter returns the pause that a Retry-After field requests, in seconds or by an HTTP date (RFC
// 9110 §10.2.3), at most MaxRetryAfter. It returns 0 for anything else.
func ParseRetryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(MaxRetryAfter/time.Second) {
			return MaxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), MaxRetryAfter)
}
