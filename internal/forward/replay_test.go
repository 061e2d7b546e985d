package forward

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
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
