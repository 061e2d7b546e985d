package httphelper

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// maxAdditionalScopes is the most characters that additional scopes may have.
const maxAdditionalScopes = adminapi.MaxAdditionalScopes

// Values of `scopes_delimiter`.
const (
	delimiterSpace = "space"
	delimiterComma = "comma"
)

// Scope is a level of access that a connector defines (RFC 6749 §3.3).
type Scope struct {
	// The scope's name at the service. Required.
	Name string `json:"name"`

	// Whether every connection requests the scope. Needs `customize_scopes`. Default: false, a
	// connection may leave it out.
	Required bool `json:"required,omitempty"`

	// What the scope permits, for people. Default: none.
	Description string `json:"description,omitempty"`
}

var errScope = errors.New("not a scope: it consists of visible ASCII characters, without spaces, quotation marks and backslashes (RFC 6749 §3.3)")

// validScope checks the grammar of RFC 6749 §3.3.
func validScope(s string) error {
	if !oauth.IsScope(s) {
		return fmt.Errorf("that is %w", errScope)
	}
	return nil
}

// validateScopes checks the scopes that the connector defines, and its options about scopes.
func (c *Connector) validateScopes() error {
	var errs []error
	seen := make(map[string]bool, len(c.Scopes))
	for _, scope := range c.Scopes {
		if err := validScope(scope.Name); err != nil {
			errs = append(errs, fmt.Errorf("scope: %w", err))
			continue
		}
		if seen[scope.Name] {
			errs = append(errs, fmt.Errorf("scope %s is defined twice", shownName(scope.Name)))
		}
		seen[scope.Name] = true
		if scope.Required && !c.CustomizeScopes {
			errs = append(errs, fmt.Errorf("scope %s: required needs customize_scopes; without it every scope is requested", scope.Name))
		}
	}
	if c.AdditionalScopes && !c.CustomizeScopes {
		errs = append(errs, errors.New("additional_scopes needs customize_scopes"))
	}
	if c.ScopesDelimiter != "" {
		errs = append(errs, prefixAll("scopes_delimiter", subdirective.OneOf(delimiterSpace, delimiterComma)(c.ScopesDelimiter)))
	}
	return errors.Join(errs...)
}

// requestedScopes returns the scopes that a connection requests: those of the connector, in its order,
// then the additional ones. required are those that the connection could not leave out. The connector
// is nil for a connection without one, whose scopes are all required.
func (c *Connector) requestedScopes(conn *Connection) (requested, required, warnings []string, err error) {
	if c == nil {
		requested, warnings, err = conn.ownScopes()
		return requested, requested, warnings, err
	}
	requested, required, errChosen := c.chosenScopes(conn)
	additional, warnings, errAdditional := c.additionalScopes(conn)
	for _, scope := range additional {
		if !slices.Contains(requested, scope) {
			requested = append(requested, scope)
		}
	}
	return requested, required, warnings, errors.Join(errChosen, errAdditional)
}

// ownScopes returns the scopes of a connection without a connector.
func (conn *Connection) ownScopes() (scopes, warnings []string, err error) {
	var errs []error
	for _, typed := range conn.Scopes {
		scope, shown, err := expandScope(typed)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("scopes: %w", err))
			continue
		case slices.Contains(scopes, scope):
			errs = append(errs, fmt.Errorf("scopes: %s is named twice", nameOr(typed, shown)))
			continue
		case strings.Contains(scope, ","):
			warnings = append(warnings, fmt.Sprintf("scopes: %s is one scope with a comma in it; between scopes there are spaces", shown))
		}
		scopes = append(scopes, scope)
	}
	if conn.AdditionalScopes != "" {
		errs = append(errs, errors.New("additional_scopes needs a connector; add them to scopes"))
	}
	return scopes, warnings, errors.Join(errs...)
}

// chosenScopes returns those of the connector's scopes that the connection requests.
func (c *Connector) chosenScopes(conn *Connection) (requested, required []string, err error) {
	chosen, err := c.scopeChoice(conn)
	for _, scope := range c.Scopes {
		if scope.Required || !c.CustomizeScopes {
			required = append(required, scope.Name)
		}
		if scope.Required || conn.Scopes == nil || chosen[scope.Name] {
			requested = append(requested, scope.Name)
		}
	}
	return requested, required, err
}

