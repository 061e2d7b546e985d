package keys_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/keys"
)

// parseText makes a value of all contents but "bad".
func parseText(content string) (string, error) {
	if content == "bad" {
		return "", errors.New("it is bad")
	}
	return "made of " + content, nil
}

// onUnusable is an owner that calls a function.
type onUnusable func(error)

func (f onUnusable) WarnUnusable(reason error) { f(reason) }

// TestLastGoodBridgesAReplacement: files that are unusable for a moment are not noticed, whether they
// cannot be read or make no sense.
func TestLastGoodBridgesAReplacement(t *testing.T) {
	unreadable := errors.New("unreadable")
	type look struct {
		after   time.Duration
		content string
		err     error
		want    string // "": an error
	}
	for name, looks := range map[string][]look{
		"never good":          {{0, "bad", nil, ""}, {time.Second, "", unreadable, ""}, {time.Second, "a", nil, "made of a"}},
		"replaced":            {{0, "a", nil, "made of a"}, {0, "b", nil, "made of b"}, {0, "a", nil, "made of a"}},
		"bad for a moment":    {{0, "a", nil, "made of a"}, {time.Hour, "bad", nil, "made of a"}, {9 * time.Second, "bad", nil, "made of a"}, {0, "b", nil, "made of b"}},
		"gone for a moment":   {{0, "a", nil, "made of a"}, {time.Hour, "", unreadable, "made of a"}, {9 * time.Second, "a", nil, "made of a"}},
		"bad for good":        {{0, "a", nil, "made of a"}, {0, "bad", nil, "made of a"}, {10 * time.Second, "bad", nil, ""}, {time.Hour, "bad", nil, ""}, {0, "c", nil, "made of c"}},
		"one way and another": {{0, "a", nil, "made of a"}, {0, "bad", nil, "made of a"}, {6 * time.Second, "", unreadable, "made of a"}, {6 * time.Second, "bad", nil, ""}},
		"twice":               {{0, "a", nil, "made of a"}, {0, "bad", nil, "made of a"}, {9 * time.Second, "b", nil, "made of b"}, {9 * time.Second, "bad", nil, "made of b"}, {9 * time.Second, "bad", nil, "made of b"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := new(keys.LastGood[string, string])
				for i, look := range looks {
					time.Sleep(look.after)
					got, err := l.Get(look.content, look.err, parseText)
					if got != look.want || (err == nil) != (look.want != "") {
						t.Errorf("look %d: %q, %v, want %q", i, got, err, look.want)
					}
				}
			})
		})
	}
}

// TestLastGoodWarnsOnce warns once for each time that files become unusable, and makes one value of one
// content.
func TestLastGoodWarnsOnce(t *testing.T) {
	var warned []string
	made := 0
	l := keys.LastGood[string, string]{Owner: onUnusable(func(err error) { warned = append(warned, err.Error()) })}
	for _, content := range []string{"bad", "a", "a", "bad", "bad", "a", "bad", "bad"} {
		_, _ = l.Get(content, nil, func(content string) (string, error) {
			made++
			return parseText(content)
		})
	}
	if got := fmt.Sprint(warned); got != "[it is bad it is bad]" {
		t.Errorf("warned %s", got)
	}
	if made != 6 { // each bad one, and the first good one
		t.Errorf("made %d times", made)
	}
}
