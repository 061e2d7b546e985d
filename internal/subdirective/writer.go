package subdirective

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Writer writes a Caddyfile, formatted as `caddy fmt` does.
type Writer struct {
	text  strings.Builder
	depth int
	errs  []error
}

// Line writes a line of words.
func (w *Writer) Line(words ...string) {
	w.begin(words)
	w.text.WriteByte('\n')
}

// begin writes a line of words without its end.
func (w *Writer) begin(words []string) {
	w.text.WriteString(strings.Repeat("\t", w.depth))
	for i, word := range words {
		quoted, err := quoteWord(word)
		if err != nil {
			w.Fail(fmt.Errorf("%s: %w", words[0], err))
		}
		if i > 0 {
			w.text.WriteByte(' ')
		}
		w.text.WriteString(quoted)
	}
}

// Option writes an option with its values, unless there is none that is not empty.
func (w *Writer) Option(name string, values ...string) {
	if strings.Join(values, "") != "" {
		w.Line(append([]string{name}, values...)...)
	}
}

// Flag writes an option without a value, if it is set.
func (w *Writer) Flag(name string, set bool) {
	if set {
		w.Line(name)
	}
}

// Block writes a line and the block that inside writes. Without words there are only the braces.
func (w *Writer) Block(inside func(), words ...string) {
	w.begin(words)
	if len(words) > 0 {
		w.text.WriteByte(' ')
	}
	w.text.WriteString("{\n")
	w.depth++
	inside()
	w.depth--
	w.text.WriteString(strings.Repeat("\t", w.depth) + "}\n")
}

// Comment writes a comment, which control characters cannot end. Caddy replaces variables in comments too.
func (w *Writer) Comment(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), variable, "{ $")
	w.text.WriteString("# " + control.ReplaceAllString(text, "\uFFFD") + "\n")
}

// Fail adds an error to the result.
func (w *Writer) Fail(err error) { w.errs = append(w.errs, err) }

// Result returns the text and all errors.
func (w *Writer) Result() (string, error) {
	return w.text.String(), errors.Join(w.errs...)
}

// variable begins {$NAME}, which Caddy replaces before it knows what a word is. There is no escape for it.
const variable = "{$"

// CheckWord checks that a text can be written as a word of a Caddyfile.
func CheckWord(word string) error {
	_, err := quoteWord(word)
	return err
}

var control = regexp.MustCompile(`\p{Cc}`)

// plainWord matches a word that needs no quotation marks, possibly with placeholders.
var plainWord = regexp.MustCompile(`^(?:[A-Za-z0-9_./:@%+=?&,~*|\[\]-]|\{(?:env|file|param|config)\.[A-Za-z0-9_./-]+\})+$`)

// quoteWord returns a text so that the Caddyfile's parser reads it as one word.
func quoteWord(word string) (string, error) {
	switch {
	case plainWord.MatchString(word):
		return word, nil
	case strings.Contains(word, variable):
		return "", errors.New("the value contains {$, which begins a variable that Caddy replaces when it reads the file, and cannot be written otherwise: use {env.NAME} for a variable")
	case control.MatchString(word):
		return "", errors.New("the value contains a control character")
	case !strings.ContainsAny(word, `"\`):
		return `"` + word + `"`, nil
	case !strings.Contains(word, "`"):
		return "`" + word + "`", nil
	case !strings.Contains(word, `\`):
		return `"` + strings.ReplaceAll(word, `"`, `\"`) + `"`, nil
	default:
		return "", errors.New("a value with both a backslash and a backtick cannot be written in a Caddyfile")
	}
}
