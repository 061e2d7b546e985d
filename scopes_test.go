package httphelper

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestValidScope(t *testing.T) {
	for _, scope := range []string{"a", "!", "#", "[", "]", "~", "contacts.read", "https://graph.example/.default", "a,b", "{tenant}", "urn:x:y"} {
		if err := validScope(scope); err != nil {
			t.Errorf("%q: %v", scope, err)
		}
	}
	for _, scope := range []string{"", " ", "a b", `a"b`, `a\b`, "a\x00", "a\x1f", "a\x7f", "a\n", "é", "a\u00a0b", "\xff"} {
		if validScope(scope) == nil {
			t.Errorf("%q passes", scope)
		}
	}
}

func TestSplitScopes(t *testing.T) {
	t.Setenv("SPLIT_SCOPES", "x.read x.write")
	for name, test := range map[string]struct {
		typed, delimiter string
		want             []string
		warning          string
	}{
		"space by default":      {typed: "b a", want: []string{"b", "a"}},
		"space":                 {typed: "b a", delimiter: "space", want: []string{"b", "a"}},
		"runs and ends":         {typed: "  b \t\n a  ", delimiter: "space", want: []string{"b", "a"}},
		"nothing":               {typed: "", delimiter: "space"},
		"blank":                 {typed: " \t ", delimiter: "space"},
		"duplicates":            {typed: "b a b a b", want: []string{"b", "a"}},
		"comma":                 {typed: "b,a", delimiter: "comma", want: []string{"b", "a"}},
		"comma, trimmed":        {typed: " b ,\n\ta\t", delimiter: "comma", want: []string{"b", "a"}},
		"comma, empties":        {typed: ",, b,,a, ,", delimiter: "comma", want: []string{"b", "a"}},
		"comma, nothing":        {typed: ", ,", delimiter: "comma"},
		"comma, duplicates":     {typed: "b, a,b ", delimiter: "comma", want: []string{"b", "a"}},
		"comma inside of space": {typed: "b,a c", want: []string{"b,a", "c"}, warning: `"b,a" is one scope with a comma in it`},
		"case matters":          {typed: "a A", want: []string{"a", "A"}},
		"literal braces":        {typed: `\{tenant\}.read`, want: []string{"{tenant}.read"}},
		"environment":           {typed: "a {env.SPLIT_SCOPES}", want: []string{"a", "x.read", "x.write"}},
		"500 characters":        {typed: strings.Repeat("a", 500), want: []string{strings.Repeat("a", 500)}},
		"500 with blanks":       {typed: "a" + strings.Repeat(" ", 499), want: []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, warnings, err := splitScopes(test.typed, test.delimiter)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if all := strings.Join(warnings, "\n"); !strings.Contains(all, test.warning) || test.warning == "" && all != "" {
				t.Errorf("warnings %q, want %q", all, test.warning)
			}
		})
	}
}

func TestSplitScopesErrors(t *testing.T) {
	t.Setenv("SPLIT_SECRET", `hunter2"`)
	t.Setenv("SPLIT_EMPTY", "")
	for name, test := range map[string]struct{ typed, delimiter, want string }{
		"501 characters":          {strings.Repeat("a", 501), "space", "501 characters are more than the 500"},
		"501 blanks":              {strings.Repeat(" ", 501), "comma", "501 characters"},
		"code points, not bytes":  {strings.Repeat("é", 400), "space", "is not a scope"},
		"501 code points":         {strings.Repeat("é", 501), "space", "501 characters"},
		"space inside of comma":   {"a, b c", "comma", `one of them has a space in it; scopes_delimiter is comma`},
		"newline inside of comma": {"a, b\nc", "comma", `has a space in it`},
		"quotation mark":          {`a b"c`, "space", `one of them is not a scope`},
		"all of them":             {`a" b"`, "space", "one of them is not a scope"},
		"placeholder":             {"a {param.x}", "space", "unknown placeholder"},
		"unset":                   {"{env.SPLIT_EMPTY}", "space", "{env.SPLIT_EMPTY} is not set or empty"},
		"value of a variable":     {"{env.SPLIT_SECRET}", "space", "a value of {env.SPLIT_SECRET} is not a scope"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := splitScopes(test.typed, test.delimiter)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error quotes a secret: %v", err)
			}
		})
	}
}

