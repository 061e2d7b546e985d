package forward

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// proxyName is how this proxy calls itself in Proxy-Status (RFC 9209).
const proxyName = "http_helper"

// Error is an error of ours towards the app (rule 21). Its texts name no secret.
type Error struct {
	Status     int
	gated      bool   // the final request is not allowed (rule 16)
	noToken    bool   // there is no token
	Type       string // the Proxy-Status error type (RFC 9209 §2.3)
	Details    string
	RetryAfter time.Duration // 0: none
}

func BadRequest(details string) *Error {
	return &Error{Status: http.StatusBadRequest, Type: "http_request_error", Details: details}
}

func misconfigured(details string) *Error {
	return &Error{Status: http.StatusBadGateway, Type: "proxy_configuration_error", Details: details}
}

// statusClientClosedRequest is what Caddy logs for a client that left.
const statusClientClosedRequest = 499

// defaultRetryAfter is what a 503 says when there is no back-off to wait for.
const defaultRetryAfter = time.Second

// Error implements error: a transport passes it through others.
func (e *Error) Error() string { return e.Details }

// Outcome is the outcome of a request with this error.
func (e *Error) Outcome() telemetry.Outcome {
	if e.noToken {
		return telemetry.NoToken
	}
	return telemetry.Refused
}

// Write gives the error to the app: to gRPC callers as a trailers-only response, to others as an error
// that `handle_errors` can see.
func (e *Error) Write(w http.ResponseWriter, r *http.Request) error {
	e.setHeader(w.Header())
	if isGRPC(r) {
		w.WriteHeader(e.setGRPC(w.Header()))
		return nil
	}
	return caddyhttp.Error(e.Status, errors.New(e.Details))
}

// Response is the error as a response of the API, for a transport without our handler.
func (e *Error) Response(r *http.Request) *http.Response {
	res := &http.Response{
		StatusCode: e.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: http.NoBody, Request: r,
	}
	e.setHeader(res.Header)
	if isGRPC(r) {
		res.StatusCode = e.setGRPC(res.Header)
	}
	res.Status = fmt.Sprintf("%d %s", res.StatusCode, http.StatusText(res.StatusCode))
	return res
}

func (e *Error) setHeader(header http.Header) {
	header.Set("Cache-Control", "no-store")
	if e.Type != "" {
		header.Set("Proxy-Status", e.proxyStatus())
	}
	if e.RetryAfter > 0 {
		header.Set("Retry-After", RetryAfterSeconds(e.RetryAfter))
	}
	if e.Status == http.StatusMethodNotAllowed {
		header.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	}
}

func RetryAfterSeconds(d time.Duration) string {
	return strconv.Itoa(int(math.Ceil(d.Seconds())))
}

func (e *Error) proxyStatus() string {
	details := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(e.Details))
	return fmt.Sprintf(`%s; error=%s; details="%s"`, proxyName, e.Type, details)
}

// printable keeps what a structured field's string may hold (RFC 8941 §3.3.3).
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		default:
			return r
		}
	}, text)
}

// isGRPC tells whether the caller speaks gRPC and so expects a trailers-only response.
func isGRPC(r *http.Request) bool {
	contentType := r.Header.Get("Content-Type")
	return contentType == "application/grpc" || strings.HasPrefix(contentType, "application/grpc+") || strings.HasPrefix(contentType, "application/grpc;")
}

// grpcCodes are gRPC's status codes for ours (rule 21).
var grpcCodes = map[int]int{
	http.StatusServiceUnavailable: 14, http.StatusGatewayTimeout: 4, http.StatusBadGateway: 9,
	http.StatusBadRequest: 3, http.StatusForbidden: 7, http.StatusMethodNotAllowed: 12,
	statusClientClosedRequest: 1,
}

// setGRPC writes the error as a gRPC status and returns the HTTP status that goes with it.
func (e *Error) setGRPC(header http.Header) int {
	code, ok := grpcCodes[e.Status]
	if !ok {
		code = 2
	}
	header.Set("Content-Type", "application/grpc")
	header.Set("Grpc-Status", strconv.Itoa(code))
	header.Set("Grpc-Message", strings.ReplaceAll(url.PathEscape(printable(e.Details)), "%20", " "))
	return http.StatusOK
}

// noResponseReason says why there is no response of the API, in words of our own.
func noResponseReason(err caddyhttp.HandlerError) string {
	switch {
	case errors.Is(err, errNoResponse):
		return errNoResponse.Error()
	case err.StatusCode == http.StatusServiceUnavailable:
		return "the API cannot be reached: none of its addresses is available"
	case errors.As(err, new(reverseproxy.DialError)): // which hides its cause
		return "the API cannot be reached: there is no connection to its address"
	default:
		return "the API cannot be reached: " + neterror.Describe(err)
	}
}
