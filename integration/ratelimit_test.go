package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// limits responds to the first requests for each path with a response that limits the rate, and then with
// next.
type limits struct {
	next http.Handler

	mu   sync.Mutex
	seen map[string]int
}

func (l *limits) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	if l.seen == nil {
		l.seen = make(map[string]int)
	}
	l.seen[r.URL.Path]++
	first := l.seen[r.URL.Path] == 1
	l.mu.Unlock()
	if !first {
		l.next.ServeHTTP(w, r)
		return
	}
	status := http.StatusTooManyRequests
	switch path := r.URL.Path; {
	case strings.Contains(path, "date"):
		w.Header().Set("Retry-After", time.Now().Add(time.Second).UTC().Format(http.TimeFormat))
	case strings.Contains(path, "without"):
	case strings.Contains(path, "long"):
		w.Header().Set("Retry-After", "2")
	default:
		w.Header().Set("Retry-After", "1")
	}
	if strings.Contains(r.URL.Path, "503") {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("X-Own", "yes")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "slow down")
}

// count is the number of requests for a path so far.
func (l *limits) count(path string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[path]
}

// rateLimitedWays are the ways to forward with on_rate_limit retry 1s.
var rateLimitedWays = map[string]func(w *world) harness.Config{
	"alone": func(w *world) harness.Config {
		return w.inline(options{directive: "name billing\non_rate_limit retry 1s"})
	},
	"with reverse_proxy": func(w *world) harness.Config {
		return w.inline(options{directive: "name billing\non_rate_limit retry 1s\nuse_reverse_proxy"})
	},
	"by hand": func(w *world) harness.Config {
		config := w.named(options{})
		config.Site = "reverse_proxy " + w.api.URL + " {\nhealth_uri /health\nhealth_status 4xx\nhealth_interval 1h\ntransport http_helper {\nconnection billing\non_rate_limit retry 1s\n}\n}"
		return config
	},
}

// inEachLimitedWay runs a test with a world whose API limits the rate, in each way to forward, with site added
// to the site that the app calls.
func inEachLimitedWay(t *testing.T, site string, test func(t *testing.T, w *world, api *limits)) {
	t.Helper()
	t.Parallel()
	for name, configure := range rateLimitedWays {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, api := newWorld(t, nil), &limits{next: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
			w.api.RespondWith(api)
			config := configure(w)
			config.Site += "\n" + site
			w.Run(t, config)
			test(t, w, api)
		})
	}
}

func TestRequestsWhoseRateIsLimited(t *testing.T) {
	body := randomBody(60_000)
	inEachLimitedWay(t, "", func(t *testing.T, w *world, api *limits) {
		t.Run("all", func(t *testing.T) {
			for path, c := range map[string]struct {
				method string
				body   []byte
				status int // of the response to the app; it is the API's first one unless 200
			}{
				"/seconds":     {method: http.MethodGet, status: http.StatusOK},
				"/date":        {method: http.MethodGet, status: http.StatusOK},
				"/without":     {method: http.MethodGet, status: http.StatusOK},
				"/503":         {method: http.MethodGet, status: http.StatusOK},
				"/delete":      {method: http.MethodDelete, status: http.StatusOK},
				"/put":         {method: http.MethodPut, body: body, status: http.StatusOK},
				"/put-large":   {method: http.MethodPut, body: randomBody(70_000), status: http.StatusTooManyRequests},
				"/post":        {method: http.MethodPost, body: []byte("x"), status: http.StatusTooManyRequests},
				"/post/empty":  {method: http.MethodPost, status: http.StatusTooManyRequests},
				"/post/503":    {method: http.MethodPost, status: http.StatusServiceUnavailable},
				"/patch":       {method: http.MethodPatch, body: []byte("x"), status: http.StatusTooManyRequests},
				"/long":        {method: http.MethodGet, status: http.StatusTooManyRequests},
				"/503/without": {method: http.MethodGet, status: http.StatusServiceUnavailable}, // limits no rate
			} {
				t.Run(path[1:], func(t *testing.T) {
					t.Parallel()
					response := w.Send(t, c.method, path, c.body)
					wantStatus(t, response, c.status)
					if c.status == http.StatusOK {
						equal(t, "API requests", api.count(path), 2)
						return
					}
					equal(t, "API requests", api.count(path), 1)
					equal(t, "body", response.Text, "slow down")
					equal(t, "X-Own", response.Header.Get("X-Own"), "yes")
					equal(t, "Proxy-Status", response.Header.Get("Proxy-Status"), "")
				})
			}
		})
		for _, r := range w.api.Requests() {
			if r.RequestURI == "/put" && r.BodySHA256 != harness.SHA256(body) {
				t.Errorf("the API got another body, of %d bytes", r.BodyLength)
			}
		}
		_, metrics, err := w.Admin(http.MethodGet, "/metrics", "", "")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`caddy_http_helper_rate_limited_total{connection="billing",outcome="replayed"} 6`,
			`caddy_http_helper_rate_limited_total{connection="billing",outcome="passed"} 6`,
			`caddy_http_helper_requests_total{connection="billing",outcome="sent"} 13`,
		} {
			if !strings.Contains(metrics, want+"\n") {
				t.Errorf("no %s", want)
			}
		}
		if health := api.count("/health"); health > 1 {
			t.Errorf("a health check was sent %d times", health)
		}
	})
}

