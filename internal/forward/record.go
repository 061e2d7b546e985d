package forward

import (
	"context"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// record is what placeholders and the access log tell of a request. They read it when they are evaluated.
type record struct {
	conn      *Connection // nil: not known
	outcome   string      // "": not known yet
	replayed  string      // why it was sent again last; "": it was not
	tokenWait time.Duration

	// Of the first record of a request of the app: a reverse_proxy may make several attempts, and an error route
	// may forward the request once more.
	newest   *record
	patience map[string]*patience // by the names of connections
}

// Values of record.replayed.
const (
	replayedUnauthorized = "unauthorized"
	replayedRateLimit    = "rate_limit"
)

// recordKey is the name of the record in the request's variables and among the fields of its access log.
const recordKey = "http_helper"

// show makes the placeholders and the access log of the request with this context tell of r, from now on. It
// reports whether they told of another record before. The request's variables are written only once, before it
// is sent: net/http may still dial for an attempt that has ended, and Caddy's dialer reads them.
func (r *record) show(ctx context.Context) (again bool) {
	vars, ok := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	if !ok {
		return false // a health check
	}
	first, again := vars[recordKey].(*record)
	if !again {
		first = r
		vars[recordKey] = r
		if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
			repl.Map(func(key string) (any, bool) { return first.newest.value(key) })
		}
	}
	first.newest = r
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); !ok || server.Logs == nil {
		return again // there is no access log, so nothing is spent on it
	}
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(zap.Field{Key: recordKey, Type: zapcore.InlineMarshalerType, Interface: r})
	}
	return again
}

// value returns the value of a placeholder.
func (r *record) value(key string) (any, bool) {
	switch key {
	case "http.http_helper.connection":
		return r.connection(), true
	case "http.http_helper.outcome":
		return r.outcome, true
	case "http.http_helper.replayed":
		return r.replayed, true
	default:
		return nil, false
	}
}

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (r *record) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	enc.AddString("http_helper.connection", r.connection())
	enc.AddString("http_helper.outcome", r.outcome)
	enc.AddString("http_helper.replayed", r.replayed)
	if r.tokenWait > 0 {
		enc.AddFloat64("http_helper.token_wait", r.tokenWait.Seconds())
	}
	return nil
}

// String is what the placeholder of the variable shows.
func (r *record) String() string { return r.newest.connection() }

// connection returns the name of the connection.
func (r *record) connection() string {
	if r.conn == nil {
		return ""
	}
	return r.conn.Name
}

// NoteTokenWait notes that the request with this context has waited for a token since a time.
func NoteTokenWait(ctx context.Context, since time.Time) {
	if q, ok := FromContext(ctx); ok {
		q.record.tokenWait += time.Since(since)
	}
}

// Refuse counts a request that is not forwarded, and tells of it. The connection is nil if it is not known.
func Refuse(ctx context.Context, c *Connection, refused *Error) {
	r := &record{conn: c, outcome: refused.Outcome.String()}
	if r.show(ctx) {
		withdraw(ctx)
	}
	var metrics *telemetry.Connection
	if c != nil {
		metrics = c.Metrics
	}
	countUnsent(metrics, refused)
}

// countUnsent counts a request that got an error in place of being sent.
func countUnsent(metrics *telemetry.Connection, e *Error) {
	if e.Outcome == telemetry.Refused {
		metrics.CountRefusal(e.Status)
		return
	}
	metrics.Count(e.Outcome)
}
