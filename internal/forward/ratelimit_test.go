package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// manyTokens gives another token each time.
type manyTokens struct {
	Tokens
	given *int
	err   error // after the first token
}

func (m manyTokens) Token(context.Context) (*oauth.Token, error) {
	*m.given++
	if m.err != nil && *m.given > 1 {
		return nil, m.err
	}
	return &oauth.Token{Value: "token-" + strconv.Itoa(*m.given)}, nil
}

func (m manyTokens) Accept(*oauth.Token) {}

func (m manyTokens) Replace(context.Context, *oauth.Token, int) *oauth.Token {
	return &oauth.Token{Value: "newer"}
}

func (m manyTokens) ReplaceAdopted(context.Context, *oauth.Token) *oauth.Token { return nil }

func (m manyTokens) Reject(context.Context, *oauth.Token, int) {}

// limitedAPI responds with its responses one after the other, and records what it got.
type limitedAPI struct {
	t         *testing.T
	responses []response // 200 afterwards
	began     time.Time
	at        []time.Duration // when each request came
	tokens    []string
	bodies    []string
	open      int // bodies of responses that are not closed
}

// response is a status, and a Retry-After in seconds, as a date that many seconds ahead, or literally.
type response struct {
	status int
	after  string
}

func (a *limitedAPI) RoundTrip(req *http.Request) (*http.Response, error) {
	if a.open != 0 {
		a.t.Error("the response before is still open")
	}
	n := len(a.at)
	a.at = append(a.at, time.Since(a.began))
	a.tokens = append(a.tokens, strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
	body := ""
	if req.Body != nil {
		read, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		body = string(read)
	}
	a.bodies = append(a.bodies, body)
	a.open++
	res := &http.Response{StatusCode: http.StatusOK, Header: http.Header{"X-Number": {strconv.Itoa(n)}}, Body: &countedBody{strings.NewReader("body " + strconv.Itoa(n)), &a.open}}
	if n < len(a.responses) {
		res.StatusCode = a.responses[n].status
		after := a.responses[n].after
		if date, ok := strings.CutPrefix(after, "date+"); ok {
			seconds, _ := strconv.Atoi(date)
			after = time.Now().Add(time.Duration(seconds) * time.Second).UTC().Format(http.TimeFormat)
		}
		if after != "" {
			res.Header.Set("Retry-After", after)
		}
	}
	return res, nil
}

type countedBody struct {
	io.Reader
	open *int
}

func (b *countedBody) Close() error {
	*b.open--
	return nil
}

// send sends a request through a transport to the API.
func (a *limitedAPI) send(req *http.Request, tokens Tokens, o Options) (*http.Response, error) {
	o.Field = "Authorization"
	a.began = time.Now()
	metrics := telemetry.Acquire(a.t.Name())
	defer metrics.Release()
	q := &Request{
		Context: req.Context(), options: &o, ofApp: true, direct: true, received: req.Clone(req.Context()),
		Conn:   &Connection{Name: "c", Tracing: new(telemetry.Tracing), Tokens: tokens, Metrics: metrics},
		Target: &Target{Base: &url.URL{Scheme: "https", Host: "api.example"}, Dial: "api.example:443"},
	}
	transport := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), Base: a}
	q.record.show(req.Context())
	vars, _ := req.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	before := len(vars)
	res, err := transport.Send(req, q)
	if len(vars) != before {
		a.t.Error("variables were written, which Caddy's dialer may read meanwhile")
	}
	return res, err
}

// withVars gives a request what each request has that Caddy's server serves.
func withVars(req *http.Request) *http.Request {
	return req.WithContext(context.WithValue(req.Context(), caddyhttp.VarsCtxKey, make(map[string]any)))
}

// span is in which time a request must come, after the one before it.
type span struct{ least, most time.Duration }

const second = time.Second

