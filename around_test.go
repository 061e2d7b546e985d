package httphelper

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// around is a handler before http_helper, as those of other plugins are. It calls the next one as the test says.
type around struct{}

// callNext is what around does.
var callNext func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error

func init() {
	caddy.RegisterModule(around{})
	httpcaddyfile.RegisterHandlerDirective("around", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) { return around{}, nil })
	httpcaddyfile.RegisterDirectiveOrder("around", httpcaddyfile.Before, "header")
}

func (around) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.around", New: func() caddy.Module { return new(around) }}
}

func (around) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	return callNext(w, r, next)
}

// runAround runs a sidecar with around before http_helper, and without an access log.
func runAround(t *testing.T, e *fakeIdP, a *api, option string, do func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error) string {
	t.Helper()
	callNext = do
	return runSidecar(t, strings.Replace(inline(a, e, option), "SITE {", "SITE {\n\taround", 1))
}

// TestNoHandlerSeesAnEcho: placeholders and other handlers, such as Caddy's tracing with its span_attributes, read the
// header when the response has been sent, whether or not there is an access log.
func TestNoHandlerSeesAnEcho(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Echo", r.Header.Get("Authorization")) })
		seen := make(chan string, 1)
		site := runAround(t, e, a, option, func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			err := next.ServeHTTP(w, r)
			seen <- w.Header().Get("X-Echo") + r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll("{http.response.header.X-Echo}", "")
			return err
		})
		if res, _ := call(t, "GET", site, nil); res.Header.Get("X-Echo") != "Bearer t1" {
			t.Errorf("the app got %v", res.Header)
		}
		if got := <-seen; got != "" {
			t.Errorf("a handler saw %q", got)
		}
	})
}

// TestNextInAGoroutine: plugins for caches and timeouts call the next handler in a goroutine and use the request
// meanwhile. The race detector watches.
func TestNextInAGoroutine(t *testing.T) {
	bothWays(t, func(t *testing.T, option string) {
		e, a := newIdP(t), newAPI(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		site := runAround(t, e, a, option, func(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
			done := make(chan error, 1)
			go func() { done <- next.ServeHTTP(w, r) }()
			<-r.Context().Done()
			left := r.Context().Err()
			<-done
			return left
		})
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, site, nil)
			if err != nil {
				t.Fatal(err)
			}
			if res, err := http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
			}
			cancel()
		}
	})
}
