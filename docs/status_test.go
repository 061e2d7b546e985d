package docs_test

import (
	"regexp"
	"strings"
	"testing"
)

var (
	releasedVersion = regexp.MustCompile(`(?m)^## \[\d`)
	needsRelease    = regexp.MustCompile(`\bv0\.1\.0\b|caddy-httphelper/releases\b|(?m)--with github\.com/caddy-httphelper/caddy-httphelper$`)
)

// TestStatusInDocs has the pages say which commands need a release while there is none, and no longer.
func TestStatusInDocs(t *testing.T) {
	released := releasedVersion.MatchString(readDocument(t, "CHANGELOG.md"))
	for _, file := range documents(t) {
		if file == "CONTRIBUTING.md" || file == "CHANGELOG.md" {
			continue // how a release is made
		}
		page := readDocument(t, file)
		for _, section := range regexp.MustCompile(`(?m)^#+ `).Split(page, -1) {
			marked := strings.Contains(strings.ToLower(section), "from 0.1.0 on")
			if found := needsRelease.FindString(section); !released && found != "" && !marked {
				t.Errorf("%s, %q: %s needs a release, and nothing says so", file, strings.SplitN(section, "\n", 2)[0], found)
			}
			if released && marked {
				t.Errorf("%s, %q: it says \"from 0.1.0 on\", and that has come", file, strings.SplitN(section, "\n", 2)[0])
			}
		}
	}
	for _, file := range []string{"README.md", "docs/deployment.md"} {
		if says := regexp.MustCompile(`not released yet|no release yet`).MatchString(readDocument(t, file)); says == released {
			t.Errorf("%s says that there is no release: %v; there is one: %v", file, says, released)
		}
	}
}
