package command

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"charm.land/huh/v2"
)

// screen asks a person with forms that are drawn on the terminal.
type screen struct {
	in, out       *os.File
	columns, rows int
}

const (
	footRows    = 3 // below a form: what keys do, or what is wrong
	optionFrame = 8 // columns beside an option's label
)

func (s *screen) ask(questions []*question) error {
	pages := s.pages(questions)
	groups := make([]*huh.Group, 0, len(pages))
	done := make([]func(), len(questions))
	for _, page := range pages {
		fields := make([]huh.Field, len(page))
		for i, q := range page {
			fields[i], done[slices.Index(questions, q)] = s.field(q)
		}
		groups = append(groups, huh.NewGroup(fields...))
	}
	form := huh.NewForm(groups...).WithInput(s.in).WithOutput(s.out)
	err := form.Run()
	switch {
	case err != nil && !errors.Is(err, huh.ErrUserAborted):
		return fmt.Errorf("asking on the terminal: %w", err)
	case form.State != huh.StateCompleted: // also when a signal ends it
		return errGivenUp
	}
	for _, take := range done {
		take()
	}
	return nil
}

// pages are the questions as they fit on the screen.
func (s *screen) pages(questions []*question) [][]*question {
	var pages [][]*question
	left := 0
	for _, q := range questions {
		need := s.height(q) + 1 // and a line between
		if need > left {
			pages, left = append(pages, nil), s.rows-footRows
		}
		last := len(pages) - 1
		pages[last] = append(pages[last], q)
		left -= need
	}
	return pages
}

// height is how many rows a question takes: title, help, and a line or the options. Options that do
// not fit scroll.
func (s *screen) height(q *question) int {
	return min(s.wrapped(q.title+"\n"+q.description(""))+max(len(q.options), 1), s.rows-footRows-1)
}

// wrapped is how many rows a text takes at most.
func (s *screen) wrapped(text string) int {
	rows := 0
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		rows += 1 + utf8.RuneCountInString(line)/(s.columns*3/4) // lines end between words
	}
	return rows
}

// field is the question on the screen, and a function that takes what was entered from there.
func (s *screen) field(q *question) (field huh.Field, done func()) {
	switch q.kind {
	case choice:
		return huh.NewSelect[string]().Title(q.title).Description(q.help).Options(s.options(q)...).Value(q.value).Height(s.height(q)), func() {}
	case multiSelect:
		selected := strings.Fields(*q.value)
		return huh.NewMultiSelect[string]().Title(q.title).Description(q.help).Options(s.options(q)...).Value(&selected).Height(s.height(q)),
			func() { *q.value = strings.Join(selected, " ") }
	case yesOrNo:
		confirmed := *q.value == yes
		return huh.NewConfirm().Title(q.title).Description(q.help).Value(&confirmed),
			func() { *q.value = map[bool]string{true: yes, false: no}[confirmed] }
	case limitedText:
		typed := newTypedText(*q.value)
		description := func() string { return q.description(typed.Get()) }
		return huh.NewInput().Title(q.title).Description(description()).DescriptionFunc(description, &typed.changes).Accessor(typed).Validate(q.accepts),
			func() { *q.value = typed.Get() }
	case anyText, secretText:
	}
	input := huh.NewInput().Title(q.title).Description(q.help).Value(q.value).Validate(q.accepts)
	if q.kind == secretText {
		input.EchoMode(huh.EchoModeNone)
	}
	return input, func() {}
}

// options are those of a question, each on one line.
func (s *screen) options(q *question) []huh.Option[string] {
	options := make([]huh.Option[string], len(q.options))
	for i, o := range q.options {
		label := []rune(o.Label)
		if most := s.columns - optionFrame; len(label) > most {
			label = append(label[:most-1:most-1], '…')
		}
		options[i] = huh.NewOption(string(label), o.Value).Selected(slices.Contains(strings.Fields(*q.value), o.Value))
	}
	return options
}

// description is a question's help, with the number of characters typed so far where that is limited.
func (q *question) description(typed string) string {
	if q.kind != limitedText {
		return q.help
	}
	return fmt.Sprintf("%s\n%d of %d characters", q.help, utf8.RuneCountInString(typed), q.limit)
}

// typedText is a text that one goroutine changes while another one counts it.
type typedText struct {
	text    atomic.Pointer[string]
	changes int // of the goroutine that changes it, on which the library looks whether it has changed
}

func newTypedText(text string) *typedText {
	t := new(typedText)
	t.text.Store(&text)
	return t
}

// Get implements huh.Accessor.
func (t *typedText) Get() string { return *t.text.Load() }

// Set implements huh.Accessor.
func (t *typedText) Set(text string) {
	if text != t.Get() {
		t.text.Store(&text)
		t.changes++
	}
}
