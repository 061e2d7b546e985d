package forward

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestKnownToBeTooLargeToReplay has a body of which little has been read. Whether it is replayed must
// not depend on how little: the 401 may come at any time.
func TestKnownToBeTooLargeToReplay(t *testing.T) {
	body := newReplayBody(httptest.NewRequest(http.MethodPut, "/", strings.NewReader("too long")), &Request{options: &Options{ReplayBuffer: 7}})
	attempt := body.attempt()
	if !body.replayable() {
		t.Error("nothing has been read, but it cannot be sent again") // after 100-continue it can
	}
	if n, err := attempt.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if body.replayable() || body.rewind() {
		t.Error("it is kept for a replay")
	}
}
