package placeholder

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
)

// urlPosition is a part of a URL, in which a value is put.
type urlPosition int

const (
	inScheme urlPosition = iota
	inAuthority
	inPath
	inQuery
	inFragment
)

// hostValue matches a host name or part of one: labels that neither begin nor end with a hyphen.
var hostValue = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

// ExpandURL expands a template that is a URL. Literal text and the values of the environment and of
// files are part of the URL as they are. A parameter or config value is checked and escaped for its
// position, so that it cannot lead the URL elsewhere (rule 7).
func (t Template) ExpandURL(values *Values) (*url.URL, error) {
	parts, err := t.resolveAuthor(values)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	position := inScheme
	for i, p := range parts {
		value := p.Value
		if p.Kind == "" {
			position = advance(position, &b, value)
			continue
		}
		if value, err = values.Lookup(p.Kind, p.Value); err == nil {
			wholeAuthority := strings.HasSuffix(b.String(), "://") && endsAuthority(parts[i+1:])
			value, err = fitURL(value, position, wholeAuthority)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		b.WriteString(value)
	}
	return httpguard.ParseURL(b.String())
}

// resolveAuthor replaces env and file placeholders by their values, as literal parts: they are the
// author's, as the literal text is.
func (t Template) resolveAuthor(values *Values) ([]Part, error) {
	parts := slices.Clone(t.Parts)
	for i, p := range parts {
		if p.Kind != Env && p.Kind != File {
			continue
		}
		value, err := Template{Parts: []Part{p}}.Expand(values)
		if err != nil {
			return nil, err
		}
		parts[i] = Part{Value: value}
	}
	return parts, nil
}

// advance appends literal text to the URL in b, and returns the position after it.
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

// endsAuthority reports whether the authority ends before the given parts.
func endsAuthority(rest []Part) bool {
	return len(rest) == 0 || rest[0].Kind == "" && strings.IndexAny(rest[0].Value, "/?#") == 0
}

// fitURL checks a value and escapes it for its position in a URL.
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
	return "", errors.New("a placeholder is not allowed in a URL's scheme or fragment")
}

// fitHost checks that a value is a host name or part of one, or the whole authority with a port.
func fitHost(value string, wholeAuthority bool) error {
	if strings.Contains(value, "://") {
		return errors.New("give the host name alone, not a URL")
	}
	host, port, hasPort := strings.Cut(value, ":")
	if hasPort && !wholeAuthority {
		return errors.New("the value is not part of a host name: a port is only allowed where the value is all there is between // and /")
	}
	if !hostValue.MatchString(host) {
		return errors.New("the value is not a host name or part of one: letters, digits, hyphens and dots between them")
	}
	if hasPort && !httpguard.ValidPort(port) {
		return errors.New("the value's port is not a number from 1 to 65535")
	}
	return nil
}

// fitSegment checks that no server can read a value in a path as a dot segment.
func fitSegment(value string) error {
	if value == "" {
		return errors.New("the value is empty")
	}
	for range 3 {
		if httpguard.HasDotSegment(value) {
			return errors.New("the value has a dot segment, which is not allowed in a path")
		}
		value = httpguard.DecodeLeniently(value)
	}
	return nil
}
