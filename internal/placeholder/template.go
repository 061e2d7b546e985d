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
)

// Kinds of placeholders. The first two are understood everywhere, the others where it is said.
const (
	Env    = "env"
	File   = "file"
	Param  = "param"
	Config = "config"
)

// placeholderLike tells what a person means as a placeholder from braces that just stand in a text.
var placeholderLike = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)

// Template is a text with placeholders, parsed once. Results of placeholders are never parsed.
type Template struct {
	Parts []Part
}

// Part is literal when it has no kind.
type Part struct {
	Kind  string
	Value string // the text itself, or the placeholder's key
}

// Values is where placeholders get their values from. A nil one knows the environment and files.
type Values struct {
	// Lookup finds the value of a `{param.*}` or `{config.*}`.
	Lookup func(kind, key string) (string, error)

	// ReadFile reads the file of a `{file.*}`. Default: ReadFile.
	ReadFile func(path string) (string, error)
}

// Lookup is a source whose parameters and config values lookup finds.
func Lookup(lookup func(kind, key string) (string, error)) *Values {
	return &Values{Lookup: lookup}
}

func (v *Values) file(path string) (string, error) {
	if v == nil || v.ReadFile == nil {
		return ReadFile(path)
	}
	return v.ReadFile(path)
}

// Parse parses a text in which `{env.*}`, `{file.*}` and the kinds given are understood.
func Parse(s string, kinds ...string) (Template, error) {
	if s != "" && !strings.ContainsAny(s, `{\`) {
		return Template{Parts: []Part{{Value: s}}}, nil // most are plain, and there may be very many
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

// placeholderAt is what stands between the braces that s begins with, if that is meant as a
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

// parsePlaceholder never quotes what it does not understand: it may be a secret with braces.
func parsePlaceholder(inner string, kinds []string) (Part, error) {
	kind, key, _ := strings.Cut(inner, ".")
	switch {
	case key == "":
	case kind == Env, kind == File:
		return Part{Kind: kind, Value: key}, nil
	case kind == "http":
		return Part{}, errors.New("values of a request are not understood here; inside a site block Caddy turns {file.name} into one: use a path with a slash or a dot in it, for example {file./run/secrets/name}, or client_secret_file")
	case slices.Contains(kinds, kind):
		if err := CheckKey(key); err != nil {
			return Part{}, fmt.Errorf("a {%s.*} placeholder: %w", kind, err)
		}
		return Part{Kind: kind, Value: key}, nil
	}
	understood := []string{"{env.*}", "{file.*}"}
	for _, kind := range kinds {
		understood = append(understood, "{"+kind+".*}")
	}
	return Part{}, fmt.Errorf(`unknown placeholder: %s are understood here; write \{ for a literal brace`, strings.Join(understood, ", "))
}

// IsLiteral reports whether the text has no placeholder.
func (t Template) IsLiteral() bool {
	return !slices.ContainsFunc(t.Parts, func(p Part) bool { return p.Kind != "" })
}

// Keys are the keys of all placeholders of a kind, each once.
func (t Template) Keys(kind string) []string {
	var keys []string
	for _, p := range t.Parts {
		if p.Kind == kind && !slices.Contains(keys, p.Value) {
			keys = append(keys, p.Value)
		}
	}
	return keys
}

// Quote quotes what came out of the text, unless it does not stand in the config: then it says where
// it came from.
func (t Template) Quote(value string) string {
	if t.IsLiteral() {
		return strconv.Quote(value)
	}
	return "a value of " + strings.Join(t.placeholders(), " and ")
}

// placeholders are the text's placeholders as written.
func (t Template) placeholders() []string {
	var names []string
	for _, p := range t.Parts {
		if p.Kind != "" {
			names = append(names, p.String())
		}
	}
	return names
}

// String is the text with its placeholders as written.
func (t Template) String() string {
	var b strings.Builder
	for _, p := range t.Parts {
		if p.Kind == "" {
			b.WriteString(p.Value)
		} else {
			b.WriteString(p.String())
		}
	}
	return b.String()
}

func (p Part) String() string { return "{" + p.Kind + "." + p.Value + "}" }

// Expand reads the placeholders' values as they are now. Control characters in them are refused.
func (t Template) Expand(values *Values) (string, error) {
	return t.join(values, func(r rune) bool { return unicode.IsControl(r) })
}

// ExpandLines is expand for texts that may have several lines, such as a PEM key.
func (t Template) ExpandLines(values *Values) (string, error) {
	return t.join(values, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) })
}

func (t Template) join(values *Values, refused func(rune) bool) (string, error) {
	var b strings.Builder
	for _, p := range t.Parts {
		value, err := p.resolve(values)
		if err != nil {
			return "", err
		}
		if p.Kind != "" && strings.ContainsFunc(value, refused) {
			return "", fmt.Errorf("the value of %s contains a control character, such as a line break", p)
		}
		b.WriteString(value)
	}
	return b.String(), nil
}

// resolve is the part's value as it is now.
func (p Part) resolve(values *Values) (string, error) {
	switch p.Kind {
	case "":
		return p.Value, nil
	case Env:
		value := os.Getenv(p.Value)
		if value == "" {
			return "", fmt.Errorf("%s is not set or empty", p)
		}
		return value, nil
	case File:
		return values.file(p.Value)
	default:
		return values.Lookup(p.Kind, p.Value)
	}
}
