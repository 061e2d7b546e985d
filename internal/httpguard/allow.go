package httpguard

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// AllowRule permits requests with one of its methods and one of its paths (rule 34).
type AllowRule struct {
	methods []string      // none: any
	paths   []pathPattern // none: any
}

// AllowList permits a request that one of its rules permits. Without rules it permits all.
type AllowList []AllowRule

// pathPattern matches one path, or all that begin with it.
type pathPattern struct {
	text   string // as ComparablePath returns it
	prefix bool
}

// Permits reports whether a request with a method and a path, as ComparablePath returns it, is permitted.
func (l AllowList) Permits(method, path string) bool {
	return len(l) == 0 || slices.ContainsFunc(l, func(r AllowRule) bool { return r.permits(method, path) })
}

func (r AllowRule) permits(method, path string) bool {
	if len(r.methods) > 0 && !slices.Contains(r.methods, method) {
		return false
	}
	return len(r.paths) == 0 || slices.ContainsFunc(r.paths, func(p pathPattern) bool { return p.matches(path) })
}

func (p pathPattern) matches(path string) bool {
	if p.prefix {
		return strings.HasPrefix(path, p.text)
	}
	return path == p.text
}

// ComparablePath returns the path of a request's URL as it is compared with rules: with percent-escapes
// decoded, except those of the slash and the percent sign, which mean something else than the character.
func ComparablePath(u *url.URL) string {
	if u.RawPath == "" && u.Path != "" {
		return strings.ReplaceAll(u.Path, "%", "%25") // which net/url would escape, but not a slash
	}
	return decodeForComparison(EscapedPath(u))
}

// AllowPattern returns the path of a request's URL as a rule that permits only this path has it.
func AllowPattern(u *url.URL) string {
	return strings.ReplaceAll(EscapedPath(u), "*", "%2A")
}

// decodeForComparison decodes a path whose escapes are valid, except %2F and %25.
func decodeForComparison(escaped string) string {
	if !strings.Contains(escaped, "%") {
		return escaped
	}
	b := make([]byte, 0, len(escaped))
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '%' {
			b = append(b, escaped[i])
			continue
		}
		b, _ = hex.AppendDecode(b, []byte(escaped[i+1:i+3]))
		if c := b[len(b)-1]; c == '/' || c == '%' {
			b = fmt.Appendf(b[:len(b)-1], "%%%02X", c)
		}
		i += 2
	}
	return string(b)
}

var (
	errAllowOrder  = errors.New("a method comes after a path: methods come first, and a path begins with a slash")
	errAllowMethod = errors.New("a method is written in capital letters, such as GET, and a path begins with a slash")
	errAllowNever  = errors.New("TRACE and CONNECT are never forwarded, so they cannot be permitted")
	errAllowSlash  = errors.New("a path must begin with a slash; it is the one below base_url")
	errAllowStar   = errors.New("a * is possible only at the end of a path, where it stands for anything; the character itself is %2A")
	errAllowQuery  = errors.New("a path has no ? and no #, because queries are not looked at; the characters themselves are %3F and %23")
	errAllowBraces = errors.New("a path has no braces, because placeholders are not replaced in it; the characters themselves are %7B and %7D")
	errAllowEscape = errors.New("a path has a % without two hexadecimal digits after it; the character itself is %25")
)

// SplitAllow separates the words of a rule: first methods, then paths.
func SplitAllow(words []string) (methods, paths []string, err error) {
	for _, word := range words {
		switch {
		case strings.HasPrefix(word, "/"):
			paths = append(paths, word)
		case len(paths) == 0:
			methods = append(methods, word)
		default:
			return nil, nil, errAllowOrder
		}
	}
	return methods, paths, nil
}

// ParseAllow parses a rule. The error does not quote it.
func ParseAllow(methods, paths []string) (AllowRule, error) {
	rule := AllowRule{methods: methods}
	errs := make([]error, 0, len(methods)+len(paths))
	for i, method := range methods {
		errs = append(errs, inList("method", i, len(methods), checkAllowedMethod(method)))
	}
	for i, path := range paths {
		pattern, err := parsePathPattern(path)
		rule.paths = append(rule.paths, pattern)
		errs = append(errs, inList("path", i, len(paths), err))
	}
	return rule, errors.Join(errs...)
}

// inList adds to an error about one of several values which one it is.
func inList(what string, i, count int, err error) error {
	if err == nil || count == 1 {
		return err
	}
	return fmt.Errorf("%s %d: %w", what, i+1, err)
}

// methodGrammar is that of the methods of HTTP's registry.
var methodGrammar = regexp.MustCompile(`^[A-Z][A-Z0-9_-]*$`)

// usualMethods are named in an error about one in other letters.
var usualMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions,
}

func checkAllowedMethod(method string) error {
	switch upper := strings.ToUpper(method); {
	case upper == http.MethodTrace, upper == http.MethodConnect:
		return errAllowNever
	case methodGrammar.MatchString(method):
		return nil
	case slices.Contains(usualMethods, upper):
		return fmt.Errorf("%w (did you mean %s?)", errAllowMethod, upper)
	default:
		return errAllowMethod
	}
}

// parsePathPattern parses a path of a rule, which matches as a prefix if it ends in *.
func parsePathPattern(path string) (pathPattern, error) {
	text, prefix := strings.CutSuffix(path, "*")
	switch {
	case !strings.HasPrefix(text, "/"):
		return pathPattern{}, errAllowSlash
	case strings.Contains(text, "*"):
		return pathPattern{}, errAllowStar
	case strings.ContainsAny(text, "?#"):
		return pathPattern{}, errAllowQuery
	case strings.ContainsAny(text, "{}"):
		return pathPattern{}, errAllowBraces
	case !escapesValid(text):
		return pathPattern{}, errAllowEscape
	}
	// With the *, because a prefix that ends in a dot is no dot segment.
	if err := CheckEscapedPath(path); err != nil {
		return pathPattern{}, err
	}
	return pathPattern{text: decodeForComparison(text), prefix: prefix}, nil
}

// escapesValid reports whether two hexadecimal digits follow each percent sign.
func escapesValid(path string) bool {
	for {
		_, after, found := strings.Cut(path, "%")
		if !found {
			return true
		}
		if len(after) < 2 {
			return false
		}
		if _, err := hex.DecodeString(after[:2]); err != nil {
			return false
		}
		path = after[2:]
	}
}
