package oauth

import (
	"slices"
	"strings"
)

// grantedScopes returns the scopes that the response lists, nil when it lists none. Because the list is
// shown, it has only what is a valid scope.
func (r *Request) grantedScopes(p response) []string {
	names := r.namesIn(p.member("scope"))
	if len(names) == 0 {
		return nil
	}
	granted := []string{}
	seen := make(map[string]bool, len(names)) // a response may list very many
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		if slices.Contains(r.Scopes, name) || IsScope(name) && !r.revealsSecret(name) {
			granted = append(granted, name)
		}
	}
	return granted
}

// namesIn returns the names in a scope list, which some servers write as an array.
func (r *Request) namesIn(value any) []string {
	switch value := value.(type) {
	case string:
		return r.splitScopeText(value)
	case []any:
		var names []string
		for _, element := range value {
			names = append(names, r.namesIn(element)...)
		}
		return names
	default:
		return nil
	}
}

// splitScopeText splits a text at spaces and commas, except at a comma inside a requested scope.
func (r *Request) splitScopeText(text string) []string {
	var names []string
	for field := range strings.FieldsSeq(text) {
		if slices.Contains(r.Scopes, field) {
			names = append(names, field)
			continue
		}
		names = append(names, strings.FieldsFunc(field, func(c rune) bool { return c == ',' })...)
	}
	return names
}

// missingScopes returns the requested scopes that are not in a list of granted ones. A nil list means
// that all were granted (RFC 6749 §5.1).
func missingScopes(requested, granted []string) []string {
	if granted == nil {
		return nil
	}
	var missing []string
	for _, scope := range requested {
		if !slices.Contains(granted, scope) {
			missing = append(missing, scope)
		}
	}
	return missing
}

// checkRequired returns an error if a required scope is missing and the request demands it.
func (r *Request) checkRequired(missing []string) error {
	for _, scope := range r.Required {
		if r.RequireGranted && slices.Contains(missing, scope) {
			return ConfigurationErrorf("the token endpoint did not grant the required scope %q", scope)
		}
	}
	return nil
}

// IsScope reports whether s is a valid scope (RFC 6749 §3.3).
func IsScope(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r < '!' || r > '~' || r == '"' || r == '\\'
	})
}
