package httphelper

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

var (
	nameGrammar = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)

	// Errors do not quote what they are about: a value in the wrong place may be a secret.
	errName = errors.New("a name consists of letters, digits, dots, hyphens and underscores, and begins with a letter or digit")
)

// validName checks the name of a connector or connection.
func validName(name string) error {
	if !nameGrammar.MatchString(name) {
		return errName
	}
	return nil
}

// namesInError is how many names an error counts up.
const namesInError = 10

// thereAre counts up what there is, for an error about a name that is not there.
func thereAre(names []string) string {
	switch more := len(names) - namesInError; {
	case more > 0:
		return fmt.Sprintf("there are %s and %d more", strings.Join(names[:namesInError], ", "), more)
	case len(names) > 1:
		return "there are " + strings.Join(names, ", ")
	case len(names) == 1:
		return "there is " + names[0]
	default:
		return "there is none"
	}
}

// prefixAll says of each error where it happened.
func prefixAll(where string, errs ...error) error {
	var all []error
	for _, err := range errs {
		for _, e := range subdirective.Flatten(err) {
			all = append(all, fmt.Errorf("%s: %w", where, e))
		}
	}
	return errors.Join(all...)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func orDefault[T comparable](value, otherwise T) T { return cmp.Or(value, otherwise) }
