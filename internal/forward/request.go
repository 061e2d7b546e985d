// Package forward sends one request of the app to an API with a token. It keeps the rules for where a
// request may go (16), which header fields pass (15 and 17), when it is replayed (18), what errors the
// app gets (21) and what of the API's response stays hidden from Caddy (22).
//
// It knows neither how a token is obtained nor the configuration: a Connection gives it tokens and the
// place of the API.
package forward

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// Request is one request of the app on its way to an API. The handler prepares and serves it; the
// transport behind reverse_proxy finds it in the context and sends it. It carries no token: the
// transport takes the newest.
//
// A Request is its own context, which saves an allocation.
type Request struct {
	context.Context
	done <-chan struct{} // of that context

	Conn    *Connection
	Target  *Target
	options *Options

	host     string        // by which the app calls the sidecar
	received *http.Request // from the app, or from reverse_proxy, whose copy of the app's it is

	ofApp     bool // and not a ping or health check, which need no permission and are not sent again
	keep      bool // the app's own Authorization is sent, and no token
	trailers  bool // the app understands trailers; reverse_proxy drops a TE field that Connection names
	direct    bool // a Proxy forwards it, and not reverse_proxy
	attempted bool // a Proxy's copy of it has been sent

	rejectedBefore  bool // the API has rejected a token already (rule 18)
	counted         bool // the metrics include it
	sent            bool // it was sent, or that was tried
	responseCounted bool // the metrics include what the app got of the API

	// Of the last attempt: reverse_proxy may make several.
	responded bool          // the app gets a response, and not an error of reverse_proxy
	rejected  bool          // that response rejects the token
	limited   bool          // that response limits the rate
	trailed   bool          // that response has trailers
	status    int           // of that response
	took      time.Duration // from sending it to the header of its response
	denied    *Error        // the error that the app gets in place of a response of the API
	broken    error         // why the API's response broke off

	record record
	way    *hop // through this process, if it has sent the request itself

	passed       http.Request // to the next handler: the app's, with this context
	app          appWriter
	writer       responseWriter
	appHeader    http.Header    // of the response to the app; nil: the request is not served by Serve
	token        *oauth.Token   // the one that was sent last
	older        []*oauth.Token // those that were sent before it
	maskedValues []maskedValue  // of response headers
}

// newRequest returns the request of a connection that r is sent as.
func newRequest(c *Connection, r *http.Request, o *Options) *Request {
	return &Request{Context: r.Context(), done: r.Context().Done(), Conn: c, options: o, host: r.Host, record: record{conn: c}}
}

// requestCtxKey is the context key of a *Request.
type requestCtxKey struct{}

// Value implements context.Context.
func (q *Request) Value(key any) any {
	switch key.(type) {
	case requestCtxKey:
		return q
	case chosenProxyKey:
		return nil // it is chosen for what the request is sent as
	}
	value := q.Context.Value(key)
	if value == nil && q.direct && key == http.ServerContextKey {
		return q // httputil aborts a response that breaks off only if there is a server; HTTP/3 has another key
	}
	return value
}

// Done implements context.Context.
func (q *Request) Done() <-chan struct{} { return q.done }

// FromContext returns the request that a handler serves in this context.
func FromContext(ctx context.Context) (*Request, bool) {
	q, ok := ctx.Value(requestCtxKey{}).(*Request)
	return q, ok
}

// Serve passes the request on to the next handler, usually reverse_proxy, whose transport calls
// RoundTrip. It writes the error when the transport refused to send, and adds a Proxy-Status to
// failures of reverse_proxy itself.
//
// It drops fields that contain a secret afterwards, even after a panic: reverse_proxy panics when the
// response breaks off or the app leaves, and the access log is written all the same.
func (q *Request) Serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	defer q.countResponse()
	defer q.dropSecrets()
	q.appHeader = w.Header()
	q.writer.ResponseWriter, q.writer.request = w, q
	q.passed = *r.WithContext(q) // handlers before this one may use r meanwhile, in another goroutine
	err := next.ServeHTTP(&q.writer, &q.passed)
	if !q.counted {
		q.count(&Error{Status: statusOf(err)}) // reverse_proxy had nowhere to send it to
	}
	if _, ok := errors.AsType[*announcedError](err); ok {
		return err // of another connection, in a route for the API's response
	}
	if q.trailed { // and its trailers, which must not claim to be ours, have been added to the header
		dropOwnProxyStatus(w.Header())
		dropOwnMember(w.Header(), http.TrailerPrefix+"Proxy-Status")
	}
	switch {
	case q.denied != nil:
		return q.denied.Write(w, r)
	case err == nil:
		return nil
	default:
		return q.describe(w, r, err)
	}
}

