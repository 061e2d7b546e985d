package redact

import (
	"regexp"
	"strings"
)

// What stands where a name or a path belongs may be a secret that was typed into the wrong place. So an
// error quotes it only if it looks like what belongs there.

// PlausibleName reports whether a text looks like a name or a scope.
func PlausibleName(text string) bool {
	return len(text) <= maxName && nameLike.MatchString(text) && !looksRandom(text)
}

// PlausiblePath reports whether a text looks like the path of a file: one that begins with a slash or a
// dot, or that has only small letters in directories.
func PlausiblePath(text string) bool {
	if absolutePath.MatchString(text) {
		return strings.Count(text, "/") > 1 || !looksRandom(text)
	}
	return relativePath.MatchString(text) && !looksRandom(text)
}

var (
	nameLike     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.:,/@*-]*$`)
	absolutePath = regexp.MustCompile(`^(?:\.{0,2}/|~/|[A-Za-z]:[/\\])[\w .@~:/\\-]*$`)
	relativePath = regexp.MustCompile(`^[a-z0-9_.-]+(?:/[a-z0-9_.-]+)+$`)

	uuid     = regexp.MustCompile(`^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)
	longWord = regexp.MustCompile(`[A-Za-z0-9]{8,}`)
)

// maxName is the length up to which a text may be a name. In the expression it would cost memory in each process.
const maxName = 200

// manyLetters is from which length on a word with digits in it counts as random.
const manyLetters = 16

// looksRandom reports whether a text has a word that nobody would choose: a long one with digits, or one
// with digits, small and capital letters.
func looksRandom(text string) bool {
	if uuid.MatchString(text) {
		return true
	}
	for _, word := range longWord.FindAllString(text, -1) {
		digits := strings.ContainsAny(word, "0123456789")
		mixed := strings.ToLower(word) != word && strings.ToUpper(word) != word
		if digits && (mixed || len(word) >= manyLetters) {
			return true
		}
	}
	return false
}
