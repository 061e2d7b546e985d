package forward

import (
	"net/http"
	"sync"

	"go.uber.org/zap"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
)

// Limits are what the app may use a credential for (rule 34): the requests that both lists permit. They
// must not be copied.
type Limits struct {
	Connector, Connection httpguard.AllowList
	Logger                *zap.Logger // is told what is refused

	mu     sync.Mutex
	logged map[refusal]struct{}
}

// refusal is a refused request as it is logged.
type refusal struct{ method, path, why string }

const (
	maxLoggedRefusals = 100 // of a connection, so that an app cannot fill the memory
	maxShownMethod    = 32
	maxShownPath      = 200
)

// isLimited reports whether the request needs permission.
func (q *Request) isLimited() bool { return q.ofApp && q.Conn.Limits != nil }

// refuse returns the error for a request that is not permitted as r, and nil for one that is.
func (q *Request) refuse(r *http.Request) *Error {
	if !q.isLimited() {
		return nil
	}
	why := q.Conn.Limits.forbid(r)
	if why == "" {
		return nil
	}
	refused := refusal{shorten(r.Method, maxShownMethod), shorten(httpguard.AllowPattern(r.URL), maxShownPath), why}
	q.Conn.Limits.log(q.Conn.Name, refused)
	return &Error{
		Status: http.StatusForbidden, Type: "http_request_denied",
		Details: "connection " + q.Conn.Name + ": " + refused.method + " " + refused.path + " " + why,
	}
}

// forbid says why a request is not permitted, or "" if it is.
func (l *Limits) forbid(r *http.Request) string {
	path := httpguard.ComparablePath(r.URL)
	switch {
	case !l.Connector.Permits(r.Method, path):
		return "is not in the allow of its connector"
	case !l.Connection.Permits(r.Method, path):
		return "is not in its allow"
	}
	for _, header := range []http.Header{r.Header, r.Trailer} {
		for field := range header {
			if httpguard.OverridesRequest(field) {
				return "has " + field + ", which can make some servers treat it as a different request; it is refused when allow is set"
			}
		}
	}
	return ""
}

// log logs a refused request once, so that an operator sees what an app would need. The first ones only: paths
// may have numbers in them.
func (l *Limits) log(connection string, refused refusal) {
	l.mu.Lock()
	_, known := l.logged[refused]
	number := len(l.logged)
	if !known && number <= maxLoggedRefusals {
		if l.logged == nil {
			l.logged = make(map[refusal]struct{})
		}
		l.logged[refused] = struct{}{}
	}
	l.mu.Unlock()
	switch {
	case known || number > maxLoggedRefusals:
	case number == maxLoggedRefusals:
		l.Logger.Warn("further requests that allow does not permit are not logged, but counted in requests_total", zap.String("connection", connection))
	default:
		l.Logger.Warn("a request is refused, because allow does not permit it", zap.String("connection", connection),
			zap.String("method", refused.method), zap.String("path", refused.path), zap.String("reason", refused.why))
	}
}

// shorten cuts the end of a long text off.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return text[:limit] + "..."
}
