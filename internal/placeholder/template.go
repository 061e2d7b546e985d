// Package placeholder expands texts of a configuration that have placeholders such as {env.NAME},
// {file.PATH} or {param.KEY}. The environment and files are read each time; what a parameter or config
// value is, the caller knows. A value is never parsed again, and in a URL it cannot leave its place.
package placeholder

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// Kinds of placeholders. Env and File are known in every template, the others in those that are parsed
// with them.
const (
	Env    = "env"
	File   = "file"
	Param  = "param"
	Config = "config"
)

// placeholderLike matches what is meant as a placeholder if it is between braces, unlike JSON.
var placeholderLike = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)

// unclosed matches a placeholder without its closing brace.
var unclosed = regexp.MustCompile(`^\{(?:env|file|param|config)\.[^}]*$`)

// Template is a text with placeholders, parsed once.
type Template struct {
	Parts []Part
}

// Part is a piece of a template: a placeholder, or literal text, which has no kind.
type Part struct {
	Kind  string
	Value string // the literal text, or the placeholder's key
}

// Values has the values of placeholders. A nil *Values has the environment and files only.
type Values struct {
	// Lookup returns the value of a {param.*} or {config.*}.
	Lookup func(kind, key string) (string, error)

	// ReadFile reads the file of a {file.*}. Default: the function ReadFile.
	ReadFile func(path string) (string, error)

	// Unread leaves the environment and files unread: what needs them is an error.
	Unread bool
}

var errUnread = errors.New("it is not read now")

func (v *Values) readFile(path string) (string, error) {
	if v == nil || v.ReadFile == nil {
		return ReadFile(path)
	}
	return v.ReadFile(path)
}

// Parse parses a text in which {env.*}, {file.*} and placeholders of the given kinds are known. A
// backslash makes the brace after it literal.
func Parse(s string, kinds ...string) (Template, error) {
	return parse(s, append([]string{Env, File}, kinds...))
}

// ParseConnectors parses a text of a connector, in which only placeholders of the given kinds are known. A
// connector may come from somebody else, who must not have what the sidecar can read sent anywhere.
func ParseConnectors(s string, kinds ...string) (Template, error) {
	return parse(s, kinds)
}

