package httphelper

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"charm.land/huh/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// askKind is how a question is answered.
type askKind int

const (
	askText   askKind = iota
	askSecret         // nothing is shown
	askChoice         // one of the options
	askTicks          // any of the options; the answer has them separated by spaces
	askLong           // text with a limit that is counted while it is typed
	askYesNo          // the answer is yes or no
)

// question is something that a person is asked.
type question struct {
	kind    askKind
	title   string
	help    string
	options []optionView
	limit   int                // of characters, for askLong
	check   func(string) error // nil: anything goes
	answer  *string            // what it is at first is the default
}

const (
	yes = "yes"
	no  = "no"
)

// accepts checks an answer.
func (q *question) accepts(answer string) error {
	if strings.ContainsFunc(answer, unicode.IsControl) {
		return errors.New("there is a control character in it")
	}
	switch {
	case q.kind == askChoice:
		return q.offers(answer)
	case q.kind == askTicks:
		return q.offers(strings.Fields(answer)...)
	case q.kind == askYesNo:
		return oneOf(yes, no)(answer)
	case q.check != nil:
		return q.check(answer)
	default:
		return nil
	}
}

// offers checks that all answers are among the options.
func (q *question) offers(answers ...string) error {
	values := make([]string, len(q.options))
	for i, o := range q.options {
		values[i] = o.Value
	}
	for _, answer := range answers {
		if err := oneOf(values...)(answer); err != nil {
			return err
		}
	}
	return nil
}

// asker asks questions.
type asker interface {
	ask(questions []*question) error
	// end tells that there are no more questions.
	end() error
}

// newAsker asks on the terminal, or reads answers that are piped in.
func newAsker(cmd *cobra.Command) asker {
	if s := newScreen(cmd); s != nil {
		return s
	}
	return &lines{bufio.NewReader(cmd.InOrStdin())}
}

// lines are answers that stand one on a line, in the order of the questions. An empty line means the
// default.
type lines struct{ *bufio.Reader }

func (l *lines) ask(questions []*question) error {
	for _, q := range questions {
		line, err := l.ReadString('\n')
		if err != nil && err != io.EOF {
			return err
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			line = *q.answer
		}
		if q.kind == askYesNo {
			line = orDefault(map[string]string{"y": yes, "n": no}[line], line)
		}
		if err := q.accepts(line); err != nil {
			return usageErrorf("%s: %w", q.title, err)
		}
		*q.answer = line
	}
	return nil
}

// end refuses answers that are left over: they have been taken for those to other questions.
func (l *lines) end() error {
	rest, err := io.ReadAll(l)
	if err == nil && strings.TrimSpace(string(rest)) != "" {
		return usageErrorf("there are more answers than questions")
	}
	return err
}

// screen is a person's terminal.
type screen struct {
	in, out *os.File
	plain   bool // no more than lines of text: for screen readers and simple terminals
}

// newScreen is the terminal that a command runs on, or nil. Questions are written to standard
// error, so that what the command prints can go to a file.
func newScreen(cmd *cobra.Command) *screen {
	in, ok := cmd.InOrStdin().(*os.File)
	out, okOut := cmd.ErrOrStderr().(*os.File)
	if !ok || !okOut || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		return nil
	}
	return &screen{in: in, out: out, plain: os.Getenv("ACCESSIBLE") != "" || os.Getenv("TERM") == "dumb"}
}

func (s *screen) end() error { return nil }

func (s *screen) ask(questions []*question) error {
	fields := make([]huh.Field, len(questions))
	done := make([]func(), len(questions))
	for i, q := range questions {
		if s.plain {
			q = q.inOneLine()
		}
		fields[i], done[i] = q.field()
	}
	form := huh.NewForm(huh.NewGroup(fields...)).WithInput(s.in).WithOutput(s.out).WithAccessible(s.plain)
	switch err := form.Run(); {
	case errors.Is(err, huh.ErrUserAborted):
		return errors.New("given up; nothing was made")
	case err != nil:
		return fmt.Errorf("asking on the terminal: %w", err)
	}
	for i, q := range questions {
		done[i]()
		if err := q.accepts(*q.answer); err != nil { // in plain mode an end of the input goes unnoticed
			return usageErrorf("%s: %w", q.title, err)
		}
	}
	return nil
}

// inOneLine is the question for a terminal that shows only its title, and on which an empty answer
// means the default.
func (q *question) inOneLine() *question {
	line := *q
	if q.help != "" {
		line.title += ". " + strings.ReplaceAll(q.help, "\n", "; ")
	}
	if preset := *q.answer; preset != "" && q.kind == askText {
		line.title += " [" + preset + "]"
		line.check = func(answer string) error { return q.accepts(orDefault(answer, preset)) }
	}
	if q.kind != askYesNo {
		line.title += ":"
	}
	return &line
}

// field is the question on the screen, and what takes the answer from there.
func (q *question) field() (field huh.Field, done func()) {
	switch q.kind {
	case askChoice:
		return huh.NewSelect[string]().Title(q.title).Description(q.help).Options(q.screenOptions()...).Value(q.answer), func() {}
	case askTicks:
		ticked := strings.Fields(*q.answer)
		return huh.NewMultiSelect[string]().Title(q.title).Description(q.help).Options(q.screenOptions()...).Value(&ticked).Height(q.height()),
			func() { *q.answer = strings.Join(ticked, " ") }
	case askYesNo:
		said := *q.answer == yes
		return huh.NewConfirm().Title(q.title).Description(q.help).Value(&said),
			func() { *q.answer = map[bool]string{true: yes, false: no}[said] }
	case askLong:
		typed := &typedText{Text: *q.answer}
		count := q.counting(typed)
		return huh.NewInput().Title(q.title).Description(count()).DescriptionFunc(count, typed).Accessor(typed).Validate(q.accepts),
			func() { *q.answer = typed.Get() }
	case askText, askSecret:
	}
	input := huh.NewInput().Title(q.title).Description(q.help).Value(q.answer).Validate(q.accepts)
	if q.kind == askSecret {
		input.EchoMode(huh.EchoModeNone)
	}
	return input, func() {}
}

func (q *question) screenOptions() []huh.Option[string] {
	options := make([]huh.Option[string], len(q.options))
	for i, o := range q.options {
		options[i] = huh.NewOption(o.Label, o.Value).Selected(slices.Contains(strings.Fields(*q.answer), o.Value))
	}
	return options
}

const (
	maxRows  = 16 // of a question; the rest scrolls
	lineSize = 70 // characters of help on a line, at least
)

// height is how many rows a question with ticks takes: the library does not count its own title.
func (q *question) height() int {
	rows := 1 + len(q.options)
	for line := range strings.Lines(q.help) {
		rows += 1 + len(line)/lineSize
	}
	return min(rows, maxRows)
}

// counting is a question's help with the number of characters typed so far.
func (q *question) counting(typed *typedText) func() string {
	return func() string {
		return fmt.Sprintf("%s\n%d of %d characters", q.help, utf8.RuneCountInString(typed.Get()), q.limit)
	}
}

// typedText is a text that one goroutine changes while another one counts it. The library notices
// changes of exported fields.
type typedText struct {
	mu   sync.Mutex
	Text string
}

// Get implements huh.Accessor.
func (t *typedText) Get() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.Text
}

// Set implements huh.Accessor.
func (t *typedText) Set(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Text = text
}