// TestRateLimited: when a request is sent again, and when the app gets the response.
func TestRateLimited(t *testing.T) {
	limited := func(afters ...string) []response {
		var responses []response
		for _, after := range afters {
			responses = append(responses, response{http.StatusTooManyRequests, after})
		}
		return responses
	}
	seconds := span{2 * second, 8 * second}
	usual := []span{{800 * time.Millisecond, 1200 * time.Millisecond}, {1600 * time.Millisecond, 2400 * time.Millisecond}, {3200 * time.Millisecond, 4800 * time.Millisecond}}
	for name, test := range map[string]struct {
		responses []response
		wait      time.Duration // 0: 10s
		pass      bool
		method    string // "": GET
		body      string
		again     []span
		status    int
	}{
		"seconds":                      {responses: limited("2"), again: []span{seconds}, status: 200},
		"as a date":                    {responses: limited("date+2"), again: []span{{second, 8 * second}}, status: 200},
		"without Retry-After":          {responses: limited("", "", ""), again: usual, status: 200},
		"0":                            {responses: limited("0", "0", "0"), again: usual, status: 200},
		"a date in the past":           {responses: limited("date+-9"), again: usual[:1], status: 200},
		"unreadable":                   {responses: limited("soon", "1.5", "-1"), again: usual, status: 200},
		"the fourth":                   {responses: limited("", "", "", ""), again: usual, status: 429},
		"mixed":                        {responses: limited("2", ""), wait: time.Minute, again: []span{seconds, usual[1]}, status: 200},
		"as long as the wait":          {responses: limited("10"), again: []span{{10 * second, 10 * second}}, status: 200},
		"longer than the wait":         {responses: limited("11"), status: 429},
		"a date after the wait":        {responses: limited("date+12"), status: 429},
		"longer than can be counted":   {responses: limited("99999999999999999999"), status: 429},
		"longer than is left":          {responses: limited("6", "6"), again: []span{{6 * second, 10 * second}}, status: 429},
		"a random part of what fits":   {responses: limited("4"), wait: 5 * second, again: []span{{4 * second, 5 * second}}, status: 200},
		"a short wait":                 {responses: limited(""), wait: second / 2, status: 429},
		"a wait of 1s":                 {responses: limited("", ""), wait: second, again: []span{{800 * time.Millisecond, second}}, status: 429},
		"a wait of 5m":                 {responses: limited("300"), wait: 5 * time.Minute, again: []span{{5 * time.Minute, 5 * time.Minute}}, status: 200},
		"pass":                         {responses: limited("1"), pass: true, status: 429},
		"503 with seconds":             {responses: []response{{503, "2"}}, again: []span{seconds}, status: 200},
		"503 with 0":                   {responses: []response{{503, "0"}}, again: usual[:1], status: 200},
		"503 with a date":              {responses: []response{{503, "date+-5"}}, again: usual[:1], status: 200},
		"503 without":                  {responses: []response{{503, ""}}, status: 503},
		"503, unreadable":              {responses: []response{{503, "soon"}}, status: 503},
		"other statuses":               {responses: []response{{502, "1"}}, status: 502},
		"HEAD":                         {responses: limited("2"), method: http.MethodHead, again: []span{seconds}, status: 200},
		"OPTIONS":                      {responses: limited("2"), method: http.MethodOptions, again: []span{seconds}, status: 200},
		"DELETE":                       {responses: limited("2"), method: http.MethodDelete, again: []span{seconds}, status: 200},
		"PUT":                          {responses: limited("2"), method: http.MethodPut, body: "small", again: []span{seconds}, status: 200},
		"PUT with a large body":        {responses: limited("2"), method: http.MethodPut, body: strings.Repeat("x", 101), status: 429},
		"PUT as large as the buffer":   {responses: limited("2"), method: http.MethodPut, body: strings.Repeat("x", 100), again: []span{seconds}, status: 200},
		"POST":                         {responses: limited("2"), method: http.MethodPost, body: "small", status: 429},
		"POST without a body":          {responses: limited("2"), method: http.MethodPost, status: 429},
		"PATCH":                        {responses: limited("2"), method: http.MethodPatch, status: 429},
		"a method of its own":          {responses: limited("2"), method: "PURGE", status: 429},
		"a method in lower case":       {responses: limited("2"), method: "get", status: 429},
		"a rejection between":          {responses: []response{{429, "2"}, {401, ""}, {429, ""}, {503, "1"}}, wait: time.Minute, again: []span{seconds, {}, usual[1], {second, 4 * second}}, status: 200},
		"a rejection before and after": {responses: []response{{401, ""}, {429, "2"}, {401, ""}}, again: []span{{}, seconds}, status: 401},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.method == "" {
					test.method = http.MethodGet
				}
				if test.wait == 0 && !test.pass {
					test.wait = 10 * second
				}
				api := &limitedAPI{t: t, responses: test.responses}
				var body io.Reader
				if test.body != "" {
					body = strings.NewReader(test.body)
				}
				req := withVars(httptest.NewRequest(test.method, "/x", body))
				res, err := api.send(req, manyTokens{given: new(int)}, Options{RetryUnauthorized: true, RateLimitWait: test.wait, ReplayBuffer: 100})
				if err != nil {
					t.Fatal(err)
				}
				if len(api.at) != 1+len(test.again) || res.StatusCode != test.status {
					t.Fatalf("%d requests at %v, then status %d", len(api.at), api.at, res.StatusCode)
				}
				for i, want := range test.again {
					if pause := api.at[i+1] - api.at[i]; pause < want.least || pause > want.most {
						t.Errorf("request %d came after %v, want %v", i+1, pause, want)
					}
				}
				if waited := time.Since(api.began); waited > test.wait {
					t.Errorf("waited %v of %v", waited, test.wait)
				}
				// The app gets the last response as it is.
				number := strconv.Itoa(len(test.again))
				if got, err := io.ReadAll(res.Body); err != nil || string(got) != "body "+number || res.Header.Get("X-Number") != number {
					t.Errorf("the app gets %q, %v, %v", got, err, res.Header)
				}
				for _, got := range api.bodies {
					if got != test.body {
						t.Errorf("the API got the body %q", got)
					}
				}
			})
		})
	}
}

