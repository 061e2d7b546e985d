package httpguard

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// plainSpelling returns a decoded path as the most lenient server may read it: without spaces, controls,
// what is not seen and what is not UTF-8; with ASCII characters in place of those of full width and of
// overlong UTF-8, malformed ones included. It is for looking at a path only, never for sending it.
func plainSpelling(path string) string {
	if isPlain(path) {
		return path
	}
	var b strings.Builder
	for i := 0; i < len(path); {
		c, size := utf8.DecodeRuneInString(path[i:])
		if c == utf8.RuneError && size == 1 && path[i]&0xfe == 0xc0 && i+1 < len(path) {
			// The second byte counts even if it does not look like one.
			c, size = rune(path[i]&1)<<6|rune(path[i+1]&0x3f), 2
		}
		b.WriteString(plainCharacter(c))
		i += size
	}
	return b.String()
}

// isPlain reports whether plainSpelling changes nothing.
func isPlain(path string) bool {
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// plainCharacter returns what a lenient server may make of a character.
func plainCharacter(c rune) string {
	switch {
	case c == utf8.RuneError, unicode.IsSpace(c), unicode.IsControl(c), unicode.Is(unicode.Cf, c):
		return ""
	case c >= '！' && c <= '～': // the full-width forms, in the order of ASCII
		return string(c - '！' + '!')
	case c == '․', c == '﹒': // one dot leader, small full stop
		return "."
	case c == '‥': // two dot leader
		return ".."
	default:
		return string(c)
	}
}