// TestWaitsEndWithTheAppsRequest: the access log has it once the sidecar has done with it.
func TestWaitsEndWithTheAppsRequest(t *testing.T) {
	inEachLimitedWay(t, "log", func(t *testing.T, w *world, api *limits) {
		ctx, leave := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/leave", nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for api.count("/leave") == 0 && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			leave()
		}()
		if _, err := w.Do(req); err == nil {
			t.Error("there is a response")
		}
		w.WaitLog(t, `"uri":"/leave"`)
		equal(t, "API requests", api.count("/leave"), 1)
	})
}

// TestWaitsEndWithAnAppThatIsStillSending: net/http notices that a client has left only while its body is read.
func TestWaitsEndWithAnAppThatIsStillSending(t *testing.T) {
	inEachLimitedWay(t, "log", func(t *testing.T, w *world, _ *limits) {
		waiting := make(chan struct{}, 10)
		w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPut {
				return // a health check
			}
			early := http.NewResponseController(rw)
			_ = early.EnableFullDuplex() // net/http would read the body first
			rw.Header().Set("Retry-After", "1")
			rw.WriteHeader(http.StatusTooManyRequests)
			_ = early.Flush()
			_, _ = io.Copy(io.Discard, r.Body) // until the sidecar closes the response, and waits
			waiting <- struct{}{}
		}))
		conn, err := net.Dial("tcp", w.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "PUT /sending HTTP/1.1\r\nHost: %s\r\nContent-Length: 10\r\n\r\n12345", w.Addr)
		select {
		case <-waiting:
		case <-time.After(harness.Timeout):
			t.Fatal("the sidecar does not wait")
		}
		conn.Close()
		w.WaitLog(t, `"uri":"/sending"`)
		equal(t, "API requests", countRequests(w, "/sending"), 1)
	})
}

func countRequests(w *world, uri string) int {
	count := 0
	for _, r := range w.api.Requests() {
		if r.RequestURI == uri {
			count++
		}
	}
	return count
}

// TestARejectionAfterAWaitCountsApart: the token is revoked while the request waits.
func TestARejectionAfterAWaitCountsApart(t *testing.T) {
	inEachLimitedWay(t, "", func(t *testing.T, w *world, api *limits) {
		w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			api.ServeHTTP(rw, r)
			if r.URL.Path == "/revoked" && api.count("/revoked") == 1 {
				w.tokens.Revoke()
			}
		}))
		wantStatus(t, w.Get(t, "/revoked"), http.StatusOK)
		equal(t, "API requests", countRequests(w, "/revoked"), 3)
		equal(t, "Authorization", w.api.Last(t).Header.Get("Authorization"), "Bearer token-2")
	})
}

// TestAWebsocketHandshakeWhoseRateIsLimited: it is a GET like others.
func TestAWebsocketHandshakeWhoseRateIsLimited(t *testing.T) {
	inEachLimitedWay(t, "", func(t *testing.T, w *world, api *limits) {
		upgrader := websocket.Upgrader{}
		api.next = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			conn, err := upgrader.Upgrade(rw, r, nil)
			if err != nil {
				return
			}
			defer conn.Close()
			_ = conn.WriteMessage(websocket.TextMessage, []byte("hello"))
		})
		conn, res, err := websocket.DefaultDialer.Dial("ws://"+w.Addr+"/socket", nil)
		if err != nil {
			t.Fatalf("%v: %v", err, res)
		}
		defer conn.Close()
		if _, message, err := conn.ReadMessage(); err != nil || !bytes.Equal(message, []byte("hello")) {
			t.Errorf("%q, %v", message, err)
		}
		equal(t, "API requests", api.count("/socket"), 2)
	})
}

// TestPingsAreNotRepeated: who pings sees what the API says.
func TestPingsAreNotRepeated(t *testing.T) {
	t.Parallel()
	w, api := newWorld(t, nil), new(limits)
	w.api.RespondWith(api)
	config := w.named(options{service: "ping GET /ping", directive: "on_rate_limit retry 1s"})
	w.Run(t, config)
	_, got, err := w.Admin(http.MethodPost, "/http_helper/connections/billing/ping", "", "")
	if err != nil || !strings.Contains(got, `"status_code":429`) {
		t.Errorf("%s, %v", got, err)
	}
	equal(t, "API requests", api.count("/ping"), 1)
	if _, metrics, err := w.Admin(http.MethodGet, "/metrics", "", ""); err != nil || !strings.Contains(metrics, `rate_limited_total{connection="billing",outcome="passed"} 0`) {
		t.Errorf("%v, a ping was counted", err)
	}
}