func parse(s string, kinds []string) (Template, error) {
	if s != "" && !strings.ContainsAny(s, `{\`) {
		return Template{Parts: []Part{{Value: s}}}, nil // most texts are literal
	}
	var t Template
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			t.Parts = append(t.Parts, Part{Value: literal.String()})
			literal.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && (s[i+1] == '{' || s[i+1] == '}') {
			i++
			literal.WriteByte(s[i])
			continue
		}
		if unclosed.MatchString(s[i:]) {
			return Template{}, errors.New(`a placeholder lacks its closing brace; write \{ for a literal one`)
		}
		inner, ok := placeholderAt(s[i:])
		if !ok {
			literal.WriteByte(s[i])
			continue
		}
		part, err := parsePlaceholder(inner, kinds)
		if err != nil {
			return Template{}, err
		}
		flush()
		t.Parts = append(t.Parts, part)
		i += len(inner) + 1
	}
	flush()
	return t, nil
}

// placeholderAt returns what is between the braces that s begins with, and whether it is meant as a
// placeholder.
func placeholderAt(s string) (string, bool) {
	if s[0] != '{' {
		return "", false
	}
	end := strings.IndexByte(s, '}')
	if end < 0 || s[end-1] == '\\' {
		return "", false
	}
	inner := s[1:end]
	kind, _, found := strings.Cut(inner, ".")
	if found && slices.Contains([]string{Env, File, Param, Config}, kind) {
		return inner, true
	}
	return inner, placeholderLike.MatchString(inner)
}

// ErrConnectorReads is the error about {env.*} or {file.*} in a connector.
var ErrConnectorReads = errors.New("{env.*} and {file.*} are not for a connector, only {param.*} and {config.*}: ask for a key with a parameter of type password; connections hold the secrets")

// parsePlaceholder parses what is between braces. Its errors do not quote it: it may be a secret that
// has braces.
func parsePlaceholder(inner string, kinds []string) (Part, error) {
	kind, key, _ := strings.Cut(inner, ".")
	switch {
	case key == "":
	case kind == Env || kind == File:
		if slices.Contains(kinds, kind) {
			return Part{Kind: kind, Value: key}, nil
		}
		return Part{}, ErrConnectorReads
	case kind == "http":
		return Part{}, errors.New("values of a request are not understood here; inside a site block Caddy turns {file.name} into one: use a path with a slash or a dot in it, for example {file./run/secrets/name}, or client_secret_file")
	case slices.Contains(kinds, kind):
		if err := CheckKey(key); err != nil {
			return Part{}, fmt.Errorf("a {%s.*} placeholder: %w", kind, err)
		}
		return Part{Kind: kind, Value: key}, nil
	}
	var understood []string
	for _, kind := range kinds {
		understood = append(understood, "{"+kind+".*}")
	}
	return Part{}, fmt.Errorf(`unknown placeholder: %s are understood here; write \{ for a literal brace`, strings.Join(understood, ", "))
}

// IsLiteral reports whether the template has no placeholders.
func (t Template) IsLiteral() bool {
	return !slices.ContainsFunc(t.Parts, func(p Part) bool { return p.Kind != "" })
}

// Reads reports whether the template needs the environment or a file.
func (t Template) Reads() bool { return slices.ContainsFunc(t.Parts, Part.reads) }

func (p Part) reads() bool { return p.Kind == Env || p.Kind == File }

// Keys returns the keys of all placeholders of a kind, each once.
func (t Template) Keys(kind string) []string {
	var keys []string
	for _, p := range t.Parts {
		if p.Kind == kind && !slices.Contains(keys, p.Value) {
			keys = append(keys, p.Value)
		}
	}
	return keys
}

// Quote returns value, which the template was expanded to, in quotes if the template is literal, so
// that the config has it, and value may be a name; else it names the placeholders that value comes from.
func (t Template) Quote(value string) string {
	switch {
	case t.IsLiteral() && redact.PlausibleName(value):
		return strconv.Quote(value)
	case t.IsLiteral():
		return "one of them"
	}
	return "a value of " + strings.Join(t.placeholders(), " and ")
}

// placeholders returns the placeholders as written.
func (t Template) placeholders() []string {
	var names []string
	for _, p := range t.Parts {
		if p.Kind != "" {
			names = append(names, p.String())
		}
	}
	return names
}

// String returns the text with its placeholders as written.
func (t Template) String() string {
	var b strings.Builder
	for _, p := range t.Parts {
		b.WriteString(p.String())
	}
	return b.String()
}

// String returns the part as written.
func (p Part) String() string {
	if p.Kind == "" {
		return p.Value
	}
	return "{" + p.Kind + "." + p.Value + "}"
}

// Expand returns the text with the values that the placeholders have now. A value must not contain
// control characters.
func (t Template) Expand(values *Values) (string, error) {
	return t.join(values, unicode.IsControl)
}

// ExpandLines is Expand for texts of several lines, such as a PEM key: values may contain line breaks
// and tabs.
func (t Template) ExpandLines(values *Values) (string, error) {
	return t.join(values, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) })
}

func (t Template) join(values *Values, forbidden func(rune) bool) (string, error) {
	if len(t.Parts) == 1 && t.Parts[0].Kind == "" {
		return t.Parts[0].Value, nil // no copy; most texts are literal
	}
	var b strings.Builder
	for _, p := range t.Parts {
		value, err := p.resolve(values)
		if err != nil {
			return "", err
		}
		if p.Kind != "" && strings.ContainsFunc(value, forbidden) {
			return "", fmt.Errorf("the value of %s %w", p, whichControl(value))
		}
		b.WriteString(value)
	}
	return b.String(), nil
}

// CheckValue checks that a value of one line, such as a secret, has no control characters.
func CheckValue(value string) error {
	if strings.ContainsFunc(value, unicode.IsControl) {
		return fmt.Errorf("the value %w", whichControl(value))
	}
	return nil
}

// whichControl continues a sentence about a value that has a control character.
func whichControl(value string) error {
	if strings.TrimRight(value, "\r\n") != value {
		return errors.New("contains a control character, such as a line break at its end (only one is cut off): remove it")
	}
	return errors.New("contains a control character, such as a line break")
}

// resolve returns the value that the part has now.
func (p Part) resolve(values *Values) (string, error) {
	switch {
	case p.Kind == "":
		return p.Value, nil
	case p.reads() && values != nil && values.Unread:
		return "", fmt.Errorf("%s: %w", p, errUnread)
	}
	switch p.Kind {
	case Env:
		value := os.Getenv(p.Value)
		if value == "" {
			return "", fmt.Errorf("%s is not set or empty", p)
		}
		return value, nil
	case File:
		return values.readFile(p.Value)
	default:
		return values.Lookup(p.Kind, p.Value)
	}
}
