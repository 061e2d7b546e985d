package httphelper

import (
	"errors"
	"regexp"
)

var (
	nameGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	keyGrammar  = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)

	// Errors do not quote what they are about: a value in the wrong place may be a secret.
	errName = errors.New("a name consists of letters, digits, dots, hyphens and underscores, and begins with a letter or digit")
	errKey  = errors.New("a key consists of letters, digits, hyphens and underscores, and begins with a letter")
)

// validName checks the name of a connector or connection.
func validName(name string) error {
	if !nameGrammar.MatchString(name) {
		return errName
	}
	return nil
}

// validKey checks the key of a parameter or config value, and the name of a flow.
func validKey(key string) error {
	if !keyGrammar.MatchString(key) {
		return errKey
	}
	return nil
}
