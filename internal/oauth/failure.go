package oauth

import (
	"context"
	"errors"
	"math"
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
// any other code, the status of an error response counts.
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
	case neterror.NotSent(err) != nil:
		return ConfigurationErrorf("the request to %s was not sent: %v", server, neterror.NotSent(err))
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
	case known:
		failure = FailedResponse(resp, code, tokenEndpoint, hint)
	case resp.StatusCode < http.StatusMultipleChoices:
		failure = ConfigurationErrorf("%s responded with an error (status %d)", tokenEndpoint, resp.StatusCode)
		failure.RetryAfter = retryAfterOf(resp)
	default:
		failure = FailedResponse(resp, code, tokenEndpoint, refusalHint(resp.StatusCode))
	}
	failure.Code = r.safeCode(code)
	return failure
}

// FailedResponse returns the error that a response means by its status and its OAuth error code, if it
// has one (rule 11). The text of a refusal ends with hint. A refusal without a known code is a presumed
// configuration error.
func FailedResponse(resp *http.Response, code, server, hint string) *Error {
	_, known := configurationCodes[code]
	refused := known && resp.StatusCode < http.StatusInternalServerError || isRefusal(resp.StatusCode) && !outageCodes[code]
	if !refused {
		return unavailable(resp, server)
	}
	failure := ConfigurationErrorf("%s refused the request (status %d): %s", server, resp.StatusCode, hint)
	failure.Presumed = !known
	failure.RetryAfter = retryAfterOf(resp)
	return failure
}

// isRefusal reports whether a status says that the request is wrong: a 4xx that does not pass by itself.
func isRefusal(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	default:
		return status >= 400 && status <= 499
	}
}

// unavailable returns the outage that a response with such a status means.
func unavailable(resp *http.Response, server string) *Error {
	failure := OutageErrorf("%s responded with status %d", server, resp.StatusCode)
	if resp.StatusCode == http.StatusTooManyRequests {
		failure.Message += ": it asks for fewer requests"
	}
	failure.RetryAfter = retryAfterOf(resp)
	failure.Transient = resp.StatusCode >= http.StatusInternalServerError && failure.RetryAfter == 0
	return failure
}

// refusalHint returns what a refusal of the token endpoint often means that no known error code explains.
func refusalHint(status int) string {
	switch status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusGone:
		return "check token_url"
	case http.StatusUnauthorized, http.StatusForbidden:
		return "check token_url, the client's credentials and auth_method"
	default:
		return "check token_url, auth_method and the token_request options"
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
	return reveals(text, r.Secrets, r.redactor)
}

// reveals is revealsSecret with the secrets and their redactor.
func reveals(text string, secrets []string, redactor *redact.Redactor) bool {
	return redactor.Redact(text) != text || len(text) >= redact.MinLength && slices.ContainsFunc(secrets, func(secret string) bool {
		return strings.Contains(secret, text)
	})
}

func notInErrorCode(c rune) bool {
	return c < 0x20 || c > 0x7e || c == '"' || c == '\\'
}

func retryAfterOf(resp *http.Response) time.Duration {
	return ParseRetryAfter(resp.Header.Get("Retry-After"), time.Now())
}

// ParseRetryAfter returns the pause that a Retry-After field requests, at most MaxRetryAfter. It returns 0
// if the field cannot be read.
func ParseRetryAfter(value string, now time.Time) time.Duration {
	pause, _ := ReadRetryAfter(value, now)
	return min(pause, MaxRetryAfter)
}

// ReadRetryAfter returns the pause that a Retry-After field requests, in seconds or by an HTTP date (RFC
// 9110 §10.2.3), and whether the field can be read. A date in the past is no pause.
func ReadRetryAfter(value string, now time.Time) (time.Duration, bool) {
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(math.MaxInt64/time.Second) {
			return math.MaxInt64, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	date, err := http.ParseTime(value)
	return max(date.Sub(now), 0), err == nil
}
