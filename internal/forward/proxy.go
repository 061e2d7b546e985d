package forward

import (
	"bufio"
	"context"
	"errors"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httptransport"
)

// Proxy forwards requests to an API by itself, in place of Caddy's reverse_proxy. As a handler it is the
// last one: Request.Serve calls it.
type Proxy struct {
	proxy     httputil.ReverseProxy
	transport func(*Connection) *Transport
	tunnels   tunnels
}

// NewProxy returns a proxy that sends the requests of each connection through its transport. A negative
// flushInterval flushes each piece of a response at once, zero only responses that stream.
func NewProxy(transport func(*Connection) *Transport, flushInterval time.Duration, logger *zap.Logger) *Proxy {
	p := &Proxy{transport: transport}
	p.proxy = httputil.ReverseProxy{
		Rewrite:       direct,
		Transport:     roundTripperFunc(p.roundTrip),
		FlushInterval: flushInterval,
		BufferPool:    &httptransport.Buffers,
		ErrorHandler:  keepError,
		ErrorLog:      debugLog(logger),
	}
	return p
}

// debugLog returns a log for what net/http says about a response that breaks off. Caddy logs it too.
func debugLog(logger *zap.Logger) *log.Logger {
	std, err := zap.NewStdLogAt(logger, zap.DebugLevel)
	if err != nil { // the level is a valid one
		return nil
	}
	return std
}

// ServeHTTP forwards a request that Request.Serve serves. Its error is one as of reverse_proxy.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	q, ok := FromContext(r.Context())
	if !ok {
		return NotAllowed("no connection was chosen").Write(w, r)
	}
	q.direct, q.failed = true, nil
	defer flushAborted(w)
	own := maps.Clone(w.Header())
	delete(own, "Server") // Caddy's, because the response is the API's
	p.proxy.ServeHTTP(&proxyWriter{caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, q, own, false}, r)
	return q.failed
}

// flushAborted, when deferred, sends what there is of a response that breaks off.
func flushAborted(w http.ResponseWriter) {
	if p := recover(); p != nil {
		_ = http.NewResponseController(w).Flush()
		panic(p)
	}
}

// Close closes the connections that have been upgraded to another protocol. Of websockets both sides are
// told before.
func (p *Proxy) Close() { p.tunnels.close() }

// direct points a copy of the app's request at the API; the transport completes its URL. The query stays
// as the app wrote it, and the trailers are those that arrive with the app's request.
func direct(r *httputil.ProxyRequest) {
	q, _ := FromContext(r.In.Context())
	if _, ok := reverseproxy.GetDialInfo(r.Out.Context()); ok { // of a reverse_proxy around this one
		r.Out = r.Out.WithContext(withoutDialInfo(r.Out.Context()))
	}
	r.Out.URL.Scheme, r.Out.URL.Host = q.Target.Base.Scheme, q.Target.Dial
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	r.Out.Trailer = r.In.Trailer
}

// roundTrip sends a request through the transport of its connection.
func (p *Proxy) roundTrip(req *http.Request) (*http.Response, error) {
	q, _ := FromContext(req.Context())
	res, err := q.RoundTrip(p.transport(q.Conn), req)
	if err != nil {
		return nil, err
	}
	delete(q.appHeader, "Server")
	if res.StatusCode == http.StatusSwitchingProtocols {
		q.tunnel = p.tunnels.watch(res)
	}
	return res, nil
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripperFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// keepError keeps why there is no response for Request.Serve, as an error with the status that
// reverse_proxy gives it.
func keepError(_ http.ResponseWriter, r *http.Request, err error) {
	q, _ := FromContext(r.Context())
	status := http.StatusBadGateway
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		status = http.StatusGatewayTimeout
	}
	if errors.Is(err, context.Canceled) {
		status = statusClientClosedRequest
	}
	q.failed = caddyhttp.Error(status, err)
}

// proxyWriter restores the fields that other handlers have set, after an informational response: httputil
// removes all fields then. When the connection to the app is upgraded, it tells the request's tunnel.
type proxyWriter struct {
	caddyhttp.ResponseWriterWrapper

	request  *Request
	own      http.Header // as it was before the request was forwarded
	informed bool        // the last response was informational
}

// Header implements http.ResponseWriter.
func (w *proxyWriter) Header() http.Header {
	header := w.ResponseWriterWrapper.Header()
	if w.informed && len(header) == 0 {
		maps.Copy(header, w.own)
	}
	return header
}

// WriteHeader implements http.ResponseWriter.
func (w *proxyWriter) WriteHeader(status int) {
	w.informed = status < http.StatusOK && status != http.StatusSwitchingProtocols
	w.ResponseWriterWrapper.WriteHeader(status)
}

// Hijack implements http.Hijacker.
func (w *proxyWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.request.tunnel != nil {
		w.request.tunnel.setApp(conn)
	}
	return conn, buffered, err
}
