package httphelper

import (
	"bufio"
	"errors"
	"os"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
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
		return subdirective.OneOf(yes, no)(answer)
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
		if err := subdirective.OneOf(values...)(answer); err != nil {
			return err
		}
	}
	return nil
}

// take makes an answer of what was typed. Nothing means the default.
func (q *question) take(typed string) error {
	typed = orDefault(typed, *q.answer)
	if q.kind == askYesNo {
		typed = orDefault(map[string]string{"y": yes, "n": no}[strings.ToLower(typed)], typed)
	}
	if err := q.accepts(typed); err != nil {
		return err
	}
	*q.answer = typed
	return nil
}

// asker asks questions.
type asker interface {
	ask(questions []*question) error
	// person tells whether somebody is there who can be asked again.
	person() bool
	// end tells that there are no more questions.
	end() error
}

// errGivenUp is the error of a person who does not want to answer.
var errGivenUp = errors.New("given up; nothing was made")

// newAsker asks on the terminal, or reads answers that are piped in. Questions are written to
// standard error, so that what the command prints can go to a file.
func newAsker(cmd *cobra.Command) asker {
	typed := &lines{bufio.NewReader(cmd.InOrStdin())}
	in, out, ok := terminal(cmd)
	if !ok {
		return typed
	}
	if columns, rows, err := term.GetSize(int(out.Fd())); err == nil && drawsOn(columns, rows) {
		return &screen{in: in, out: out, columns: columns, rows: rows}
	}
	return newDialogue(typed, int(in.Fd()), out)
}

// terminal is the terminal that a command runs on, if somebody types there. Where standard error leads
// elsewhere, what is said goes past it: otherwise a secret would be typed where it can be seen.
func terminal(cmd *cobra.Command) (in, out *os.File, ok bool) {
	if in, ok = cmd.InOrStdin().(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return nil, nil, false
	}
	if out, ok = cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(out.Fd())) {
		return in, out, true
	}
	out, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0)
	return in, out, err == nil
}

const (
	leastColumns = 40
	leastRows    = 12
)

// drawsOn tells whether forms can be drawn on the terminal: not on simple ones and on tiny ones, nor
// for somebody who lets a screen reader read them.
func drawsOn(columns, rows int) bool {
	kind := os.Getenv("TERM")
	return kind != "" && kind != "dumb" && os.Getenv("ACCESSIBLE") == "" && columns >= leastColumns && rows >= leastRows
}
