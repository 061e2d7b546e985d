// Package jsonpointer finds values in decoded JSON documents (RFC 6901). It knows documents as
// encoding/json decodes them into an any, and nothing of where they come from.
package jsonpointer

import (
	"errors"
	"strconv"
	"strings"
)

// Check checks a JSON pointer's syntax (RFC 6901 §3).
func Check(pointer string) error {
	if pointer != "" && !strings.HasPrefix(pointer, "/") {
		return errors.New("a JSON pointer begins with a slash (RFC 6901)")
	}
	escapes := strings.Count(pointer, "~0") + strings.Count(pointer, "~1")
	if strings.Count(pointer, "~") != escapes {
		return errors.New("in a JSON pointer, ~ is written ~0 (RFC 6901)")
	}
	return nil
}

// Find returns the value that pointer names in a decoded JSON document (RFC 6901 §4).
func Find(document any, pointer string) (value any, found bool) {
	if Check(pointer) != nil {
		return nil, false
	}
	if pointer == "" {
		return document, true
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	for token := range strings.SplitSeq(pointer[1:], "/") {
		if document, found = child(document, unescape.Replace(token)); !found {
			return nil, false
		}
	}
	return document, true
}

// child returns the member or element that a reference token names.
func child(parent any, token string) (child any, found bool) {
	switch parent := parent.(type) {
	case map[string]any:
		child, found = parent[token]
		return child, found
	case []any:
		index, err := strconv.Atoi(token)
		if err != nil || strconv.Itoa(index) != token || index < 0 || index >= len(parent) {
			return nil, false
		}
		return parent[index], true
	default:
		return nil, false
	}
}
