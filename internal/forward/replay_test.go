package forward

import (
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