// TestPausesDiffer: those who were told the same do not come back together.
func TestPausesDiffer(t *testing.T) {
	res := &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"10"}}}
	var pauses []time.Duration
	for range 1000 {
		pause, ok := new(patience).next(res, time.Minute)
		if !ok {
			t.Fatal("no pause")
		}
		pauses = append(pauses, pause)
	}
	if least, most := slices.Min(pauses), slices.Max(pauses); least < 10*second || least > 11*second || most < 39*second || most > 40*second {
		t.Errorf("pauses from %v to %v, want them spread from 10s to 40s", least, most)
	}
}

// TestRepeatedWithTheCurrentToken: a token may have been replaced while a request waits.
func TestRepeatedWithTheCurrentToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &limitedAPI{t: t, responses: []response{{429, "1"}, {401, ""}, {429, "1"}}}
		res, err := api.send(withVars(httptest.NewRequest(http.MethodGet, "/", nil)), manyTokens{given: new(int)}, Options{RetryUnauthorized: true, RateLimitWait: time.Minute})
		if err != nil || res.StatusCode != http.StatusOK || fmt.Sprint(api.tokens) != "[token-1 token-2 newer token-3]" {
			t.Errorf("%v, %v, with %v", res, err, api.tokens)
		}
	})
}

// TestNoTokenAfterThePause: the request was sent all the same, so it counts as sent.
func TestNoTokenAfterThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &limitedAPI{t: t, responses: []response{{429, "1"}}}
		failed := &oauth.Error{Class: oauth.ClassOutage, Status: http.StatusServiceUnavailable}
		_, err := api.send(withVars(httptest.NewRequest(http.MethodGet, "/", nil)), manyTokens{given: new(int), err: failed}, Options{RateLimitWait: time.Minute})
		refused, ok := errors.AsType[*Error](err)
		if !ok || refused.Status != http.StatusServiceUnavailable || refused.Outcome != telemetry.Sent || len(api.at) != 1 {
			t.Errorf("%+v after %d requests", err, len(api.at))
		}
	})
}

// TestThePauseEndsWhenTheAppLeaves, also while a part of its body has not been read.
func TestThePauseEndsWhenTheAppLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(3*second, leave)
		api := &limitedAPI{t: t, responses: []response{{429, "5"}}}
		_, err := api.send(withVars(httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)), manyTokens{given: new(int)}, Options{RateLimitWait: time.Minute})
		if !errors.Is(err, context.Canceled) || time.Since(api.began) != 3*second || len(api.at) != 1 || api.open != 0 {
			t.Errorf("%v after %v, %d requests, %d open responses", err, time.Since(api.began), len(api.at), api.open)
		}
	})
}

// TestTheBodyIsReadWhileWaiting: only then does net/http notice that the app leaves. No byte is lost by it, nor
// read that cannot be kept.
func TestTheBodyIsReadWhileWaiting(t *testing.T) {
	for name, test := range map[string]struct {
		length, limit int64
		want          int // bytes that are read
	}{
		"all of it":                       {length: 10, limit: 10, want: 10},
		"of unknown length":               {length: -1, limit: 20, want: 10},
		"of unknown length, as it can be": {length: -1, limit: 6, want: 6},
		"too large":                       {length: 10, limit: 6, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				read := 0
				source := strings.NewReader("0123456789")
				counted := readerFunc(func(p []byte) (int, error) {
					n, err := source.Read(p)
					read += n
					return n, err
				})
				req := &http.Request{Body: io.NopCloser(counted), ContentLength: test.length}
				body := newReplayBody(req, &Request{options: &Options{ReplayBuffer: test.limit}})
				first := body.attempt()
				body.rewind()
				if err := body.pause(t.Context(), second); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				if read != test.want {
					t.Errorf("%d bytes were read, want %d", read, test.want)
				}
				if _, err := first.Read(make([]byte, 1)); !errors.Is(err, errBodyTaken) {
					t.Errorf("the first attempt still reads: %v", err)
				}
				if got, err := io.ReadAll(body.attempt()); err != nil || string(got) != "0123456789" {
					t.Errorf("the second attempt got %q, %v", got, err)
				}
				body.finish()
			})
		})
	}
}

