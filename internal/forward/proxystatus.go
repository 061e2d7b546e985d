package forward

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/dunglas/httpsfv"
)

// proxyName is the name of this proxy in Proxy-Status (RFC 9209).
const proxyName = "http_helper"

func (e *Error) proxyStatus() string {
	details := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(e.Details))
	return fmt.Sprintf(`%s; error=%s; details="%s"`, proxyName, e.Type, details)
}

// printable replaces what a string of a structured field must not contain (RFC 8941 §3.3.3).
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		default:
			return r
		}
	}, text)
}

// dropOwnProxyStatus removes members named http_helper from the Proxy-Status of an API's header or
// trailer: only this proxy may use its name.
func dropOwnProxyStatus(header http.Header) { dropOwnMember(header, "Proxy-Status") }

func dropOwnMember(header http.Header, field string) {
	values, ok := header[field]
	if !ok {
		return
	}
	if values = withoutOwnMember(values); len(values) > 0 {
		header[field] = values
	} else {
		delete(header, field)
	}
}

// withoutOwnMember returns a field without the members named http_helper. A field that cannot be parsed
// is removed as a whole if it mentions the name.
func withoutOwnMember(values []string) []string {
	list, err := httpsfv.UnmarshalList(values)
	if err != nil {
		if strings.Contains(strings.ToLower(strings.Join(values, ",")), proxyName) {
			return nil
		}
		return values
	}
	if !slices.ContainsFunc(list, isOwn) {
		return values
	}
	value, err := httpsfv.Marshal(slices.DeleteFunc(list, isOwn))
	if err != nil || value == "" {
		return nil
	}
	return []string{value}
}

func isOwn(member httpsfv.Member) bool {
	item, _ := member.(httpsfv.Item) // an inner list has no name
	switch name := item.Value.(type) {
	case httpsfv.Token:
		return strings.EqualFold(string(name), proxyName)
	case string:
		return strings.EqualFold(name, proxyName)
	default:
		return false
	}
}
