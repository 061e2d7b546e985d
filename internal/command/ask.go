package command

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// questionKind is how a question is answered.
type questionKind int

const (
	anyText     questionKind = iota
	secretText               // nothing is shown
	choice                   // one of the options
	multiSelect              // any of the options; the answer has them separated by spaces
	limitedText              // text with a limit that is counted while it is typed
	yesOrNo                  // the answer is yes or no
)

// question is something that a person is asked.
type question struct {
	kind    questionKind
	title   string
	help    string
	options []adminapi.Option
	limit   int                // of characters, for limitedText
	check   func(string) error // nil: anything goes
	value   *string            // where the answer is stored; at first the default
}

const (
	yes = "yes"
	no  = "no"
)

// accepts checks whether an answer is acceptable.
func (q *question) accepts(answer string) error {
	if strings.ContainsFunc(answer, unicode.IsControl) {
		return errors.New("there is a control character in it")
	}
	switch {
	case q.kind == choice:
		return q.offers(answer)
	case q.kind == multiSelect && q.check == nil:
		return q.offers(strings.Fields(answer)...)
	case q.kind == yesOrNo:
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

// set stores what was typed as the answer. An empty line means the default.
func (q *question) set(typed string) error {
	typed = cmp.Or(typed, *q.value)
	if q.kind == yesOrNo {
		typed = cmp.Or(map[string]string{"y": yes, "n": no}[strings.ToLower(typed)], typed)
	}
	if err := q.accepts(typed); err != nil {
		return err
	}
	*q.value = typed
	return nil
}

// errGivenUp is the error of a person who does not want to answer.
var errGivenUp = errors.New("given up; nothing was made")

// newAsker returns what asks questions: on the terminal, or by reading answers that are piped in; these
// are returned too. Questions are written to standard error, so that what the command prints can go to a
// file.
func newAsker(cmd *cobra.Command) (ask func([]*question) error, piped *lines) {
	typed := &lines{bufio.NewReader(cmd.InOrStdin())}
	in, out, ok := terminal(cmd)
	if !ok {
		return typed.ask, typed
	}
	return (&dialogue{lines: typed, in: in, out: out}).ask, nil
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

// lines are answers one to a line, in the order of the questions. An empty line means the
// default.
type lines struct{ *bufio.Reader }

func (l *lines) ask(questions []*question) error {
	for _, q := range questions {
		line, err := l.line()
		if err != nil && err != io.EOF {
			return err
		}
		if err := q.set(line); err != nil {
			return usageErrorf("%s: %w", q.title, err)
		}
	}
	return nil
}

// line reads a line. The last one may lack its end.
func (l *lines) line() (string, error) {
	line, err := l.ReadString('\n')
	if err == io.EOF && line != "" {
		err = nil
	}
	return strings.TrimRight(line, "\r\n"), err
}

// finish refuses, after the last question, answers that are left over: some were taken for those to other questions.
func (l *lines) finish() error {
	rest, err := io.ReadAll(l)
	if err == nil && strings.TrimSpace(string(rest)) != "" {
		return usageErrorf("there are more answers than questions")
	}
	return err
}

// dialogue asks a person in plain lines of text, one question after the other.
type dialogue struct {
	*lines
	in  *os.File // the terminal
	out io.Writer
}

func (d *dialogue) ask(questions []*question) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	for _, q := range questions {
		text := q.text()
		for {
			typed, err := d.read(ctx, q, text+q.prompt())
			if err != nil {
				return err
			}
			if err = q.set(q.byNumber(typed)); err == nil {
				break
			}
			text = fmt.Sprintf("Not so: %v\n", q.inNumbers(err))
		}
	}
	return nil
}

// text returns the question in lines. What comes from a connector cannot steer the terminal.
func (q *question) text() string {
	lines := append([]string{"", q.title}, strings.FieldsFunc(q.help, func(r rune) bool { return r == '\n' })...)
	for i, o := range q.options {
		lines = append(lines, fmt.Sprintf("%d. %s", i+1, o.Label))
	}
	for i, line := range lines {
		lines[i] = oneLine(line) + "\n"
	}
	return strings.Join(lines, "")
}

// prompt returns the text before the place where the answer is typed.
func (q *question) prompt() string {
	what := "Answer"
	switch q.kind {
	case choice:
		what = "Number"
	case multiSelect:
		what = "Numbers, separated by spaces"
	case limitedText:
		what = fmt.Sprintf("At most %d characters", q.limit)
	case yesOrNo:
		what = yes + " or " + no
	case anyText, secretText:
	}
	if preset := *q.value; preset != "" && q.kind != secretText {
		what += " [" + q.numbered(preset) + "]"
	}
	return what + ": "
}

// numbered replaces the value of an option by its number.
func (q *question) numbered(answer string) string {
	if i := slices.IndexFunc(q.options, func(o adminapi.Option) bool { return o.Value == answer }); i >= 0 {
		return strconv.Itoa(i + 1)
	}
	return answer
}

// inNumbers returns the error about an answer to a question whose options have numbers. Their values were not shown.
func (q *question) inNumbers(err error) error {
	if len(q.options) == 0 {
		return err
	}
	return fmt.Errorf("the numbers are 1 to %d", len(q.options))
}

// byNumber replaces the numbers of options by their values.
func (q *question) byNumber(typed string) string {
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

// read asks for an answer. A secret is not shown, even if it is typed before the question is. A signal that
// ends the process gives up, with the terminal as it was.
func (d *dialogue) read(ctx context.Context, q *question, text string) (string, error) {
	before, err := term.GetState(int(d.in.Fd()))
	if err != nil {
		return "", err
	}
	answered := make(chan struct{})
	var typed string
	go func() {
		defer close(answered)
		typed, err = d.typed(q)
	}()
	if q.kind == secretText {
		d.awaitChange(before)
		text = strings.ReplaceAll(text, "\n", "\r\n") // as the terminal does otherwise
	}
	fmt.Fprint(d.out, text)
	select {
	case <-answered:
		if q.kind == secretText {
			fmt.Fprintln(d.out) // the person's is not shown
		}
		if errors.Is(err, io.EOF) {
			err = errGivenUp
		}
		return typed, err
	case <-ctx.Done():
		fmt.Fprintln(d.out)
		return "", errors.Join(errGivenUp, term.Restore(int(d.in.Fd()), before))
	}
}

func (d *dialogue) typed(q *question) (string, error) {
	if q.kind != secretText {
		return d.line()
	}
	return d.secret()
}

// Keys at a secret, where the terminal does not edit the line.
const (
	keyInterrupt = 0x03 // Ctrl-C
	keyEnd       = 0x04 // Ctrl-D
	keyBackspace = '\b'
	keyKill      = 0x15 // Ctrl-U
	keyDelete    = 0x7f
)

// secret reads a line of which nothing is shown. (term.ReadPassword never returns after Ctrl-D.)
func (d *dialogue) secret() (string, error) {
	before, err := term.MakeRaw(int(d.in.Fd()))
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(int(d.in.Fd()), before) }()
	var typed []byte
	for key := make([]byte, 1); ; {
		if _, err := d.in.Read(key); err != nil {
			return "", err
		}
		switch key[0] {
		case '\r', '\n':
			return string(typed), nil
		case keyInterrupt:
			return "", errGivenUp
		case keyEnd:
			if len(typed) == 0 {
				return "", io.EOF
			}
		case keyKill:
			typed = nil
		case keyBackspace, keyDelete:
			_, size := utf8.DecodeLastRune(typed)
			typed = typed[:len(typed)-size]
		default:
			typed = append(typed, key[0])
		}
	}
}

// awaitChange waits until the terminal is in another state, or until it seems to have been in that one
// all along.
func (d *dialogue) awaitChange(before *term.State) {
	for range 100 {
		if now, err := term.GetState(int(d.in.Fd())); err != nil || !reflect.DeepEqual(now, before) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
