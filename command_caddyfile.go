package httphelper

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

// caddyfileWriter writes a Caddyfile, formatted as `caddy fmt` does.
type caddyfileWriter struct {
	text  strings.Builder
	depth int
	errs  []error
}

// line writes a line of words.
func (w *caddyfileWriter) line(words ...string) {
	w.begin(words)
	w.text.WriteByte('\n')
}

// begin writes a line of words without its end.
func (w *caddyfileWriter) begin(words []string) {
	w.text.WriteString(strings.Repeat("\t", w.depth))
	for i, word := range words {
		quoted, err := quoteWord(word)
		if err != nil {
			w.errs = append(w.errs, fmt.Errorf("%s: %w", words[0], err))
		}
		if i > 0 {
			w.text.WriteByte(' ')
		}
		w.text.WriteString(quoted)
	}
}

// given writes an option with a value, unless that is empty.
func (w *caddyfileWriter) given(option, value string) {
	if value != "" {
		w.line(option, value)
	}
}

// flag writes an option without a value, if it is set.
func (w *caddyfileWriter) flag(option string, set bool) {
	if set {
		w.line(option)
	}
}

// block writes a line and what is inside of its braces. Without words there are only the braces.
func (w *caddyfileWriter) block(inside func(), words ...string) {
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

// comment writes a comment.
func (w *caddyfileWriter) comment(format string, args ...any) {
	w.text.WriteString("# " + harmless(fmt.Sprintf(format, args...)) + "\n")
}

// result is the whole text.
func (w *caddyfileWriter) result() (string, error) {
	return w.text.String(), errors.Join(w.errs...)
}

// plainWord needs no quotation marks: neither it nor a placeholder in it means anything else.
var plainWord = regexp.MustCompile(`^(?:[A-Za-z0-9_./:@%+=?&,~*|\[\]-]|\{(?:env|file|param|config)\.[A-Za-z0-9_./-]+\})+$`)

// quoteWord writes a text so that the Caddyfile's parser reads it as one word.
func quoteWord(word string) (string, error) {
	switch {
	case plainWord.MatchString(word):
		return word, nil
	case strings.ContainsFunc(word, unicode.IsControl):
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
