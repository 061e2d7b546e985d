package integration

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// startRevoked is a world whose sidecar has a token that the API no longer accepts.
func startRevoked(t *testing.T, o options) *world {
	t.Helper()
	w := startInline(t, o)
	w.wantOK(t)
	w.tokens.Revoke()
	return w
}

// rejectAfterReading makes the API read the whole body before it looks at the token.
func (w *world) rejectAfterReading() {
	w.api.Accept(nil)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if !w.tokens.Valid(harness.Bearer(r.Header)) {
			harness.Reply(http.StatusUnauthorized, "{}", "WWW-Authenticate", `Bearer error="invalid_token"`).ServeHTTP(rw, r)
		}
	}))
}

func TestARejectedTokenIsReplacedAndTheRequestReplayed(t *testing.T) {
	t.Parallel()
	small, large := randomBody(64<<10), randomBody(300_000)
	for name, c := range map[string]struct {
		options options
		method  string
		body    []byte
		chunked bool
		status  int
	}{
		"GET":                                {method: http.MethodGet, status: http.StatusOK},
		"DELETE":                             {method: http.MethodDelete, status: http.StatusOK},
		"POST that fits the buffer":          {method: http.MethodPost, body: small, status: http.StatusOK},
		"POST of unknown length that fits":   {method: http.MethodPost, body: small, chunked: true, status: http.StatusOK},
		"POST that is too large":             {method: http.MethodPost, body: large, status: http.StatusUnauthorized},
		"POST of unknown length, too large":  {method: http.MethodPost, body: large, chunked: true, status: http.StatusUnauthorized},
		"POST with a larger buffer":          {options: options{directive: "replay_buffer 1MiB"}, method: http.MethodPost, body: large, status: http.StatusOK},
		"PATCH with a larger buffer":         {options: options{directive: "replay_buffer 1MiB"}, method: http.MethodPatch, body: large, chunked: true, status: http.StatusOK},
		"POST without a buffer":              {options: options{directive: "replay_buffer 0"}, method: http.MethodPost, body: []byte("x"), status: http.StatusUnauthorized},
		"GET without a buffer":               {options: options{directive: "replay_buffer 0"}, method: http.MethodGet, status: http.StatusOK},
		"POST together with request_buffers": {options: options{directive: "request_buffers 1MiB"}, method: http.MethodPost, body: small, status: http.StatusOK},
		"PUT with on_unauthorized pass":      {options: options{directive: "on_unauthorized pass"}, method: http.MethodPut, body: small, status: http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startRevoked(t, c.options)
			w.rejectAfterReading()
			var body io.Reader = bytes.NewReader(c.body)
			if c.chunked {
				body = io.MultiReader(body) // hides the length
			}
			req, err := http.NewRequest(c.method, w.URL+"/x%2Fy?q=1", body)
			if err != nil {
				t.Fatal(err)
			}
			if c.chunked {
				req.Trailer = http.Header{"X-Trailer": {"after the body"}}
			}
			response := w.MustDo(t, req)
			wantStatus(t, response, c.status)
			if c.status == http.StatusOK {
				equal(t, "API requests", w.api.Count(), 3)
				equal(t, "token requests", w.tokens.Count(), 2)
				r := w.api.Last(t)
				equal(t, "method", r.Method, c.method)
				equal(t, "request URI", r.RequestURI, "/x%2Fy?q=1")
				equal(t, "body", r.BodySHA256, harness.SHA256(c.body))
				equal(t, "trailer", r.Trailer.Get("X-Trailer"), req.Trailer.Get("X-Trailer"))
				return
			}
			equal(t, "API requests", w.api.Count(), 2)
			equal(t, "WWW-Authenticate", response.Header.Get("WWW-Authenticate"), `Bearer error="invalid_token"`)
			if c.options.directive != "on_unauthorized pass" {
				w.wantOK(t) // with a newer token: the rejected one was invalidated all the same
			}
		})
	}
}

// TestAnEarly401DuringALargeUpload has an API that responds before it has read the body.
func TestAnEarly401DuringALargeUpload(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"fits the buffer": 60_000, "too large": 20 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startRevoked(t, options{})
			req, err := http.NewRequest(http.MethodPost, w.URL+"/", io.MultiReader(bytes.NewReader(randomBody(size))))
			if err != nil {
				t.Fatal(err)
			}
			response, err := w.Do(req)
			switch {
			case size > 64<<10 && err != nil:
				// The API may close the connection while the body is still on its way.
			case err != nil:
				t.Fatal(err)
			case size > 64<<10:
				wantStatus(t, response, http.StatusUnauthorized)
			default:
				wantStatus(t, response, http.StatusOK)
				equal(t, "body", w.api.Last(t).BodySHA256, harness.SHA256(randomBody(size)))
			}
			w.wantOK(t)
		})
	}
}