func TestValidateScopes(t *testing.T) {
	for name, test := range map[string]struct {
		connector Connector
		want      []string
	}{
		"nothing": {},
		"everything": {connector: Connector{
			Scopes: []Scope{{Name: "a", Required: true}, {Name: "b"}}, CustomizeScopes: true, AdditionalScopes: true, ScopesDelimiter: "comma",
		}},
		"grammar":               {Connector{Scopes: []Scope{{Name: "a b"}}}, []string{"scope: that is not a scope"}},
		"empty":                 {Connector{Scopes: []Scope{{}}}, []string{"scope: that is not a scope"}},
		"twice":                 {Connector{Scopes: []Scope{{Name: "a"}, {Name: "b"}, {Name: "a"}}}, []string{"scope a is defined twice"}},
		"required":              {Connector{Scopes: []Scope{{Name: "a", Required: true}}}, []string{"scope a: required needs customize_scopes"}},
		"additional":            {Connector{AdditionalScopes: true}, []string{"additional_scopes needs customize_scopes"}},
		"delimiter":             {Connector{ScopesDelimiter: ";"}, []string{`scopes_delimiter: must be one of space, comma`}},
		"everything at a time":  {Connector{Scopes: []Scope{{Name: `"`}, {Name: "a", Required: true}}, AdditionalScopes: true, ScopesDelimiter: "x"}, []string{"not a scope", "required", "additional_scopes", "scopes_delimiter"}},
		"differ only in letter": {Connector{Scopes: []Scope{{Name: "a"}, {Name: "A"}}}, nil},
	} {
		t.Run(name, func(t *testing.T) { wantErrors(t, test.connector.validateScopes(), test.want...) })
	}
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

var (
	fixedScopes  = &Connector{Scopes: []Scope{{Name: "read"}, {Name: "write"}}}
	chosenScopes = &Connector{Scopes: []Scope{{Name: "read"}, {Name: "base", Required: true}, {Name: "write"}, {Name: "{x}"}}, CustomizeScopes: true}
	addedScopes  = &Connector{
		Scopes: []Scope{{Name: "read"}, {Name: "base", Required: true}}, CustomizeScopes: true, AdditionalScopes: true, ScopesDelimiter: "comma",
		Service: Service{ScopesHelp: "https://acme.example/scopes"},
	}
)

func TestRequestedScopes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "scope.txt")
	if err := os.WriteFile(file, []byte("write\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		connector           *Connector
		connection          Connection
		requested, required []string
	}{
		"no connector":              {nil, Connection{}, nil, nil},
		"no connector, scopes":      {nil, Connection{Scopes: []string{"b", "a"}}, []string{"b", "a"}, []string{"b", "a"}},
		"no connector, none":        {nil, Connection{Scopes: []string{}}, nil, nil},
		"no scopes at all":          {new(Connector), Connection{}, nil, nil},
		"fixed":                     {fixedScopes, Connection{}, []string{"read", "write"}, []string{"read", "write"}},
		"no choice made":            {chosenScopes, Connection{}, []string{"read", "base", "write", "{x}"}, []string{"base"}},
		"only the required":         {chosenScopes, Connection{Scopes: []string{}}, []string{"base"}, []string{"base"}},
		"required is there anyway":  {chosenScopes, Connection{Scopes: []string{"write"}}, []string{"base", "write"}, []string{"base"}},
		"connector's order":         {chosenScopes, Connection{Scopes: []string{"write", "base", "read"}}, []string{"read", "base", "write"}, []string{"base"}},
		"from a file":               {chosenScopes, Connection{Scopes: []string{"{file." + file + "}"}}, []string{"base", "write"}, []string{"base"}},
		"braces of the connector's": {chosenScopes, Connection{Scopes: []string{"{x}"}}, []string{"base", "{x}"}, []string{"base"}},
		"additional":                {addedScopes, Connection{AdditionalScopes: "z, y,,z"}, []string{"read", "base", "z", "y"}, []string{"base"}},
		"additional and chosen":     {addedScopes, Connection{Scopes: []string{}, AdditionalScopes: "z,base"}, []string{"base", "z"}, []string{"base"}},
		"additional is known":       {addedScopes, Connection{Scopes: []string{}, AdditionalScopes: "z,read"}, []string{"base", "z", "read"}, []string{"base"}},
	} {
		t.Run(name, func(t *testing.T) {
			requested, required, warnings, err := test.connector.requestedScopes(&test.connection)
			if err != nil || len(warnings) > 0 {
				t.Fatal(err, warnings)
			}
			if !reflect.DeepEqual(requested, test.requested) || !reflect.DeepEqual(required, test.required) {
				t.Errorf("got %q and %q, want %q and %q", requested, required, test.requested, test.required)
			}
		})
	}
}

