package httphelper

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Kinds of placeholders. The first two are understood everywhere, the others where it is said.
const (
	kindEnv    = "env"
	kindFile   = "file"
	kindParam  = "param"
	kindConfig = "config"
)

// maxSecretFile bounds what is read from a file, as Caddy does for its own placeholder.
const maxSecretFile = 1 << 20

// placeholderLike tells what a person means as a placeholder from braces that just stand in a text.
var placeholderLike = regexp.MustCompile(`^[A-Za-z0-9._/-]+$`)

// text is a text with placeholders, parsed once. Results of placeholders are never parsed.
type text struct {
	parts []textPart
}

// textPart is literal when it has no kind.
type textPart struct {
	kind  string
	value string // the text itself, or the placeholder's key
}

// valueSource is where placeholders get their values from. A nil one knows the environment and files.
type valueSource struct {
	// lookup finds the value of a `{param.*}` or `{config.*}`.
	lookup func(kind, key string) (string, error)

	// readFile reads the file of a `{file.*}`. Default: readSecretFile.
	readFile func(path string) (string, error)
}

// lookupValues is a source whose parameters and config values lookup finds.
func lookupValues(lookup func(kind, key string) (string, error)) *valueSource {
	return &valueSource{lookup: lookup}
}

func (v *valueSource) file(path string) (string, error) {
	if v == nil || v.readFile == nil {
		return readSecretFile(path)
	}
	return v.readFile(path)
}

// parseText parses a text in which `{env.*}`, `{file.*}` and the kinds given are understood.
func parseText(s string, kinds ...string) (text, error) {
	if s != "" && !strings.ContainsAny(s, `{\`) {
		return text{parts: []textPart{{value: s}}}, nil // most are plain, and there may be very many
	}
	var t text
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			t.parts = append(t.parts, textPart{value: literal.String()})
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
			return text{}, err
		}
		flush()
		t.parts = append(t.parts, part)
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
	if found && slices.Contains([]string{kindEnv, kindFile, kindParam, kindConfig}, kind) {
		return inner, true
	}
	return inner, placeholderLike.MatchString(inner)
}

// parsePlaceholder never quotes what it does not understand: it may be a secret with braces.
func parsePlaceholder(inner string, kinds []string) (textPart, error) {
	kind, key, _ := strings.Cut(inner, ".")
	switch {
	case key == "":
	case kind == kindEnv, kind == kindFile:
		return textPart{kind: kind, value: key}, nil
	case kind == "http":
		return textPart{}, errors.New("values of a request are not understood here; inside a site block Caddy turns {file.name} into one: use a path with a slash or a dot in it, for example {file./run/secrets/name}, or client_secret_file")
	case slices.Contains(kinds, kind):
		if err := validKey(key); err != nil {
			return textPart{}, fmt.Errorf("a {%s.*} placeholder: %w", kind, err)
		}
		return textPart{kind: kind, value: key}, nil
	}
	understood := []string{"{env.*}", "{file.*}"}
	for _, kind := range kinds {
		understood = append(understood, "{"+kind+".*}")
	}
	return textPart{}, fmt.Errorf(`unknown placeholder: %s are understood here; write \{ for a literal brace`, strings.Join(understood, ", "))
}

// literal reports whether the text has no placeholder.
func (t text) literal() bool {
	return !slices.ContainsFunc(t.parts, func(p textPart) bool { return p.kind != "" })
}

// keys are the keys of all placeholders of a kind, each once.
func (t text) keys(kind string) []string {
	var keys []string
	for _, p := range t.parts {
		if p.kind == kind && !slices.Contains(keys, p.value) {
			keys = append(keys, p.value)
		}
	}
	return keys
}

// quote quotes what came out of the text, unless it does not stand in the config: then it says where
// it came from.
func (t text) quote(value string) string {
	if t.literal() {
		return strconv.Quote(value)
	}
	return "a value of " + strings.Join(t.placeholders(), " and ")
}

// placeholders are the text's placeholders as written.
func (t text) placeholders() []string {
	var names []string
	for _, p := range t.parts {
		if p.kind != "" {
			names = append(names, p.String())
		}
	}
	return names
}

// String is the text with its placeholders as written.
func (t text) String() string {
	var b strings.Builder
	for _, p := range t.parts {
		if p.kind == "" {
			b.WriteString(p.value)
		} else {
			b.WriteString(p.String())
		}
	}
	return b.String()
}

func (p textPart) String() string { return "{" + p.kind + "." + p.value + "}" }

// expand reads the placeholders' values as they are now. Control characters in them are refused.
func (t text) expand(values *valueSource) (string, error) {
	return t.join(values, func(r rune) bool { return unicode.IsControl(r) })
}

// expandLines is expand for texts that may have several lines, such as a PEM key.
func (t text) expandLines(values *valueSource) (string, error) {
	return t.join(values, func(r rune) bool { return unicode.IsControl(r) && !strings.ContainsRune("\n\r\t", r) })
}

func (t text) join(values *valueSource, refused func(rune) bool) (string, error) {
	var b strings.Builder
	for _, p := range t.parts {
		value, err := p.resolve(values)
		if err != nil {
			return "", err
		}
		if p.kind != "" && strings.ContainsFunc(value, refused) {
			return "", fmt.Errorf("the value of %s contains a control character, such as a line break", p)
		}
		b.WriteString(value)
	}
	return b.String(), nil
}

// resolve is the part's value as it is now.
func (p textPart) resolve(values *valueSource) (string, error) {
	switch p.kind {
	case "":
		return p.value, nil
	case kindEnv:
		value := os.Getenv(p.value)
		if value == "" {
			return "", fmt.Errorf("%s is not set or empty", p)
		}
		return value, nil
	case kindFile:
		return values.file(p.value)
	default:
		return values.lookup(p.kind, p.value)
	}
}

// readSecretFile reads a file that holds one value; one newline at its end is not part of it.
func readSecretFile(path string) (string, error) {
	content, err := readRegularFile(path)
	if err != nil {
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		return "", fmt.Errorf("reading file %s: %w", path, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if value == "" {
		return "", fmt.Errorf("reading file %s: it is empty", path)
	}
	return value, nil
}

// readRegularFile opens nothing that could block, such as a pipe.
func readRegularFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err == nil && len(content) > maxSecretFile {
		err = errors.New("it is larger than 1 MiB")
	}
	return content, err
}