// TestAnEarly401WhileTheBodyIsStillComing replays a body whose end the app has not sent yet.
func TestAnEarly401WhileTheBodyIsStillComing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.Run(t, w.inline(options{}))
	w.wantOK(t)
	w.tokens.Revoke()
	rejected := make(chan struct{})
	var once sync.Once
	accept := w.tokens.Valid
	w.api.Accept(func(token string) bool {
		if !accept(token) {
			once.Do(func() { close(rejected) })
			return false
		}
		return true
	})
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, "first half, ")
		select {
		case <-rejected:
		case <-time.After(harness.Timeout):
		}
		_, _ = io.WriteString(writer, "second half")
		writer.Close()
	}()
	req, err := http.NewRequest(http.MethodPost, w.URL+"/", reader)
	if err != nil {
		t.Fatal(err)
	}
	response := w.MustDo(t, req)
	wantStatus(t, response, http.StatusOK)
	equal(t, "body", w.api.Last(t).BodySHA256, harness.SHA256([]byte("first half, second half")))
}

func TestASecond401IsTheAppsUnchanged(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	w.api.RespondWith(harness.Reply(http.StatusUnauthorized, `{"why":"because"}`, "WWW-Authenticate", `Bearer realm="r", error="invalid_token"`, "X-Own", "yes"))
	response := w.Get(t, "/")
	wantStatus(t, response, http.StatusUnauthorized)
	equal(t, "body", response.Text, `{"why":"because"}`)
	equal(t, "X-Own", response.Header.Get("X-Own"), "yes")
	equal(t, "WWW-Authenticate", response.Header.Get("WWW-Authenticate"), `Bearer realm="r", error="invalid_token"`)
	equal(t, "Proxy-Status", response.Header.Get("Proxy-Status"), "")
	equal(t, "API requests", w.api.Count(), 2)
	equal(t, "token requests", w.tokens.Count(), 2)
}

func TestTheFirst401IsTheAppsWhenNoNewerTokenCanBeHad(t *testing.T) {
	t.Parallel()
	for name, response := range map[string]http.Handler{
		"outage":     harness.Refuse(http.StatusServiceUnavailable, "temporarily_unavailable"),
		"same again": harness.Reply(http.StatusOK, `{"access_token":"token-1","expires_in":3600}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startRevoked(t, options{})
			w.tokens.RespondWith(response)
			got := w.Get(t, "/")
			wantStatus(t, got, http.StatusUnauthorized)
			equal(t, "WWW-Authenticate", got.Header.Get("WWW-Authenticate"), `Bearer error="invalid_token"`)
			equal(t, "API requests", w.api.Count(), 2)
		})
	}
}

func TestWhatIsNoRejectionIsLeftAlone(t *testing.T) {
	t.Parallel()
	for name, response := range map[string]http.Handler{
		"insufficient scope": harness.Reply(http.StatusUnauthorized, "{}", "WWW-Authenticate", `Bearer realm="x", error="insufficient_scope", scope="a b"`),
		"in other spelling":  harness.Reply(http.StatusUnauthorized, "{}", "WWW-Authenticate", `Basic realm="y", bearer Error = insufficient_scope`),
		"403":                harness.Reply(http.StatusForbidden, "{}", "WWW-Authenticate", `Bearer error="invalid_token"`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startInline(t, options{})
			w.api.RespondWith(response)
			w.Get(t, "/")
			w.Get(t, "/")
			equal(t, "API requests", w.api.Count(), 2)
			equal(t, "token requests", w.tokens.Count(), 1)
		})
	}
}

func TestManyRejectionsOfOneTokenCostOneTokenRequest(t *testing.T) {
	w := startRevoked(t, options{})
	wantAllOK(t, w.simultaneously(t, func() {}))
	equal(t, "token requests", w.tokens.Count(), 2)
}

func TestAnAPIThatRejectsEveryTokenCostsNextToNothing(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	w.api.Accept(func(string) bool { return false })
	l := w.startLoad(t, 4, time.Millisecond)
	time.Sleep(5 * time.Second)
	outcomes := l.stop()
	for _, o := range outcomes {
		if o.status != http.StatusUnauthorized {
			t.Fatalf("%v, want 401", o)
		}
	}
	// The first one, and one more in any ten seconds.
	if got := w.tokens.Count(); got > 2 {
		t.Errorf("%d token requests for %d rejected requests", got, len(outcomes))
	}
	// Nor does it cost the API: only the request that fetched a token was sent twice, and those beside it.
	if extra := w.api.Count() - len(outcomes); extra > 8 {
		t.Errorf("%d replays", extra)
	}
}

func TestTheBodyOfA401IsNotWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	hanging := make(chan struct{})
	defer close(hanging)
	var mu sync.Mutex
	first := true
	w.api.Accept(nil)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		reject := first
		first = false
		mu.Unlock()
		if !reject {
			return
		}
		rw.Header().Set("WWW-Authenticate", "Bearer")
		rw.WriteHeader(http.StatusUnauthorized)
		_ = http.NewResponseController(rw).Flush()
		select {
		case <-hanging:
		case <-r.Context().Done():
		}
	}))
	w.Run(t, w.inline(options{}))
	began := time.Now()
	w.wantOK(t)
	if took := time.Since(began); took > harness.Timeout/2 {
		t.Errorf("response after %v", took)
	}
}

func TestReplayWithAnOwnTokenHeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.api.Accept(nil)
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !w.tokens.Valid(strings.TrimPrefix(r.Header.Get("X-Token"), "Tok ")) {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
	w.Run(t, w.inline(options{directive: "access_token_header X-Token Tok"}))
	w.wantOK(t)
	w.tokens.Revoke()
	w.wantOK(t)
	equal(t, "X-Token", strings.Join(w.api.Last(t).Header["X-Token"], "|"), "Tok token-2")
}
