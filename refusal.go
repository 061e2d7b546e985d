package httphelper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// proxyName is how this proxy calls itself in Proxy-Status (RFC 9209).
const proxyName = "http_helper"

// refusal is an error of ours towards the app (rule 21). Its texts name no secret.
type refusal struct {
	status     int
	gate       bool   // the final request is not allowed (rule 16)
	tokenless  bool   // there is no token
	kind       string // the Proxy-Status error type (RFC 9209 §2.3)
	details    string
	retryAfter time.Duration // 0: none
}

func badRequest(details string) *refusal {
	return &refusal{status: http.StatusBadRequest, kind: "http_request_error", details: details}
}

func misconfigured(details string) *refusal {
	return &refusal{status: http.StatusBadGateway, kind: "proxy_configuration_error", details: details}
}

// noToken is why a request of a connection could not get its token.
func noToken(connection string, err error) *refusal {
	if errors.Is(err, context.Canceled) {
		return &refusal{status: statusClientClosedRequest, tokenless: true, details: "the app left while waiting for a token"}
	}
	te := asTokenError(err)
	kind := "proxy_internal_error"
	if te.class == classConfiguration {
		kind = "proxy_configuration_error"
	}
	refused := &refusal{
		status: te.status, tokenless: true, kind: kind, retryAfter: te.retryAfter,
		details: "connection " + connection + ": " + te.Error(),
	}
	if refused.retryAfter <= 0 && refused.status == http.StatusServiceUnavailable {
		refused.retryAfter = time.Second
	}
	return refused
}

// statusClientClosedRequest is what Caddy logs for a client that left.
const statusClientClosedRequest = 499

// answer gives the refusal to the app: to gRPC callers as a trailers-only answer, to others as an
// error that `handle_errors` can see.
func (f *refusal) answer(w http.ResponseWriter, r *http.Request) error {
	f.setHeader(w.Header())
	if isGRPC(r) {
		w.WriteHeader(f.setGRPC(w.Header()))
		return nil
	}
	return caddyhttp.Error(f.status, errors.New(f.details))
}

// response is the refusal as an answer of the API, for a transport without our handler.
func (f *refusal) response(r *http.Request) *http.Response {
	res := &http.Response{
		StatusCode: f.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: make(http.Header), Body: http.NoBody, Request: r,
	}
	f.setHeader(res.Header)
	if isGRPC(r) {
		res.StatusCode = f.setGRPC(res.Header)
	}
	res.Status = fmt.Sprintf("%d %s", res.StatusCode, http.StatusText(res.StatusCode))
	return res
}

func (f *refusal) setHeader(header http.Header) {
	header.Set("Cache-Control", "no-store")
	if f.kind != "" {
		header.Set("Proxy-Status", f.proxyStatus())
	}
	if f.retryAfter > 0 {
		header.Set("Retry-After", retryAfterSeconds(f.retryAfter))
	}
	if f.status == http.StatusMethodNotAllowed {
		header.Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	}
}

func retryAfterSeconds(d time.Duration) string {
	return strconv.Itoa(int(math.Ceil(d.Seconds())))
}

func (f *refusal) proxyStatus() string {
	details := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(f.details))
	return fmt.Sprintf(`%s; error=%s; details="%s"`, proxyName, f.kind, details)
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

// isGRPC tells whether the caller speaks gRPC and so expects a trailers-only answer.
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

// setGRPC writes the refusal as a gRPC status and returns the HTTP status that goes with it.
func (f *refusal) setGRPC(header http.Header) int {
	code, ok := grpcCodes[f.status]
	if !ok {
		code = 2
	}
	header.Set("Content-Type", "application/grpc")
	header.Set("Grpc-Status", strconv.Itoa(code))
	header.Set("Grpc-Message", strings.ReplaceAll(url.PathEscape(printable(f.details)), "%20", " "))
	return http.StatusOK
}

// describe adds a Proxy-Status to a failure of reverse_proxy itself. An error that was raised after
// the API had answered is none.
func (g *grant) describe(w http.ResponseWriter, r *http.Request, err error) error {
	var handlerErr caddyhttp.HandlerError
	if g.answered || !errors.As(err, &handlerErr) {
		return err
	}
	switch handlerErr.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return err
	}
	failed := &refusal{status: handlerErr.StatusCode, kind: "destination_unavailable"}
	why := whyNoAnswer(handlerErr)
	if isTimeout(err) || handlerErr.StatusCode == http.StatusGatewayTimeout {
		failed.kind, why = "connection_timeout", "the API did not answer in time"
	}
	failed.details = "connection " + g.conn.name + ": " + why
	if isGRPC(r) {
		return failed.answer(w, r)
	}
	failed.setHeader(w.Header())
	return err
}

// whyNoAnswer says why there is no answer of the API, in words of our own.
func whyNoAnswer(err caddyhttp.HandlerError) string {
	switch {
	case errors.Is(err, errNoAnswer):
		return errNoAnswer.Error()
	case err.StatusCode == http.StatusServiceUnavailable:
		return "the API cannot be reached: none of its addresses is available"
	case errors.As(err, new(reverseproxy.DialError)): // which hides its cause
		return "the API cannot be reached: there is no connection to its address"
	default:
		return "the API cannot be reached: " + describeNetworkError(err)
	}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// dropOwnProxyStatus removes what claims to be ours from an answer's header or trailer: only we say
// `http_helper`.
func dropOwnProxyStatus(header http.Header) {
	for _, field := range []string{"Proxy-Status", http.TrailerPrefix + "Proxy-Status"} {
		values, ok := header[field]
		if !ok {
			continue
		}
		if kept := withoutOwnMember(values); len(kept) > 0 {
			header[field] = kept
		} else {
			delete(header, field)
		}
	}
}

// withoutOwnMember leaves out the members named http_helper. A field that cannot be parsed goes as
// a whole when it mentions the name.
func withoutOwnMember(values []string) []string {
	list, err := httpsfv.UnmarshalList(values)
	if err != nil {
		if strings.Contains(strings.ToLower(strings.Join(values, ",")), proxyName) {
			return nil
		}
		return values
	}
	kept := make(httpsfv.List, 0, len(list))
	for _, member := range list {
		if item, ok := member.(httpsfv.Item); ok && isOwnName(item.Value) {
			continue
		}
		kept = append(kept, member)
	}
	if len(kept) == len(list) {
		return values
	}
	value, err := httpsfv.Marshal(kept)
	if err != nil || value == "" {
		return nil
	}
	return []string{value}
}

func isOwnName(value any) bool {
	switch name := value.(type) {
	case httpsfv.Token:
		return strings.EqualFold(string(name), proxyName)
	case string:
		return strings.EqualFold(name, proxyName)
	default:
		return false
	}
}

// closeBody closes a request's body that is not going to be sent.
func closeBody(body io.Closer) {
	if body != nil {
		_ = body.Close()
	}
}
