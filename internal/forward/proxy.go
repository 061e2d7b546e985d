package forward

import (
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
)

// Proxy forwards requests to an API by itself, in place of Caddy's reverse_proxy. As a handler it is the
// last one: Request.Serve calls it.
type Proxy struct {
	proxy     httputil.ReverseProxy
	transport func(*Connection) *Transport
	logger    *zap.Logger
	tunnels   tunnels
}

// NewProxy returns a proxy that sends the requests of each connection through its transport. A negative
// flushInterval flushes each piece of a response at once, zero only responses that stream.
func NewProxy(transport func(*Connection) *Transport, flushInterval time.Duration, logger *zap.Logger) *Proxy {
	p := &Proxy{transport: transport, logger: logger}
	p.proxy = httputil.ReverseProxy{
		Rewrite:        direct,
		Transport:      (*sender)(p),
		FlushInterval:  flushInterval,
		BufferPool:     &httptransport.Buffers,
		ModifyResponse: p.respond,
		ErrorHandler:   keepError,
		ErrorLog:       log.New(io.Discard, "", 0), // flushAborted says more
	}
	return p
}

// ServeHTTP forwards a request that Request.Serve serves. Its error is one as of reverse_proxy.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	q, ok := FromContext(r.Context())
	if !ok {
		return NotAllowed("no connection was chosen").Write(w, r)
	}
	q.direct, q.received = true, r
	q.app = appWriter{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	defer p.flushAborted(w, q)
	p.proxy.ServeHTTP(&q.app, r)
	return q.app.failed
}

// flushAborted, when deferred, sends what there is of a response that breaks off, and logs why if that is
// not because the app has left.
func (p *Proxy) flushAborted(w http.ResponseWriter, q *Request) {
	panicked := recover()
	if panicked == nil {
		return
	}
	if q.broken != nil && q.Err() == nil {
		p.logger.Warn("the API's response broke off", zap.String("connection", q.Conn.Name), zap.Error(q.broken))
	}
	_ = http.NewResponseController(w).Flush()
	panic(panicked)
}

// Close closes the connections that have been upgraded to another protocol. Of websockets both sides are
// told before.
func (p *Proxy) Close() { p.tunnels.close() }

// direct points a copy of the app's request at the API; the transport completes its URL. The query stays
// as the app wrote it, and the trailers are those that arrive with the app's request.
func direct(r *httputil.ProxyRequest) {
	q, _ := FromContext(r.In.Context())
	r.Out.URL.Scheme, r.Out.URL.Host = q.Target.Base.Scheme, q.Target.Dial
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	passTrailers(r)
	delete(r.Out.Header, "Alt-Svc")
	if _, upgrade := r.Out.Header["Upgrade"]; upgrade {
		directUpgrade(r.Out)
	}
	if r.In.TLS != nil && !r.In.TLS.HandshakeComplete {
		r.Out.Header["Early-Data"] = []string{"1"} // RFC 8470 §5.1
	}
}

// passTrailers announces the trailers that arrive with the app's request. To an API over HTTP/1.1 only a
// chunked request has trailers, so the length is forgotten.
func passTrailers(r *httputil.ProxyRequest) {
	r.Out.Trailer = r.In.Trailer
	if len(r.In.Trailer) == 0 || r.In.Body == nil {
		return
	}
	if r.Out.Body == nil { // httputil drops an empty one
		r.Out.Body = io.NopCloser(r.In.Body)
	}
	r.Out.ContentLength = -1
	delete(r.Out.Header, "Content-Length")
}

// sender is a Proxy as its own httputil.ReverseProxy sees it.
type sender Proxy

// RoundTrip sends a request through the transport of its connection.
func (p *sender) RoundTrip(req *http.Request) (*http.Response, error) {
	q, _ := FromContext(req.Context())
	t := p.transport(q.Conn)
	if !p.logger.Core().Enabled(zap.DebugLevel) {
		return q.RoundTrip(t, req)
	}
	began := time.Now()
	res, err := q.RoundTrip(t, req)
	outcome := zap.Error(err)
	if err == nil {
		outcome = zap.Int("status", res.StatusCode)
	}
	p.logger.Debug("sent a request to the API", zap.String("connection", q.Conn.Name), zap.String("address", q.Target.Dial),
		zap.Duration("duration", time.Since(began)), zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: q.received}), outcome)
	return res, err
}

