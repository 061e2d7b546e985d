package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// configured are the directories whose exported types are read from the configuration.
var configured = []string{".", "internal/flows", "internal/httptransport"}

// leastWords is what a comment says besides the name and small words.
const leastWords = 3

// TestEveryConfigFieldIsDocumented reads the comments that Caddy's site shows as the JSON documentation: each
// says something that the name does not.
func TestEveryConfigFieldIsDocumented(t *testing.T) {
	fields := 0
	for _, directory := range configured {
		for _, declared := range exportedStructs(t, directory) {
			if strings.TrimSpace(declared.doc) == "" {
				t.Errorf("%s.%s has no comment", directory, declared.name)
			}
			for _, field := range declared.fields {
				fields++
				if problem := problemOfComment(field.name, field.doc); problem != "" {
					t.Errorf("%s.%s.%s: %s: %q", directory, declared.name, field.name, problem, field.doc)
				}
			}
		}
	}
	if fields < 100 {
		t.Fatalf("only %d fields", fields)
	}
}

// TestProblemsOfComments has the check refuse comments that say nothing.
func TestProblemsOfComments(t *testing.T) {
	for _, doc := range []string{"", "TokenURL is the token URL.", "The token url.", "No full stop, but many useful words here", "token_url of the connection."} {
		if problemOfComment("TokenURL", doc) == "" {
			t.Errorf("%q passes", doc)
		}
	}
	if problem := problemOfComment("TokenURL", "Where tokens are requested: https, or http to loopback."); problem != "" {
		t.Error(problem)
	}
}

var (
	word       = regexp.MustCompile(`[A-Za-z0-9]+`)
	smallWords = regexp.MustCompile(`^(?i:a|an|the|is|are|of|for|to|in|on|and|or|this|that|its|be|it|connection|connector|option|value|field)$`)
)

func problemOfComment(name, doc string) string {
	doc = strings.TrimSpace(doc)
	switch {
	case doc == "":
		return "no comment"
	case !strings.ContainsAny(doc[len(doc)-1:], ".:`") && !strings.HasSuffix(doc, ")"):
		return "the comment does not end as a sentence"
	case strings.HasPrefix(doc, name+" "):
		return "the comment begins with Go's name, which users of JSON do not see"
	}
	said := map[string]bool{}
	for _, w := range word.FindAllString(doc, -1) {
		w = strings.ToLower(w)
		if !smallWords.MatchString(w) && !strings.Contains(strings.ToLower(name), strings.TrimSuffix(w, "s")) {
			said[w] = true
		}
	}
	if len(said) < leastWords {
		return "the comment repeats the name"
	}
	return ""
}

type documentedField struct{ name, doc string }

type documentedType struct {
	name, doc string
	fields    []documentedField
}

// exportedStructs are the exported types of a package that have fields in JSON.
func exportedStructs(t *testing.T, directory string) []documentedType {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(directory, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var found []documentedType
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			general, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range general.Specs {
				if declared, ok := structOf(spec, general.Doc); ok {
					found = append(found, declared)
				}
			}
		}
	}
	return found
}

func structOf(spec ast.Spec, doc *ast.CommentGroup) (documentedType, bool) {
	declared, ok := spec.(*ast.TypeSpec)
	if !ok || !declared.Name.IsExported() {
		return documentedType{}, false
	}
	structure, ok := declared.Type.(*ast.StructType)
	if !ok {
		return documentedType{}, false
	}
	if declared.Doc != nil {
		doc = declared.Doc
	}
	found := documentedType{name: declared.Name.Name, doc: doc.Text()}
	for _, field := range structure.Fields.List {
		if len(field.Names) == 0 || field.Tag == nil || !unicode.IsUpper(rune(field.Names[0].Name[0])) {
			continue
		}
		tag, err := strconv.Unquote(field.Tag.Value)
		if name, inJSON := reflect.StructTag(tag).Lookup("json"); err == nil && inJSON && name != "-" {
			found.fields = append(found.fields, documentedField{field.Names[0].Name, field.Doc.Text()})
		}
	}
	return found, len(found.fields) > 0
}
