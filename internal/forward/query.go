package forward

import (
	"net/url"
	"slices"
	"strings"
)

// withQuery replaces the fields in a raw query and leaves the rest as it was written.
func withQuery(raw string, fields []Field) string {
	kept := otherPairs(raw, fields)
	for _, f := range fields {
		kept = append(kept, url.QueryEscape(f.Name)+"="+url.QueryEscape(f.Value))
	}
	return strings.Join(kept, "&")
}

// withoutQuery removes the fields from the query of a location behind the sidecar, which adds them
// again: servers repeat a request's query when they redirect it. A location elsewhere is left alone.
func withoutQuery(location string, fields []Field) string {
	place, fragment, hasFragment := strings.Cut(location, "#")
	path, query, _ := strings.Cut(place, "?")
	if query == "" || len(fields) == 0 || !strings.HasPrefix(path, "/") {
		return location
	}
	place = path
	if kept := otherPairs(query, fields); len(kept) > 0 {
		place += "?" + strings.Join(kept, "&")
	}
	if hasFragment {
		place += "#" + fragment
	}
	return place
}

// otherPairs returns the pairs of a raw query that do not set any of the fields.
func otherPairs(raw string, fields []Field) []string {
	if raw == "" {
		return nil
	}
	return slices.DeleteFunc(strings.Split(raw, "&"), func(pair string) bool { return setsAny(pair, fields) })
}

// setsAny reports whether a pair of a query sets one of the fields. It looks at the parts between
// semicolons too, which some servers accept as separators.
func setsAny(pair string, fields []Field) bool {
	for part := range strings.SplitSeq(pair, ";") {
		name, _, _ := strings.Cut(part, "=")
		if decoded, err := url.QueryUnescape(name); err == nil {
			name = decoded
		}
		if slices.ContainsFunc(fields, func(f Field) bool { return f.Name == name }) {
			return true
		}
	}
	return false
}