// respond prepares a response of the API for the app. It serves one that switches protocols itself.
func (p *Proxy) respond(res *http.Response) error {
	q, _ := FromContext(res.Request.Context())
	header := q.app.respond()
	delete(header, "Server") // Caddy's, because the response is the API's
	if res.StatusCode == http.StatusSwitchingProtocols {
		if err := p.upgrade(q, res); err != nil {
			return err
		}
		return errServed
	}
	delete(res.Header, "Alt-Svc")
	delete(res.Header, untypedField) // which never leaves this process
	if isStream(res.Header) {
		res.ContentLength = -1 // httputil then flushes each piece; the app gets the field Content-Length
	}
	addFields(header, res.Header)
	leaveUntyped(header)
	res.Header = nil // httputil has nothing left to copy, one field by one
	return nil
}

// isStream reports whether each piece of a response is meant for the app at once.
func isStream(header http.Header) bool {
	if types := header["Content-Type"]; len(types) > 0 {
		mediaType, _, _ := strings.Cut(types[0], ";")
		if strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream") {
			return true
		}
	}
	return len(header["Incremental"]) > 0 && caddyhttp.IsIncremental(header)
}

// errServed ends the work of httputil.ReverseProxy on a request that has been served.
var errServed = errors.New("the request has been served")

// keepError keeps why there is no response, for Serve, as an error with the status that reverse_proxy gives
// it.
func keepError(_ http.ResponseWriter, r *http.Request, err error) {
	q, _ := FromContext(r.Context())
	switch timeout, ok := err.(net.Error); {
	case errors.Is(err, errServed):
	case errors.Is(err, context.Canceled): // also if the request was refused, which q knows
		q.writer.WriteHeader(statusClientClosedRequest)
	case ok && timeout.Timeout(): // not one of dialing, which is wrapped
		q.app.failed = caddyhttp.Error(http.StatusGatewayTimeout, err)
	default:
		q.app.failed = caddyhttp.Error(http.StatusBadGateway, err)
	}
}

// appWriter is the response to the app as httputil.ReverseProxy sees it. Until the API has responded, that
// sees a header of its own: it removes all fields after an informational response, those that other
// handlers have set included.
type appWriter struct {
	caddyhttp.ResponseWriterWrapper

	informational http.Header
	responded     bool
	failed        error // why there is no response
}

// respond ends informational responses, and returns the header of the response.
func (w *appWriter) respond() http.Header {
	w.responded = true
	return w.ResponseWriterWrapper.Header()
}

// Header implements http.ResponseWriter.
func (w *appWriter) Header() http.Header {
	switch {
	case w.responded:
		return w.ResponseWriterWrapper.Header()
	case w.informational == nil:
		w.informational = make(http.Header)
	}
	return w.informational
}

// WriteHeader implements http.ResponseWriter.
func (w *appWriter) WriteHeader(status int) {
	if w.responded {
		w.ResponseWriterWrapper.WriteHeader(status)
		return
	}
	header := w.ResponseWriterWrapper.Header()
	own := header.Clone()
	addEndToEnd(header, w.informational)
	w.ResponseWriterWrapper.WriteHeader(status)
	clear(header)
	maps.Copy(header, own)
}

// addEndToEnd adds the fields of a response of the API to the app's, without those for one connection only.
func addEndToEnd(header, api http.Header) {
	httpguard.RemoveHopByHop(api)
	addFields(header, api)
}

// addFields adds the fields of a response of the API to the app's.
func addFields(header, api http.Header) {
	if len(header) == 0 { // which is usual
		maps.Copy(header, api)
		return
	}
	for field, values := range api {
		if before := header[field]; len(before) > 0 {
			values = slices.Concat(before, values)
		}
		header[field] = values
	}
}