// RoundTrip sends req, which reverse_proxy made of the served request, through t. If there is no response
// of the API because of t or the app, Serve tells the app why.
func (q *Request) RoundTrip(t *Transport, req *http.Request) (*http.Response, error) {
	q.denied, q.responded = nil, false // of an attempt before
	res, err := t.Send(req, q)
	refused, ok := errors.AsType[*Error](err)
	q.count(refused)
	if !ok {
		return res, err
	}
	CloseBody(req.Body)
	q.denied = refused
	if refused.gated {
		return nil, errors.New(refused.Details) // another upstream may do
	}
	// A missing token and a broken request are no failures of the upstream: reverse_proxy must not count
	// them as such, nor try again. Only the app's own leaving is never counted.
	return nil, fmt.Errorf("%s (%w)", refused.Details, context.Canceled)
}

// Finish counts a request that Serve does not serve, after it was sent, or refused with an error.
func (q *Request) Finish(refused *Error) {
	q.count(refused)
	q.countResponse()
}

// count counts the request once: when reverse_proxy tries again, its first attempt counts. The error is nil
// for a request that was sent.
func (q *Request) count(refused *Error) {
	outcome := q.SentOutcome()
	if refused != nil {
		outcome = refused.Outcome
	}
	q.sent = q.sent || outcome == q.SentOutcome()
	if q.counted {
		return
	}
	q.counted = true
	q.record.outcome = outcome.String()
	if q.sent {
		q.Conn.Metrics.Count(outcome)
	} else {
		countUnsent(q.Conn.Metrics, refused)
	}
}

// countResponse counts once what the app got of the API: the response, or none unless the app has left.
func (q *Request) countResponse() {
	switch {
	case q.responseCounted:
		return
	case q.responded:
		q.Conn.Metrics.CountResponse(q.status, q.took)
		if q.limited {
			q.Conn.Metrics.Count(telemetry.Limited)
		}
	case q.sent && !q.left():
		q.Conn.Metrics.CountNoResponse()
	}
	q.responseCounted = true
}

// left reports whether the app has left before it got a response.
func (q *Request) left() bool {
	return errors.Is(q.Err(), context.Canceled) || q.denied != nil && q.denied.left
}

// SentOutcome returns the outcome of a request that was sent.
func (q *Request) SentOutcome() telemetry.Outcome {
	if q.keep {
		return telemetry.Kept
	}
	return telemetry.Sent
}

// describe adds a Proxy-Status to an error of reverse_proxy, unless it was raised after the API's
// response.
func (q *Request) describe(w http.ResponseWriter, r *http.Request, err error) error {
	var handlerErr caddyhttp.HandlerError
	if !errors.As(err, &handlerErr) {
		return err
	}
	if isRetryMatch(handlerErr) {
		q.responded = false
		return q.unacceptable(handlerErr.StatusCode).Write(w, r)
	}
	if q.responded {
		return err
	}
	switch handlerErr.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return err
	}
	failed := &Error{Status: handlerErr.StatusCode, Type: "destination_unavailable"}
	why := noResponseReason(handlerErr)
	if neterror.IsTimeout(err) || handlerErr.StatusCode == http.StatusGatewayTimeout {
		failed.Type, why = "connection_timeout", "the API did not respond in time"
	}
	failed.Details = "connection " + q.Conn.Name + ": " + why
	if grpcType(r) != "" {
		return failed.Write(w, r)
	}
	logged := errors.New(failed.Details)
	if _, ok := errors.AsType[apiError](err); !ok {
		logged = fmt.Errorf("%w (%w)", logged, handlerErr.Err) // which has the address
	}
	handlerErr.Err = failed.announce(w.Header(), r, logged)
	return handlerErr
}

// statusOf returns the status that the app gets by an error of a handler, or 0 if there is none.
func statusOf(err error) int {
	handlerErr, _ := errors.AsType[caddyhttp.HandlerError](err)
	return handlerErr.StatusCode
}

// isRetryMatch reports whether the API's last response matched lb_retry_match. reverse_proxy throws such a
// response away and keeps its status. It has no exported name for this error.
func isRetryMatch(err caddyhttp.HandlerError) bool {
	return fmt.Sprintf("%T", err.Err) == "reverseproxy.retryableResponseError"
}

// unacceptable returns the error for a request whose attempts all got a response that lb_retry_match names,
// the last one with a status.
func (q *Request) unacceptable(status int) *Error {
	details := fmt.Sprintf("connection %s: the API responded with %d, which lb_retry_match does not accept, and no attempt is left", q.Conn.Name, status)
	if status < http.StatusBadRequest {
		status = http.StatusBadGateway
	}
	return &Error{Status: status, Type: "destination_unavailable", Details: details}
}
