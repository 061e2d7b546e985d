package placeholder

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// writeFile writes a file of its own and returns its path.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lookupIn returns the values of a map by kind and key, such as "param.x".
func lookupIn(values map[string]string) *Values {
	return &Values{Lookup: func(kind, key string) (string, error) {
		value, ok := values[kind+"."+key]
		if !ok {
			return "", errors.New("no value")
		}
		return value, nil
	}}
}

func mustParse(t *testing.T, s string, kinds ...string) Template {
	t.Helper()
	parsed, err := Parse(s, kinds...)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestExpand(t *testing.T) {
	t.Setenv("TEXT_A", "aa")
	t.Setenv("TEXT_BRACES", `{env.TEXT_A} \{ {param.p}`)
	file := writeFile(t, "f", "ff\n")
	lookup := lookupIn(map[string]string{"param.p": "pp", "param.p-2_X": "p2", "config.c": "{param.p}{env.TEXT_A}"})
	for name, test := range map[string]struct{ text, want string }{
		"nothing":                   {"", ""},
		"plain":                     {"hello", "hello"},
		"environment":               {"{env.TEXT_A}", "aa"},
		"file":                      {"x{file." + file + "}y", "xffy"},
		"parameter":                 {"-{param.p}-", "-pp-"},
		"key":                       {"{param.p-2_X}", "p2"},
		"neighbours":                {"{param.p}{param.p}", "pppp"},
		"not scanned again":         {"{config.c}", "{param.p}{env.TEXT_A}"},
		"not scanned again, env":    {"{env.TEXT_BRACES}", `{env.TEXT_A} \{ {param.p}`},
		"escaped":                   {`\{param.p\}`, "{param.p}"},
		"escaped, opening only":     {`\{param.p}`, "{param.p}"},
		"escaped, closing only":     {`{param.p\}`, "{param.p}"},
		"escaped beside":            {`\{{param.p}\}`, "{pp}"},
		"braces beside":             {"{{param.p}}", "{pp}"},
		"JSON":                      {`{"a": "{param.p}", "b": {"c": 1}, "d": {}}`, `{"a": "pp", "b": {"c": 1}, "d": {}}`},
		"other backslashes":         {`a\b\\c\`, `a\b\\c\`},
		"no end of another":         {"{a.b {", "{a.b {"},
		"no beginning":              {"param.p}", "param.p}"},
		"empty braces":              {"{}", "{}"},
		"braces around a sentence":  {"{a b}", "{a b}"},
		"braces around other signs": {"{$x}{a=b}{?}", "{$x}{a=b}{?}"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mustParse(t, test.text, Param, Config).Expand(lookup)
			if err != nil || got != test.want {
				t.Errorf("got %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func TestParseErrors(t *testing.T) {
	for name, test := range map[string]struct {
		text  string
		kinds []string
		want  []string
	}{
		"unknown":              {"pa{ss}word", nil, []string{"unknown placeholder: {env.*}, {file.*} are understood here", `\{`}},
		"unknown kind":         {"{vault.hunter2}", []string{Param}, []string{"{env.*}, {file.*}, {param.*} are understood"}},
		"kind not allowed":     {"{param.hunter2}", nil, []string{"unknown placeholder"}},
		"config not allowed":   {"{config.hunter2}", []string{Param}, []string{"unknown placeholder"}},
		"no key":               {"{env.}", nil, []string{"unknown placeholder"}},
		"nothing but the kind": {"{param}", []string{Param}, []string{"unknown placeholder"}},
		"no valid key":         {"{param.hunter2/x}", []string{Param}, []string{"a {param.*} placeholder: a key consists of"}},
		"key with a digit":     {"{config.2hunter2}", []string{Config}, []string{"a {config.*} placeholder"}},
		"blank in the key":     {"{param.hunter2 x}", []string{Param}, []string{"a {param.*} placeholder"}},
		"no end":               {"a{param.hunter2", []string{Param}, []string{"lacks its closing brace", `\{`}},
		"no end of the last":   {"{param.p}{env.hunter2 x", []string{Param}, []string{"lacks its closing brace"}},
		"request":              {"{http.request.header.hunter2}", nil, []string{"{file./run/secrets/name}", "client_secret_file", "site block"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(test.text, test.kinds...)
			wantErrors(t, err, test.want...)
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "ss}")) {
				t.Errorf("the error quotes what may be a secret: %v", err)
			}
		})
	}
}

func TestExpandErrors(t *testing.T) {
	t.Setenv("TEXT_EMPTY", "")
	t.Setenv("TEXT_CONTROL", "hunter2\x01")
	t.Setenv("TEXT_LINES", "hunter2\r\n\thunter2")
	t.Setenv("TEXT_C1", "hunter2\u0085")
	lines, missing := writeFile(t, "lines", "hunter2\nhunter2\n\n"), filepath.Join(t.TempDir(), "missing")
	lookup := lookupIn(map[string]string{"param.p": "hunter2\x00"})
	for name, test := range map[string]struct{ text, want string }{
		"unset":              {"{env.TEXT_UNSET}", "{env.TEXT_UNSET} is not set or empty"},
		"empty":              {"a{env.TEXT_EMPTY}", "{env.TEXT_EMPTY} is not set or empty"},
		"control character":  {"{env.TEXT_CONTROL}", "the value of {env.TEXT_CONTROL} contains a control character"},
		"C1 control":         {"{env.TEXT_C1}", "contains a control character"},
		"lines":              {"{env.TEXT_LINES}", "contains a control character"},
		"lines of a file":    {"{file." + lines + "}", "contains a control character, such as a line break"},
		"missing file":       {"{file." + missing + "}", "reading file " + missing + ": no such file or directory"},
		"a parameter's":      {"{param.p}", "the value of {param.p} contains a control character"},
		"a parameter's, not": {"{param.q}", "no value"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := mustParse(t, test.text, Param).Expand(lookup)
			wantErrors(t, err, test.want)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error quotes a value: %v", err)
			}
		})
	}
}

func TestExpandLines(t *testing.T) {
	t.Setenv("TEXT_LINES", "a\r\n\tb")
	t.Setenv("TEXT_CONTROL", "a\x0bb")
	if got, err := mustParse(t, "{env.TEXT_LINES}").ExpandLines(nil); err != nil || got != "a\r\n\tb" {
		t.Errorf("got %q, %v", got, err)
	}
	_, err := mustParse(t, "{env.TEXT_CONTROL}").ExpandLines(nil)
	wantErrors(t, err, "control character")
}

func TestValuesAreReadEachTime(t *testing.T) {
	file := writeFile(t, "f", "old")
	parsed := mustParse(t, "{file."+file+"}{env.TEXT_ROTATED}")
	t.Setenv("TEXT_ROTATED", "1")
	if got, err := parsed.Expand(nil); err != nil || got != "old1" {
		t.Fatal(got, err)
	}
	t.Setenv("TEXT_ROTATED", "2")
	if err := os.WriteFile(file, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := parsed.Expand(nil); err != nil || got != "new2" {
		t.Fatal(got, err)
	}
}

func TestKeys(t *testing.T) {
	parsed := mustParse(t, "{param.b}{env.X}{param.a}{config.c}{param.b}", Param, Config)
	if got := parsed.Keys(Param); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("parameters %q", got)
	}
	if got := parsed.Keys(Config); !slices.Equal(got, []string{"c"}) {
		t.Errorf("config values %q", got)
	}
	if parsed.IsLiteral() || !mustParse(t, `a\{b\}{c d}`).IsLiteral() || !mustParse(t, "").IsLiteral() {
		t.Error("literal tells it wrong")
	}
}

func TestReadFile(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"plain":            {"secret", "secret"},
		"newline":          {"secret\n", "secret"},
		"newline, Windows": {"secret\r\n", "secret"},
		"one newline only": {"secret\n\n", "secret\n"},
		"blanks":           {" secret \n", " secret "},
		"1 MiB":            {strings.Repeat("x", 1<<20), strings.Repeat("x", 1<<20)},
	} {
		if got, err := ReadFile(writeFile(t, "f", test.content)); err != nil || got != test.want {
			t.Errorf("%s: got %.20q, %v", name, got, err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(writeFile(t, "f", "secret\n"), link); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile(link); err != nil || got != "secret" {
		t.Errorf("a link: got %q, %v", got, err)
	}
}

func TestReadFileErrors(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		writeFile(t, "f", ""):     "it is empty",
		writeFile(t, "f", "\n"):   "it is empty",
		writeFile(t, "f", "\r\n"): "it is empty",
		writeFile(t, "f", string(bytes.Repeat([]byte("x"), (1<<20)+1))): "it is larger than 1 MiB",
		t.TempDir():                              "it is not a regular file",
		pipe:                                     "it is not a regular file",
		"/dev/null":                              "it is not a regular file",
		filepath.Join(t.TempDir(), "no", "such"): "no such file or directory",
		writeFile(t, "f", "x") + "/below":        "not a directory",
	} {
		_, err := ReadFile(path)
		wantErrors(t, err, "reading file "+path+": "+want)
	}
}

// What comes out must not depend on anything but the text and its values.
func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{"", "{param.p}", `\{param.p}`, "{{param.p}}", `{"a":"{param.p}"}`, "{param.p", "}{", `\\{param.p}`, "{config.c}{param.p}", "{http.x}", "{x}", "{ x }"} {
		f.Add(seed, "v{param.p}\\")
	}
	f.Add("{config.A}{param.A}", "\xb2")
	f.Fuzz(func(t *testing.T, s, value string) {
		if strings.Contains(s, "{env.") || strings.Contains(s, "{file.") {
			t.Skip()
		}
		parsed, err := Parse(s, Param, Config)
		if err != nil {
			return
		}
		value = strings.ToValidUTF8(value, "")
		got, err := parsed.ExpandLines(&Values{Lookup: func(string, string) (string, error) { return value, nil }})
		if err != nil {
			if value == "" || parsed.IsLiteral() {
				t.Fatal(err)
			}
			return
		}
		if parsed.IsLiteral() && got != strings.NewReplacer(`\{`, "{", `\}`, "}").Replace(s) {
			t.Fatalf("%q became %q", s, got)
		}
		if n := len(parsed.placeholders()); value != "" && strings.Count(got, value) < n {
			t.Fatalf("%q became %q: %d values expected", s, got, n)
		}
	})
}

// wantErrors checks that an error says everything that it should; without anything to say there must
// be none.
func wantErrors(t *testing.T, err error, want ...string) {
	t.Helper()
	if err != nil && len(want) == 0 {
		t.Fatal(err)
	}
	for _, part := range want {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want %q", err, part)
		}
	}
}