// scopeChoice checks the scopes that a connection names. The result is nil if it names none.
func (c *Connector) scopeChoice(conn *Connection) (map[string]bool, error) {
	if conn.Scopes == nil {
		return nil, nil
	}
	if !c.CustomizeScopes {
		return nil, errors.New("scopes: the connector has no customize_scopes, so all of its scopes are requested")
	}
	var names []string
	for _, scope := range c.Scopes {
		names = append(names, scope.Name)
	}
	var errs []error
	chosen := make(map[string]bool, len(conn.Scopes))
	for _, typed := range conn.Scopes {
		scope := typed // a known one, or else with placeholders
		var err error
		if !slices.Contains(names, typed) {
			scope, _, err = expandScope(typed)
		}
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("scopes: %w", err))
		case len(names) == 0:
			errs = append(errs, fmt.Errorf("scopes: the connector has no scope %s; it defines none", shownName(typed)))
		case !slices.Contains(names, scope):
			errs = append(errs, fmt.Errorf("scopes: the connector has no scope %s%s", shownName(typed), subdirective.Instead(typed, names, "it has "+strings.Join(names, ", "))))
		case chosen[scope]:
			errs = append(errs, fmt.Errorf("scopes: %s is named twice", typed))
		default:
			chosen[scope] = true
		}
	}
	return chosen, errors.Join(errs...)
}

// additionalScopes returns the scopes that the connection adds to the connector's.
func (c *Connector) additionalScopes(conn *Connection) (scopes, warnings []string, err error) {
	if conn.AdditionalScopes == "" {
		return nil, nil, nil
	}
	if !c.AdditionalScopes {
		help := ""
		if c.ScopesHelp != "" {
			help = "; ask for scopes that it lacks at " + c.ScopesHelp
		}
		return nil, nil, fmt.Errorf("additional_scopes: the connector does not allow additional scopes%s", help)
	}
	scopes, warnings, err = splitScopes(conn.AdditionalScopes, c.ScopesDelimiter)
	if err != nil {
		return nil, nil, fmt.Errorf("additional_scopes: %w", err)
	}
	for i := range warnings {
		warnings[i] = "additional_scopes: " + warnings[i]
	}
	return scopes, warnings, nil
}

// splitScopes returns the scopes in a text.
func splitScopes(typed, delimiter string) (scopes, warnings []string, err error) {
	if n := utf8.RuneCountInString(typed); n > maxAdditionalScopes {
		return nil, nil, fmt.Errorf("%d characters are more than the %d that are allowed", n, maxAdditionalScopes)
	}
	t, err := placeholder.Parse(typed)
	if err != nil {
		return nil, nil, err
	}
	value, err := t.ExpandLines(nil)
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for _, scope := range splitAtDelimiter(value, delimiter) {
		switch {
		case slices.Contains(scopes, scope):
			continue
		case delimiter == delimiterComma && strings.ContainsFunc(scope, unicode.IsSpace):
			errs = append(errs, fmt.Errorf("%s has a space in it; scopes_delimiter is comma", t.Quote(scope)))
			continue
		case !oauth.IsScope(scope):
			errs = append(errs, fmt.Errorf("%s is %w", t.Quote(scope), errScope))
			continue
		case delimiter != delimiterComma && strings.Contains(scope, ","):
			warnings = append(warnings, fmt.Sprintf("%s is one scope with a comma in it; scopes_delimiter is space", t.Quote(scope)))
		}
		scopes = append(scopes, scope)
	}
	return scopes, warnings, errors.Join(errs...)
}

// splitAtDelimiter returns the parts of a text that are not empty.
func splitAtDelimiter(s, delimiter string) []string {
	if delimiter != delimiterComma {
		return strings.Fields(s)
	}
	var parts []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			parts = append(parts, part)
		}
	}
	return parts
}

// expandScope resolves the placeholders of a scope. shown is the scope as it may be shown.
func expandScope(typed string) (scope, shown string, err error) {
	t, err := placeholder.Parse(typed)
	if err != nil {
		return "", "", err
	}
	if scope, err = t.Expand(nil); err != nil {
		return "", "", err
	}
	shown = t.Quote(scope)
	if !oauth.IsScope(scope) {
		return "", "", fmt.Errorf("%s is %w", shown, errScope)
	}
	return scope, shown, nil
}