// lateReader is the context of a request whose body is read on by the http transport of the first attempt, after
// it was found to fit and before it is given up.
type lateReader struct {
	context.Context
	read func()
}

func (c lateReader) Value(key any) any {
	if key == caddyhttp.VarsCtxKey {
		c.read()
	}
	return c.Context.Value(key)
}

// TestABodyThatTurnsOutTooLarge: no request is sent without the beginning of its body.
func TestABodyThatTurnsOutTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var first io.Reader
		sent := 0
		transport := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), Base: roundTripper(func(req *http.Request) (*http.Response, error) {
			sent++
			first = req.Body
			_, _ = io.ReadFull(req.Body, make([]byte, 5))
			return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}, Body: http.NoBody}, nil
		})}
		q := &Request{
			Context: t.Context(), options: &Options{Field: "Authorization", ReplayBuffer: 10, RateLimitWait: time.Minute}, ofApp: true, direct: true,
			Conn:   &Connection{Name: "c", Tracing: new(telemetry.Tracing), Tokens: manyTokens{given: new(int)}},
			Target: &Target{Base: &url.URL{Scheme: "https", Host: "api.example"}, Dial: "api.example:443"},
		}
		req := httptest.NewRequest(http.MethodPut, "/", nil)
		req.Body = io.NopCloser(io.MultiReader(strings.NewReader("first"), strings.NewReader(", and too much")))
		req.ContentLength = -1
		req = req.WithContext(lateReader{req.Context(), func() { _, _ = first.Read(make([]byte, 100)) }})
		q.received = req.Clone(req.Context())
		res, err := transport.Send(req, q)
		if err != nil || res.StatusCode != http.StatusTooManyRequests || sent != 1 {
			t.Errorf("%v, %v after %d requests", res, err, sent)
		}
	})
}

// TestABodyThatIsKnownToBeTooLarge does not fit, even when the API responds before anything of it is read.
func TestABodyThatIsKnownToBeTooLarge(t *testing.T) {
	for length, want := range map[int64]int{10: 2, 11: 1} {
		synctest.Test(t, func(t *testing.T) {
			sent := 0
			transport := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), Base: roundTripper(func(*http.Request) (*http.Response, error) {
				if sent++; sent > 1 {
					return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody}, nil
				}
				return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}, Body: http.NoBody}, nil
			})}
			req := withVars(httptest.NewRequest(http.MethodPut, "/", strings.NewReader(strings.Repeat("a", int(length)))))
			metrics := telemetry.Acquire(t.Name())
			defer metrics.Release()
			q := &Request{
				Context: req.Context(), options: &Options{Field: "Authorization", ReplayBuffer: 10, RateLimitWait: time.Minute}, ofApp: true, direct: true, received: req.Clone(req.Context()),
				Conn:   &Connection{Name: "c", Tracing: new(telemetry.Tracing), Tokens: manyTokens{given: new(int)}, Metrics: metrics},
				Target: &Target{Base: &url.URL{Scheme: "https", Host: "api.example"}, Dial: "api.example:443"},
			}
			res, err := transport.Send(req, q)
			if err != nil || sent != want {
				t.Errorf("%d bytes: %v, %v after %d requests", length, res, err, sent)
			}
		})
	}
}

// TestRetriesDoNotMultiply: the attempts of a reverse_proxy for one request of the app share its repetitions.
func TestRetriesDoNotMultiply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &limitedAPI{t: t, responses: slices.Repeat([]response{{429, ""}}, 20)}
		req := withVars(httptest.NewRequest(http.MethodGet, "/", nil))
		for range 3 {
			res, err := api.send(req, manyTokens{given: new(int)}, Options{RateLimitWait: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
		}
		if len(api.at) != 3+maxRepetitions {
			t.Errorf("%d requests for 3 attempts, want %d", len(api.at), 3+maxRepetitions)
		}
	})
}
