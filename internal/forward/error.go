package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// Error is an error that the app gets from this proxy and not from the API (rule 21). Its texts contain
// no secret.
type Error struct {
	Status     int           // the HTTP status
	Type       string        // the Proxy-Status error type (RFC 9209 §2.3); "": no Proxy-Status
	Details    string        // what happened, for people
	RetryAfter time.Duration // 0: no Retry-After

	Outcome telemetry.Outcome // of the request that failed; default: Refused

	gated bool // the request was about to go where it must not (rule 16)
	left  bool // the app has left before the request was complete
}

// statusClientClosedRequest is the status that Caddy logs when the client has left.
const statusClientClosedRequest = 499

// defaultRetryAfter is the Retry-After of a 503 without a back-off.
const defaultRetryAfter = time.Second

// BadRequest returns the error for a request that the app must not make.
func BadRequest(details string) *Error {
	return &Error{Status: http.StatusBadRequest, Type: "http_request_error", Details: details}
}

// NotAllowed returns the error for a request that must not be sent where it is about to go (rule 16).
func NotAllowed(details string) *Error {
	e := misconfigured("the request is not sent: " + details)
	e.gated = true
	return e
}

func misconfigured(details string) *Error {
	return &Error{Status: http.StatusBadGateway, Type: "proxy_configuration_error", Details: details}
}

// brokenBodyError returns the error for a request whose body cannot be read to its end, because of err. A
// handler before this one may have said in err which status that is.
func brokenBodyError(err error) *Error {
	e := BadRequest("the request's body is malformed")
	var status caddyhttp.HandlerError
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		e.Status, e.Details = http.StatusRequestEntityTooLarge, "the request's body is too large"
	case errors.As(err, &status) && status.StatusCode/100 == 4:
		e.Status, e.Details = status.StatusCode, "the request's body was refused"
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, context.Canceled):
		e.Details, e.left = "the request broke off before its body was complete", true
	case neterror.IsTimeout(err):
		e.Details = "the request's body did not come in time"
	}
	return e
}

// NoTokenError returns the error for a request whose connection has no token, because of err.
func NoTokenError(connection string, err error) *Error {
	if errors.Is(err, context.Canceled) {
		return &Error{Status: statusClientClosedRequest, Outcome: telemetry.NoToken, Details: "the app left while waiting for a token"}
	}
	failed := oauth.AsError(err)
	errType := "proxy_internal_error"
	if failed.Class == oauth.ClassConfiguration {
		errType = "proxy_configuration_error"
	}
	e := &Error{
		Status: failed.Status, Outcome: telemetry.NoToken, Type: errType, RetryAfter: failed.RetryAfter,
		Details: "connection " + connection + ": " + failed.Error(),
	}
	if e.RetryAfter <= 0 && e.Status == http.StatusServiceUnavailable {
		e.RetryAfter = defaultRetryAfter
	}
	return e
}

// noResponseReason says why there is no response of the API, without the words of err, which may quote
// the API.
func noResponseReason(err caddyhttp.HandlerError) string {
	if known, ok := errors.AsType[apiError](err); ok {
		return known.Error()
	}
	if err.StatusCode == http.StatusServiceUnavailable {
		return "the API cannot be reached: none of its addresses is available"
	}
	return unreachable(err)
}

// unreachable says why the API cannot be reached.
func unreachable(err error) string {
	if neterror.IsRefusedHandshake(err) {
		return "the API cannot be reached: it refused the TLS handshake; it may want a client certificate, which transport http { tls_client_auth <cert> <key> } presents"
	}
	return "the API cannot be reached: " + neterror.Describe(err)
}

// Error implements error.
func (e *Error) Error() string { return e.Details }

// Write gives the error to the app: to gRPC clients as a trailers-only response, to others as an error
// that `handle_errors` sees.
func (e *Error) Write(w http.ResponseWriter, r *http.Request) error {
	if contentType := grpcType(r); contentType != "" {
		e.setHeader(w.Header())
		closeUnread(w.Header(), "Connection", r)
		w.WriteHeader(e.setGRPC(w.Header(), contentType))
		return nil
	}
	return caddyhttp.Error(e.Status, e.announce(w.Header(), r, errors.New(e.Details)))
}

// Response returns the error as a response to r, for callers that expect one of the API.
func (e *Error) Response(r *http.Request) *http.Response {
	res := &http.Response{
		StatusCode: e.Status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: http.NoBody, Request: r,
	}
	e.setHeader(res.Header)
	// In this spelling reverse_proxy takes the field for none of a connection, and passes it on.
	closeUnread(res.Header, "connection", r)
	if contentType := grpcType(r); contentType != "" {
		res.StatusCode = e.setGRPC(res.Header, contentType)
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

// closeUnread has net/http's server send an error at once, though the request's body may still be coming:
// over HTTP/1 it would read the body first, to use the connection again (rule 21).
func closeUnread(header http.Header, field string, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		header[field] = []string{"close"}
	}
}

// RetryAfterSeconds returns the value of a Retry-After field, rounded up.
func RetryAfterSeconds(d time.Duration) string {
	return strconv.Itoa(int(math.Ceil(d.Seconds())))
}

// grpcType returns the content type of errors for an app that speaks gRPC or gRPC-Web, and so expects a
// trailers-only response. It returns "" for any other app.
func grpcType(r *http.Request) string {
	contentType := r.Header.Get("Content-Type")
	if end := strings.IndexAny(contentType, "+; "); end >= 0 {
		contentType = contentType[:end]
	}
	switch contentType {
	case "application/grpc", "application/grpc-web", "application/grpc-web-text":
		return contentType
	default:
		return ""
	}
}

// grpcUnauthenticated is the gRPC status of a call whose credentials are not valid.
const grpcUnauthenticated = "16"

// grpcCodes maps HTTP statuses to gRPC's status codes (rule 21).
var grpcCodes = map[int]int{
	http.StatusServiceUnavailable: 14, http.StatusGatewayTimeout: 4, http.StatusBadGateway: 9,
	http.StatusBadRequest: 3, http.StatusForbidden: 7, http.StatusMethodNotAllowed: 12,
	http.StatusLoopDetected: 9, statusClientClosedRequest: 1,
}

// setGRPC sets the error as a gRPC status and returns the HTTP status that goes with it.
func (e *Error) setGRPC(header http.Header, contentType string) int {
	code, ok := grpcCodes[e.Status]
	if !ok {
		code = 2
	}
	if e.Status == http.StatusBadGateway && e.Type != "proxy_configuration_error" {
		code = 14 // the API is unreachable
	}
	header.Set("Content-Type", contentType)
	header.Set("Grpc-Status", strconv.Itoa(code))
	header.Set("Grpc-Message", strings.ReplaceAll(url.PathEscape(printable(e.Details)), "%20", " "))
	return http.StatusOK
}
