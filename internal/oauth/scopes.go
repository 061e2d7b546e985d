package oauth

import (
	"slices"
	"strings"
)

// grantedScopes returns the scopes that the answer lists, nil when it lists none. Only what can be a
// scope is kept, because people get to see it.
func (r *Request) grantedScopes(answer response) []string {
	names := r.namesIn(answer.member("scope"))
	if len(names) == 0 {
		return nil
	}
	granted := []string{}
	seen := make(map[string]bool, len(names)) // there may be very many
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

// splitScopeText splits at spaces and commas, except at those inside a scope that was requested.
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

// missingScopes returns the requested scopes that a list of granted ones lacks.
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

func (r *Request) checkRequired(missing []string) error {
	if !r.RequireGranted {
		return nil
	}
	for _, scope := range r.Required {
		if slices.Contains(missing, scope) {
			return ConfigurationErrorf("the token endpoint did not grant the required scope %q", scope)
		}
	}
	return nil
}

func IsScope(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r < '!' || r > '~' || r == '"' || r == '\\'
	})
}
