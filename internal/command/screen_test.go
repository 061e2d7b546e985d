package command

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// Whatever the size of the terminal, each page fits on it, and no question is lost.
func TestPagesFit(t *testing.T) {
	empty := ""
	var questions []*question
	for i := range 12 {
		questions = append(questions, &question{title: fmt.Sprintf("Question %d", i), help: strings.Repeat("some help ", i*2), value: &empty})
	}
	many := &question{kind: multiSelect, title: "Scopes", value: &empty}
	for i := range 100 {
		many.options = append(many.options, adminapi.Option{Value: fmt.Sprint(i), Label: strings.Repeat("é", i)})
	}
	questions = append(questions, many)
	for _, size := range [][2]int{{leastColumns, leastRows}, {80, 24}, {200, 60}} {
		s := &screen{columns: size[0], rows: size[1]}
		var asked []*question
		for _, page := range s.pages(questions) {
			rows := -1
			for _, q := range page {
				rows += s.height(q) + 1
			}
			if rows > s.rows-footRows {
				t.Errorf("%v: a page of %d rows", size, rows)
			}
			asked = append(asked, page...)
		}
		if !slices.Equal(asked, questions) {
			t.Errorf("%v: asked %d of %d questions", size, len(asked), len(questions))
		}
		for _, o := range s.options(many) {
			if utf8.RuneCountInString(o.Key) > s.columns-optionFrame || len(o.Value) > 2 {
				t.Errorf("%v: the option %s is too long: %s", size, o.Value, o.Key)
			}
		}
	}
}

func TestTerminalsToDrawOn(t *testing.T) {
	for _, test := range []struct {
		term, accessible string
		columns, rows    int
		want             bool
	}{
		{"xterm-256color", "", 80, 24, true},
		{"xterm-256color", "1", 80, 24, false},
		{"dumb", "", 80, 24, false},
		{"", "", 80, 24, false},
		{"xterm", "", 0, 0, false},
		{"xterm", "", 80, 5, false},
		{"xterm", "", 20, 24, false},
	} {
		t.Setenv("TERM", test.term)
		t.Setenv("ACCESSIBLE", test.accessible)
		if got := drawsOn(test.columns, test.rows); got != test.want {
			t.Errorf("%+v: %t", test, got)
		}
	}
}

func TestOptionsByNumber(t *testing.T) {
	q := &question{options: []adminapi.Option{{Value: "eu"}, {Value: "us"}, {Value: "1"}}}
	for typed, want := range map[string]string{"": "", "2": "us", "us": "us", "1": "1", "0": "0", "4": "4", " 2  eu ": "us eu", "-1": "-1"} {
		if got := q.byNumber(typed); got != want {
			t.Errorf("%q became %q", typed, got)
		}
	}
	if got := q.numbered("us"); got != "2" {
		t.Error(got)
	}
	if got := (&question{}).byNumber("2  3"); got != "2  3" {
		t.Error(got)
	}
}

func TestTypedTextIsCounted(t *testing.T) {
	q := &question{kind: limitedText, help: "help", limit: 500}
	typed := newTypedText("")
	count := func() string { return q.description(typed.Get()) }
	done := make(chan struct{})
	go func() { // as the screen does
		defer close(done)
		for range 100 {
			_ = count()
		}
	}()
	typed.Set("aéz")
	<-done
	if got := count(); got != "help\n3 of 500 characters" {
		t.Error(got)
	}
}
