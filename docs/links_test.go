package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	documentedLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading        = regexp.MustCompile(`(?m)^#+ (.*)$`)
	notInAnchor    = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestLinksInDocs follows the links between the pages, to their headings.
func TestLinksInDocs(t *testing.T) {
	for _, file := range documents(t) {
		for _, link := range documentedLink.FindAllStringSubmatch(readDocument(t, file), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(link[1], "#")
			target := file
			if path != "" {
				target = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which is not there", file, link[1])
			} else if anchor != "" && !hasHeading(readDocument(t, target), anchor) {
				t.Errorf("%s links to %s, which has no such heading", file, link[1])
			}
		}
	}
}

func hasHeading(page, anchor string) bool {
	for _, match := range heading.FindAllStringSubmatch(page, -1) {
		name := notInAnchor.ReplaceAllString(strings.ToLower(match[1]), "")
		if strings.ReplaceAll(name, " ", "-") == anchor {
			return true
		}
	}
	return false
}
