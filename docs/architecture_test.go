package docs_test

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestFilesInArchitecture checks that the Go files that the page names are there, below the root or
// internal/.
func TestFilesInArchitecture(t *testing.T) {
	var files []string
	for _, root := range []string{".", "internal"} {
		err := fs.WalkDir(os.DirFS(root), ".", func(path string, _ fs.DirEntry, err error) error {
			if strings.HasSuffix(path, ".go") && (root == "internal" || !strings.Contains(path, "/")) {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`(?:internal/)?([a-z/]+\\.go)`").FindAllStringSubmatch(string(page), -1)
	if len(names) < 20 {
		t.Fatalf("found only %d names of files", len(names))
	}
	for _, name := range names {
		if !hasFile(files, name[1]) {
			t.Errorf("there is no %s", name[1])
		}
	}
}

// hasFile reports whether a name is a file's path, or the end of it.
func hasFile(files []string, name string) bool {
	for _, file := range files {
		if file == name || strings.HasSuffix(file, "/"+name) {
			return true
		}
	}
	return false
}
