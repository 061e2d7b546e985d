package subdirective

import (
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestQuoteWord(t *testing.T) {
	for _, word := range []string{
		"plain", "https://a.example/x?y=1&z#f", "a b", `a"b`, "a`b", `a\b`, `a\"b`, "a`b\"c", "", "#x", "{", "}", "a{b}", "{env.X}", "x{env.X}y",
		"$HOME", "{ $HOME}", "<<EOF", "é", `\`, "@x", "import", "a;b", "'", "{file./run/x-y.z}",
	} {
		quoted, err := quoteWord(word)
		if err != nil {
			t.Errorf("%q: %v", word, err)
			continue
		}
		tokens, err := caddyfile.Tokenize([]byte("option "+quoted+" end\n"), "Caddyfile")
		if err != nil || len(tokens) != 3 || tokens[1].Text != word {
			t.Errorf("%q becomes %s, which is read as %v %v", word, quoted, tokens, err)
		}
	}
	for _, word := range []string{"a\nb", "a\x00", "a`\\", "{$HOME}", "x{$HOME", "{{$A:b}}"} {
		if quoted, err := quoteWord(word); err == nil {
			t.Errorf("%q becomes %s", word, quoted)
		}
	}
}

// A comment is one line, whatever is in it.
func TestComment(t *testing.T) {
	w := new(Writer)
	w.Comment("%s", "a\nimport /etc/passwd\x1b[31m{$HOME}")
	if got, err := w.Result(); got != "# a\uFFFDimport /etc/passwd\uFFFD[31m{ $HOME}\n" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}
