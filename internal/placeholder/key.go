package placeholder

import (
	"errors"
	"regexp"
)

var keyGrammar = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)

// CheckKey checks the syntax of a key: of a parameter, a config value or a helper flow.
func CheckKey(key string) error {
	if !keyGrammar.MatchString(key) {
		return errors.New("a key consists of letters, digits, hyphens and underscores, and begins with a letter")
	}
	return nil
}
