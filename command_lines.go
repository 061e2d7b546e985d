package httphelper

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"
)

// lines are answers that stand one on a line, in the order of the questions. An empty line means the
// default.
type lines struct{ *bufio.Reader }

func (*lines) person() bool { return false }

func (l *lines) ask(questions []*question) error {
	for _, q := range questions {
		line, err := l.line()
		if err != nil && err != io.EOF {
			return err
		}
		if err := q.take(line); err != nil {
			return usageErrorf("%s: %w", q.title, err)
		}
	}
	return nil
}

// line reads a line. One that the end of the input cuts short is none less.
func (l *lines) line() (string, error) {
	line, err := l.ReadString('\n')
	if err == io.EOF && line != "" {
		err = nil
	}
	return strings.TrimRight(line, "\r\n"), err
}

// end refuses answers that are left over: they have been taken for those to other questions.
func (l *lines) end() error {
	rest, err := io.ReadAll(l)
	if err == nil && strings.TrimSpace(string(rest)) != "" {
		return usageErrorf("there are more answers than questions")
	}
	return err
}

// dialogue asks a person in plain lines of text, one question after the other.
type dialogue struct {
	*lines
	in          int // the terminal's file descriptor
	out         io.Writer
	interrupted chan os.Signal
}

func newDialogue(typed *lines, in int, out io.Writer) *dialogue {
	d := &dialogue{lines: typed, in: in, out: out, interrupted: make(chan os.Signal, 1)}
	signal.Notify(d.interrupted, os.Interrupt)
	return d
}

func (*dialogue) person() bool { return true }

func (d *dialogue) end() error {
	signal.Stop(d.interrupted)
	return nil
}

func (d *dialogue) ask(questions []*question) error {
	for _, q := range questions {
		d.show(q)
		for {
			typed, err := d.read(q)
			if err != nil {
				return err
			}
			if err = q.take(q.named(typed)); err == nil {
				break
			}
			fmt.Fprintf(d.out, "Not so: %v\n", err)
		}
	}
	return nil
}

func (d *dialogue) show(q *question) {
	fmt.Fprintf(d.out, "\n%s\n", q.title)
	if q.help != "" {
		fmt.Fprintln(d.out, q.help)
	}
	for i, o := range q.options {
		fmt.Fprintf(d.out, "%d. %s\n", i+1, o.Label)
	}
}

// prompt stands before the place where the answer is typed.
func (q *question) prompt() string {
	what := "Answer"
	switch q.kind {
	case askChoice:
		what = "Number"
	case askTicks:
		what = "Numbers, separated by spaces"
	case askLong:
		what = fmt.Sprintf("At most %d characters", q.limit)
	case askYesNo:
		what = yes + " or " + no
	case askText, askSecret:
	}
	if preset := *q.answer; preset != "" && q.kind != askSecret {
		what += " [" + q.numbered(preset) + "]"
	}
	return what + ": "
}

// numbered puts the number of an option in its place.
func (q *question) numbered(answer string) string {
	for i, o := range q.options {
		if o.Value == answer {
			return strconv.Itoa(i + 1)
		}
	}
	return answer
}

// named puts the options' values in the place of their numbers.
func (q *question) named(typed string) string {
	if len(q.options) == 0 {
		return typed
	}
	words := strings.Fields(typed)
	for i, word := range words {
		if n, err := strconv.Atoi(word); err == nil && n >= 1 && n <= len(q.options) && q.offers(word) != nil {
			words[i] = q.options[n-1].Value
		}
	}
	return strings.Join(words, " ")
}

// read asks for an answer. Nothing is shown of a secret, also of one that is typed as soon as it is
// asked for. Whoever interrupts gives up, with the terminal as it was.
func (d *dialogue) read(q *question) (string, error) {
	before, err := term.GetState(d.in)
	if err != nil {
		return "", err
	}
	type answer struct {
		typed string
		err   error
	}
	answered := make(chan answer, 1)
	go func() {
		typed, err := d.typed(q)
		answered <- answer{typed, err}
	}()
	if q.kind == askSecret {
		d.awaitChange(before)
	}
	fmt.Fprint(d.out, q.prompt())
	select {
	case a := <-answered:
		if q.kind == askSecret {
			fmt.Fprintln(d.out) // the person's is not shown
		}
		if errors.Is(a.err, io.EOF) {
			a.err = errGivenUp
		}
		return a.typed, a.err
	case <-d.interrupted:
		fmt.Fprintln(d.out)
		return "", errors.Join(errGivenUp, term.Restore(d.in, before))
	}
}

func (d *dialogue) typed(q *question) (string, error) {
	if q.kind != askSecret {
		return d.line()
	}
	secret, err := term.ReadPassword(d.in)
	return string(secret), err
}

// awaitChange waits until the terminal is in another state, or until it seems to have been in that one
// all along.
func (d *dialogue) awaitChange(before *term.State) {
	for range 100 {
		if now, err := term.GetState(d.in); err != nil || !reflect.DeepEqual(now, before) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
