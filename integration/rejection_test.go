package integration

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestAPathThatRejectsEveryTokenConcernsNobodyElse has an API with one path that responds 401 for reasons
// of its own. Requests for other paths neither fail nor wait, whatever the token endpoint does.
func TestAPathThatRejectsEveryTokenConcernsNobodyElse(t *testing.T) {
	t.Parallel()
	for name, endpoint := range map[string]struct {
		handler  func(w *world) http.Handler
		requests int // token requests at most: the first, and one attempt in ten seconds
	}{
		"up":   {func(w *world) http.Handler { return w.tokens.Grant(time.Hour) }, 2},
		"slow": {func(w *world) http.Handler { return harness.Slow(3*time.Second, w.tokens.Grant(time.Hour)) }, 2},
		"down": {func(*world) http.Handler { return harness.Status(http.StatusServiceUnavailable) }, 1 + 3}, // with quick retries
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startInline(t, options{})
			w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/always" {
					harness.Reply(http.StatusUnauthorized, "{}").ServeHTTP(rw, r)
				}
			}))
			w.wantOK(t)
			w.tokens.RespondWith(endpoint.handler(w))
			others := w.startLoad(t, 4, 5*time.Millisecond)
			rejected := w.startLoadOf(t, "/always", 4, 5*time.Millisecond)
			time.Sleep(5 * time.Second)
			for _, o := range rejected.stop() {
				if o.status != http.StatusUnauthorized {
					t.Fatalf("%v, want the API's 401", o)
				}
			}
			outcomes := others.stop()
			wantAllOK(t, outcomes)
			for _, o := range outcomes {
				if took := o.ended.Sub(o.began); took > 2*time.Second {
					t.Fatalf("another request waited %v", took)
				}
			}
			if got := w.tokens.Count(); got > endpoint.requests {
				t.Errorf("%d token requests", got)
			}
		})
	}
}

// TestAnAPIWhoseClockIsBehind takes each token two seconds after it was granted. Requests are replayed with
// the token before it.
func TestAnAPIWhoseClockIsBehind(t *testing.T) {
	t.Parallel()
	const behind, lifetime = 2 * time.Second, 10 * time.Second
	w := newWorld(t, nil)
	var mu sync.Mutex
	granted := make(map[string]time.Time)
	w.tokens.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		token := w.tokens.Issue(lifetime)
		mu.Lock()
		granted[token] = time.Now()
		mu.Unlock()
		harness.Reply(http.StatusOK, map[string]any{"access_token": token, "expires_in": lifetime.Seconds()}).ServeHTTP(rw, r)
	}))
	w.api.Accept(func(token string) bool {
		mu.Lock()
		defer mu.Unlock()
		return w.tokens.Valid(token) && time.Since(granted[token]) >= behind
	})
	w.Run(t, w.inline(options{connection: "warm\nrefresh_before 5s"}))
	w.tokens.Await(t, 1)
	time.Sleep(behind)
	l := w.startLoad(t, 2, 5*time.Millisecond)
	w.tokens.Await(t, 3)
	time.Sleep(behind)
	wantAllOK(t, l.stop())
	equal(t, "token requests", w.tokens.Count(), 3)
}

func TestAPIsThatRejectTokensWithOtherStatuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		statuses string
		response http.Handler
		replayed bool
	}{
		"403":                         {"403", harness.Status(http.StatusForbidden), true},
		"400 of several":              {"401 400", harness.Status(http.StatusBadRequest), true},
		"401 beside another":          {"401 403", harness.Status(http.StatusUnauthorized), true},
		"401 that is not among them":  {"403", harness.Status(http.StatusUnauthorized), false},
		"403 that is about the scope": {"403", harness.Reply(http.StatusForbidden, "{}", "WWW-Authenticate", `Bearer error="insufficient_scope"`), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachForm(t, options{service: "rejected_statuses " + c.statuses}, func(t *testing.T, w *world) {
				w.wantOK(t)
				w.tokens.Revoke()
				w.api.Accept(nil)
				w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
					if !w.tokens.Valid(harness.Bearer(r.Header)) {
						c.response.ServeHTTP(rw, r)
					}
				}))
				response := w.Send(t, http.MethodPost, "/", []byte("body"))
				if c.replayed {
					wantStatus(t, response, http.StatusOK)
					equal(t, "body", w.api.Last(t).BodySHA256, harness.SHA256([]byte("body")))
				}
				equal(t, "replayed", w.tokens.Count() == 2, c.replayed)
			})
		})
	}
}
