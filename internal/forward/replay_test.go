package forward

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// TestKnownToBeTooLargeToReplay: whether a body is replayed must not depend on how much of it has been
// read when the 401 comes.
func TestKnownToBeTooLargeToReplay(t *testing.T) {
	body := newReplayBody(httptest.NewRequest(http.MethodPut, "/", strings.NewReader("too long")), &Request{options: &Options{ReplayBuffer: 7}})
	attempt := body.attempt()
	if !body.replayable() {
		t.Error("a body of which nothing has been read is not replayable") // with Expect: 100-continue it is
	}
	if n, err := attempt.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if body.replayable() || body.rewind() {
		t.Error("a body that is too large is replayable")
	}
}

// threeTokens are the tokens of a connection whose first one has been replaced by another replica's.
type threeTokens struct {
	Tokens
	adopted bool
}

func (threeTokens) Accept(*oauth.Token) {}

func (threeTokens) Reject(context.Context, *oauth.Token, int) {}

func (threeTokens) Replace(context.Context, *oauth.Token, int) *oauth.Token {
	return &oauth.Token{Value: "second"}
}

func (t threeTokens) ReplaceAdopted(_ context.Context, rejected *oauth.Token) *oauth.Token {
	if !t.adopted || rejected.Value != "second" {
		return nil
	}
	return &oauth.Token{Value: "third"}
}

// TestSecondReplay: a request is replayed a second time if the first one was with another replica's token,
// and never a third time.
func TestSecondReplay(t *testing.T) {
	for name, test := range map[string]struct {
		tokens   threeTokens
		accepts  string // the API, "": nothing
		limit    int64  // of the body
		attempts []string
	}{
		"accepted after the first":   {threeTokens{adopted: true}, "second", 100, []string{"first", "second"}},
		"adopted":                    {threeTokens{adopted: true}, "third", 100, []string{"first", "second", "third"}},
		"adopted, nothing helps":     {threeTokens{adopted: true}, "", 100, []string{"first", "second", "third"}},
		"not adopted":                {threeTokens{}, "", 100, []string{"first", "second"}},
		"adopted, the body is large": {threeTokens{adopted: true}, "third", 2, []string{"first"}},
	} {
		t.Run(name, func(t *testing.T) {
			var attempts []string
			api := roundTripper(func(req *http.Request) (*http.Response, error) {
				token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
				attempts = append(attempts, token)
				if body, err := io.ReadAll(req.Body); err != nil || string(body) != "body" {
					t.Errorf("attempt %d got %q, %v", len(attempts), body, err)
				}
				res := &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: http.NoBody}
				if token != test.accepts {
					res.StatusCode = http.StatusUnauthorized
				}
				return res, nil
			})
			metrics := telemetry.Acquire(t.Name())
			defer metrics.Release()
			q := &Request{
				Context: t.Context(), options: &Options{Field: "Authorization", ReplayBuffer: test.limit, RetryUnauthorized: true},
				Conn:   &Connection{Tracing: new(telemetry.Tracing), Tokens: test.tokens, Metrics: metrics},
				Target: &Target{Base: &url.URL{Scheme: "https", Host: "api.example"}},
			}
			transport := &Transport{HTTPTransport: new(reverseproxy.HTTPTransport), Base: api}
			req := httptest.NewRequest(http.MethodPost, "/x", strings.NewReader("body"))
			res, err := transport.sendWithBody(req, q, &oauth.Token{Value: "first"})
			if err != nil || (res.StatusCode == http.StatusOK) != (attempts[len(attempts)-1] == test.accepts) {
				t.Errorf("%v, %v", res, err)
			}
			if !slices.Equal(attempts, test.attempts) {
				t.Errorf("attempts with %v", attempts)
			}
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return r(req) }

// TestEachAttemptHasItsTrailers: the http transport of an attempt that was given up may still look at its own.
func TestEachAttemptHasItsTrailers(t *testing.T) {
	arriving := http.Header{"X-Sum": nil, "Authorization": nil}
	q := &Request{Target: new(Target), options: &Options{Field: "Authorization", ReplayBuffer: 100}}
	source := io.MultiReader(strings.NewReader("body"), readerFunc(func([]byte) (int, error) {
		arriving["X-Sum"], arriving["Authorization"] = []string{"1"}, []string{"Bearer mine"}
		return 0, io.EOF
	}))
	body := newReplayBody(&http.Request{Body: io.NopCloser(source), ContentLength: -1, Trailer: arriving}, q)
	first := body.attempt()
	if _, err := io.ReadAll(first); err != nil || first.trailer.Get("X-Sum") != "1" {
		t.Errorf("the first attempt got %v, %v", first.trailer, err)
	}
	second := body.attempt()
	if value, announced := second.trailer["X-Sum"]; !announced || value != nil {
		t.Errorf("before it has read its body, the second attempt has %v", second.trailer)
	}
	if got, err := io.ReadAll(second); err != nil || string(got) != "body" || second.trailer.Get("X-Sum") != "1" || len(second.trailer) != 1 {
		t.Errorf("the second attempt got %q, %v, %v", got, second.trailer, err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestNoRejectedStatuses: an empty list in JSON is none, so that a 401 counts.
func TestNoRejectedStatuses(t *testing.T) {
	for _, statuses := range [][]int{nil, {}} {
		q := &Request{Conn: &Connection{RejectedStatuses: statuses}}
		if !q.rejects(&http.Response{StatusCode: http.StatusUnauthorized}) || q.rejects(&http.Response{StatusCode: http.StatusForbidden}) {
			t.Errorf("%v is not the default", statuses)
		}
	}
}

// blockingBody is a body whose Read ends when something arrives, and which notes whether Close came before.
type blockingBody struct {
	reading chan struct{} // closed when Read has begun
	arrives chan struct{}
	ended   bool // without a lock, as in Caddy's body: the race detector finds Close beside Read
	closed  chan bool
}

func (b *blockingBody) Read([]byte) (int, error) {
	close(b.reading)
	<-b.arrives
	b.ended = true
	return 0, io.ErrUnexpectedEOF
}

func (b *blockingBody) Close() error {
	b.closed <- b.ended
	return nil
}

// TestBodyIsClosedAfterTheReadInProgress: an http transport closes a request's body while it still reads it, and not
// every body permits that.
func TestBodyIsClosedAfterTheReadInProgress(t *testing.T) {
	source := &blockingBody{reading: make(chan struct{}), arrives: make(chan struct{}), closed: make(chan bool, 2)}
	body := newReplayBody(&http.Request{Body: source, ContentLength: -1}, &Request{options: &Options{ReplayBuffer: 100}})
	attempt := body.attempt()
	read := make(chan error, 1)
	go func() {
		_, err := attempt.Read(make([]byte, 1))
		read <- err
	}()
	<-source.reading
	_ = attempt.Close()
	body.finish()
	close(source.arrives)
	if err := <-read; err == nil {
		t.Error("the read has no error")
	}
	if ended := <-source.closed; !ended {
		t.Error("the body was closed while it was read")
	}
	if len(source.closed) > 0 {
		t.Error("the body was closed twice")
	}
}