func TestRequestedScopesErrors(t *testing.T) {
	for name, test := range map[string]struct {
		connector  *Connector
		connection Connection
		want       []string
	}{
		"no connector, grammar":     {nil, Connection{Scopes: []string{"a b"}}, []string{"scopes: one of them is not a scope"}},
		"no connector, twice":       {nil, Connection{Scopes: []string{"a", "a"}}, []string{"scopes: a is named twice"}},
		"no connector, additional":  {nil, Connection{AdditionalScopes: "a"}, []string{"additional_scopes needs a connector"}},
		"no connector, placeholder": {nil, Connection{Scopes: []string{"{param.x}"}}, []string{"scopes: unknown placeholder"}},
		"not customizable":          {fixedScopes, Connection{Scopes: []string{"read"}}, []string{"scopes: the connector has no customize_scopes"}},
		"not customizable, none":    {fixedScopes, Connection{Scopes: []string{}}, []string{"customize_scopes"}},
		"unknown":                   {chosenScopes, Connection{Scopes: []string{"wriet"}}, []string{"scopes: the connector has no scope wriet (did you mean write?); it has read, base, write, {x}"}},
		"unlike each of them":       {chosenScopes, Connection{Scopes: []string{"delete"}}, []string{"scopes: the connector has no scope delete; it has read, base, write, {x}"}},
		"unknown, each":             {chosenScopes, Connection{Scopes: []string{"q1", "q2"}}, []string{"q1", "q2"}},
		"there are none":            {&Connector{CustomizeScopes: true}, Connection{Scopes: []string{"a"}}, []string{"it defines none"}},
		"twice":                     {chosenScopes, Connection{Scopes: []string{"read", "read"}}, []string{"scopes: read is named twice"}},
		"additional":                {chosenScopes, Connection{AdditionalScopes: "a"}, []string{"additional_scopes: the connector does not allow additional scopes"}},
		"additional, help":          {&Connector{Service: addedScopes.Service}, Connection{AdditionalScopes: "a"}, []string{"ask for scopes that it lacks at https://acme.example/scopes"}},
		"additional, grammar":       {addedScopes, Connection{AdditionalScopes: "a b"}, []string{"additional_scopes: one of them has a space in it"}},
		"additional, length":        {addedScopes, Connection{AdditionalScopes: strings.Repeat("é", 501)}, []string{"additional_scopes: 501 characters"}},
		"all of them":               {addedScopes, Connection{Scopes: []string{"q"}, AdditionalScopes: "a b"}, []string{"scopes: the connector has no scope q", "additional_scopes:"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := test.connector.requestedScopes(&test.connection)
			wantErrors(t, err, test.want...)
		})
	}
}

func TestCommaInScopeWarns(t *testing.T) {
	c := &Connector{CustomizeScopes: true, AdditionalScopes: true}
	_, _, warnings, err := c.requestedScopes(&Connection{AdditionalScopes: "a,b"})
	if err != nil || len(warnings) != 1 || !strings.HasPrefix(warnings[0], `additional_scopes: "a,b" is one scope`) {
		t.Fatal(warnings, err)
	}
}

func FuzzScopes(f *testing.F) {
	for _, seed := range []string{"", "a b", "a,b", " a\t\nb ", "a b", `a"b`, "{env.HOME}", `\{x\}`, strings.Repeat("é", 501)} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, typed string, comma bool) {
		if strings.Contains(typed, "{") {
			t.Skip() // reads the environment and files
		}
		delimiter := delimiterSpace
		if comma {
			delimiter = delimiterComma
		}
		scopes, _, err := splitScopes(typed, delimiter)
		if long := utf8.RuneCountInString(typed) > maxAdditionalScopes; long && err == nil {
			t.Fatal("a text that is too long passes")
		}
		seen := make(map[string]bool)
		for _, scope := range scopes {
			if validScope(scope) != nil || seen[scope] || comma && strings.Contains(scope, ",") {
				t.Fatalf("%q came out of %q", scopes, typed)
			}
			seen[scope] = true
		}
		if err != nil {
			return
		}
		again, _, err := splitScopes(strings.Join(scopes, map[bool]string{true: ",", false: " "}[comma]), delimiter)
		if !strings.Contains(typed, `\`) && (err != nil || !slices.Equal(again, scopes)) {
			t.Fatalf("%q became %q: %v", scopes, again, err)
		}
	})
}

func TestCommaInScopesOfAConnectionAloneIsWarnedAbout(t *testing.T) {
	var alone *Connector
	requested, _, warnings, err := alone.requestedScopes(&Connection{Scopes: []string{"a,b", "c"}})
	if want := []string{`scopes: "a,b" is one scope with a comma in it; between scopes there are spaces`}; err != nil || len(requested) != 2 || !slices.Equal(warnings, want) {
		t.Errorf("got %q, warnings %q, %v; want warnings %q", requested, warnings, err, want)
	}
}
