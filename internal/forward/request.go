package forward

import (
	"context"
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// Request is one request of the app on its way to an API. It holds no token to send: the
// transport takes the newest. It is the request's context itself, which saves an allocation.
type Request struct {
	context.Context

	Conn     *Connection
	options  *Options
	Target   *Target
	keep     bool   // the app's own Authorization is sent, and no token
	denied   *Error // why the transport did not send, the last time
	answered bool   // whether there is a response of the API, the last time
	counted  bool   // whether the metrics have it

	writer       responseWriter
	appHeader    http.Header   // of the response to the app; nil: no handler of ours sees it
	token        string        // the one that was sent last
	older        []string      // those that were sent before it
	maskedValues []maskedValue // of response headers
}

// requestCtxKey is where a context holds its *Request. Nobody else can name it.
type requestCtxKey struct{}

// Value implements context.Context.
func (q *Request) Value(key any) any {
	if _, ok := key.(requestCtxKey); ok {
		return q
	}
	return q.Context.Value(key)
}

// FromContext finds the request that a handler has prepared.
func FromContext(ctx context.Context) (*Request, bool) {
	q, ok := ctx.Value(requestCtxKey{}).(*Request)
	return q, ok
}

// Serve passes the request on to the next handler, which sends it through a transport, and describes
// what fails.
func (q *Request) Serve(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	defer q.count(telemetry.Refused) // unless the transport has counted it
	q.appHeader = w.Header()
	q.writer.ResponseWriter, q.writer.request = w, q
	err := q.serveNext(r, next)
	// What the header holds after the response are trailers; one of ours can only be forged.
	dropOwnProxyStatus(w.Header())
	if err == nil {
		return nil
	}
	if q.denied != nil {
		return q.denied.Write(w, r)
	}
	return q.describe(w, r, err)
}

// serveNext drops what holds a secret afterwards: reverse_proxy panics when the response breaks off or
// the app leaves, and the access log is written all the same.
func (q *Request) serveNext(r *http.Request, next caddyhttp.Handler) error {
	defer q.dropSecrets()
	return next.ServeHTTP(&q.writer, r.WithContext(q))
}

// count counts the request, once. When reverse_proxy tries again, its first attempt counts.
func (q *Request) count(o telemetry.Outcome) {
	if !q.counted {
		q.counted = true
		q.Conn.Metrics.Count(o)
	}
}

// SentOutcome is the outcome of a request that was sent.
func (q *Request) SentOutcome() telemetry.Outcome {
	if q.keep {
		return telemetry.Kept
	}
	return telemetry.Sent
}

// describe adds a Proxy-Status to a failure of reverse_proxy itself. An error that was raised after
// the API's response is none.
func (q *Request) describe(w http.ResponseWriter, r *http.Request, err error) error {
	var handlerErr caddyhttp.HandlerError
	if q.answered || !errors.As(err, &handlerErr) {
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
	if isGRPC(r) {
		return failed.Write(w, r)
	}
	failed.setHeader(w.Header())
	return err
}

// DropAddedFields removes what reverse_proxy adds to tell every API of itself, where nobody needs it
// in its copy any more: so it need not be copied, nor logged.
func (q *Request) DropAddedFields(req *http.Request) {
	for _, field := range addedFields {
		delete(req.Header, field)
	}
}
