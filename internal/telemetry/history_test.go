package telemetry

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// past describes events without their times.
func past(events []Past) []string {
	var texts []string
	for _, p := range events {
		texts = append(texts, fmt.Sprintf("%v %d %q %v %d", p.Kind, p.Status, p.Code, p.Duration, p.Count))
	}
	return texts
}

func TestHistory(t *testing.T) {
	c := Acquire(t.Name())
	defer c.Release()
	c.Observe(token.Event{At: time.Now(), Status: 201, Duration: time.Second})
	c.CountRefusal(403)
	c.Observe(token.Event{At: time.Now(), Adopted: true})
	c.Observe(token.Event{At: time.Now(), Rejected: true, Status: 401})
	c.CountRefusal(400)
	c.CountRefusal(403)
	c.Observe(token.Event{At: time.Now(), Err: &oauth.Error{Code: "invalid_client"}, Status: 400, Duration: time.Minute})
	want := []string{
		`failed 400 "invalid_client" 1m0s 1`,
		`refused 403 "" 0s 2`,
		`refused 400 "" 0s 1`,
		`rejected 401 "" 0s 1`,
		`adopted 0 "" 0s 1`,
		`obtained 201 "" 1s 1`,
	}
	if got := past(c.History()); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	again := Acquire(t.Name()) // by a reload
	defer again.Release()
	if got := past(again.History()); !slices.Equal(got, want) {
		t.Errorf("after a reload there are %q", got)
	}
}

// TestHistoryIsBounded: the oldest events go, but no number of refused requests.
func TestHistoryIsBounded(t *testing.T) {
	c := Acquire(t.Name())
	defer c.Release()
	c.CountRefusal(403)
	for i := range 3*MaxHistory + 7 {
		c.Observe(token.Event{At: time.Now(), Duration: time.Duration(i)})
	}
	events := c.History()
	if len(events) != MaxHistory {
		t.Fatalf("there are %d events", len(events))
	}
	for i, p := range events {
		if want := time.Duration(3*MaxHistory + 6 - i); p.Duration != want {
			t.Errorf("event %d is %v, want %v", i, p.Duration, want)
		}
	}
	c.CountRefusal(403)
	if newest := c.History()[0]; newest.Kind != RequestRefused || newest.Count != 2 {
		t.Errorf("the newest event is %v", newest)
	}
}
