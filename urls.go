package httphelper

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// urlPosition is where in a URL a text has got to.
type urlPosition int

const (
	inScheme urlPosition = iota
	inAuthority
	inPath
	inQuery
	inFragment
)

var (
	// hostValue is a host name or part of one: labels that neither begin nor end with a hyphen.
	hostValue = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

	// hostLiteral also allows what an integrator may write: underscores and a final dot.
	hostLiteral = regexp.MustCompile(`^(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+\.?$`)
)

var (
	errURLSyntax   = errors.New("not a valid URL")
	errURLScheme   = errors.New("not an http or https URL: write it in full, beginning with https://")
	errURLUserinfo = errors.New("the URL must not contain a user name or password")
	errURLFragment = errors.New("the URL must not have a fragment")
	errURLDots     = errors.New("the URL's path has a dot segment")
)

// expandURL expands a text that is a URL. What stands in the text itself, in the environment and in
// files is the URL as its author wants it; a parameter's or config value's place in it decides how
// it is checked and escaped, so that it can move the URL nowhere (rule 7).
func (t text) expandURL(values *valueSource) (*url.URL, error) {
	parts, err := t.resolveAuthor(values)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	position := inScheme
	for i, p := range parts {
		value := p.value
		if p.kind == "" {
			position = advance(position, &b, value)
			continue
		}
		if value, err = values.lookup(p.kind, p.value); err == nil {
			value, err = fitURL(value, position, standsAlone(parts, i))
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		b.WriteString(value)
	}
	return parseURL(b.String())
}

// resolveAuthor replaces env and file placeholders by their values, as literal parts.
func (t text) resolveAuthor(values *valueSource) ([]textPart, error) {
	parts := make([]textPart, len(t.parts))
	for i, p := range t.parts {
		parts[i] = p
		if p.kind != kindEnv && p.kind != kindFile {
			continue
		}
		value, err := text{parts: t.parts[i : i+1]}.expand(values)
		if err != nil {
			return nil, err
		}
		parts[i] = textPart{value: value}
	}
	return mergeLiterals(parts), nil
}

// mergeLiterals joins neighbours that are literal.
func mergeLiterals(parts []textPart) []textPart {
	var merged []textPart
	for _, p := range parts {
		if last := len(merged) - 1; p.kind == "" && last >= 0 && merged[last].kind == "" {
			merged[last].value += p.value
			continue
		}
		merged = append(merged, p)
	}
	return merged
}

// advance writes literal URL text and returns the position after it.
func advance(position urlPosition, b *strings.Builder, literal string) urlPosition {
	for i := range len(literal) {
		b.WriteByte(literal[i])
		switch {
		case position == inScheme && strings.HasSuffix(b.String(), "://"):
			position = inAuthority
		case position == inAuthority && literal[i] == '/':
			position = inPath
		case position >= inAuthority && position < inQuery && literal[i] == '?':
			position = inQuery
		case position >= inAuthority && literal[i] == '#':
			position = inFragment
		}
	}
	return position
}

// standsAlone reports whether part i is the whole authority.
func standsAlone(parts []textPart, i int) bool {
	if i == 0 || !strings.HasSuffix(parts[i-1].value, "://") || parts[i-1].kind != "" {
		return false
	}
	if i+1 == len(parts) {
		return true
	}
	next := parts[i+1]
	return next.kind == "" && strings.ContainsRune("/?#", rune(next.value[0]))
}

// fitURL checks and escapes a value for its place in a URL.
func fitURL(value string, position urlPosition, wholeAuthority bool) (string, error) {
	if strings.ContainsFunc(value, unicode.IsControl) {
		return "", errors.New("the value contains a control character")
	}
	switch position {
	case inAuthority:
		return value, fitHost(value, wholeAuthority)
	case inPath:
		return url.PathEscape(value), fitSegment(value)
	case inQuery:
		return url.QueryEscape(value), nil
	case inScheme, inFragment:
	}
	return "", errors.New("a placeholder cannot stand in a URL's scheme or fragment")
}

func fitHost(value string, wholeAuthority bool) error {
	if strings.Contains(value, "://") {
		return errors.New("the value is a URL: give the host name alone")
	}
	host, port, hasPort := strings.Cut(value, ":")
	if hasPort && !wholeAuthority {
		return errors.New("the value is not part of a host name: a port can only be given where it is all that stands between // and /")
	}
	if !hostValue.MatchString(host) {
		return errors.New("the value is not a host name or part of one: letters, digits, hyphens and dots between them")
	}
	if hasPort && !validPort(port) {
		return errors.New("the value's port is not a number from 1 to 65535")
	}
	return nil
}

// fitSegment refuses a value that some server could read as a step up the path.
func fitSegment(value string) error {
	if value == "" {
		return errors.New("the value is empty")
	}
	for range 3 {
		if hasDotSegment(value) {
			return errors.New("the value has a dot segment, which cannot stand in a path")
		}
		value = decodeLeniently(value)
	}
	return nil
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// parseURL parses a URL that requests with a secret go to. Its errors do not quote the URL.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil && !strings.Contains(s, "://"):
		return nil, errURLScheme
	case err != nil:
		return nil, errURLSyntax
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errURLScheme
	case u.Opaque != "" || u.Host == "":
		return nil, errURLSyntax
	case u.User != nil:
		return nil, errURLUserinfo
	case u.Fragment != "" || strings.HasSuffix(s, "#"):
		return nil, errURLFragment
	}
	if err := checkAuthority(u); err != nil {
		return nil, err
	}
	return u, checkURLPath(u.EscapedPath())
}

// checkAuthority refuses hosts that could be read in more than one way. Those in brackets have been
// checked when parsing.
func checkAuthority(u *url.URL) error {
	host := u.Hostname()
	if !strings.HasPrefix(u.Host, "[") && (len(host) > 254 || !hostLiteral.MatchString(host)) {
		return errors.New("the URL's host is not a host name; write an international one in its xn-- form")
	}
	if strings.HasSuffix(u.Host, ":") || u.Port() != "" && !validPort(u.Port()) {
		return errors.New("the URL's port is not a number from 1 to 65535")
	}
	return nil
}

func checkURLPath(path string) error {
	for range 3 {
		if hasDotSegment(path) {
			return errURLDots
		}
		path = decodeLeniently(path)
	}
	return nil
}

// checkBaseURL checks what a base URL must be beyond a URL.
func checkBaseURL(u *url.URL) error { return checkNoQuery(u, "; see api_query") }

// checkIssuer checks what an issuer identifier must be beyond a URL (RFC 8414 §2).
func checkIssuer(u *url.URL) error { return checkNoQuery(u, " (RFC 8414)") }

func checkNoQuery(u *url.URL, more string) error {
	if u.RawQuery != "" || u.ForceQuery {
		return errors.New("the URL must not have a query" + more)
	}
	return nil
}

// isLoopbackHost reports whether a host, without port, is this machine.
func isLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// checkScheme refuses to send secrets in the clear (rule 2). argument is the argument of allow_insecure
// that would permit it for the URL of option.
func checkScheme(u *url.URL, insecureAllowed bool, option, argument string) error {
	if u.Scheme == "https" || insecureAllowed || isLoopbackHost(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%s is http and its host is not loopback: use https, or permit it with allow_insecure %s", option, argument)
}
