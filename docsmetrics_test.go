package httphelper

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestMetricsNamedInDeploy looks for every metric that the dashboard, the alert rules and the
// documentation name, with its labels and their values.
func TestMetricsNamedInDeploy(t *testing.T) {
	real := realMetrics()
	name := regexp.MustCompile(`caddy_http_helper_[a-z_]+`)
	value := regexp.MustCompile(`(result|outcome)!?="([a-z_]+)"`)
	values := []string{"ok", string(classConfiguration), string(classOutage), "sent", "kept", "no_token", "refused", "replayed", "passed"}
	found := 0
	for _, file := range filesBelow(t, "deploy", "docs") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, metric := range name.FindAllString(string(text), -1) {
			found++
			if !slices.Contains(real, metric) {
				t.Errorf("%s names %s, which is not there", file, metric)
			}
		}
		for _, match := range value.FindAllStringSubmatch(strings.ReplaceAll(string(text), `\"`, `"`), -1) {
			if !slices.Contains(values, match[2]) {
				t.Errorf("%s names %s, which is not there", file, match[0])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d metrics are named", found)
	}
}

// realMetrics are the names of the series that there are.
func realMetrics() []string {
	descriptions := make(chan *prometheus.Desc, 10)
	c := newCollectors()
	for _, collector := range []prometheus.Collector{c.tokenRequests, c.durations, c.expiry, c.requests, c.unauthorized} {
		collector.Describe(descriptions)
	}
	close(descriptions)
	fqName := regexp.MustCompile(`fqName: "([^"]*)"`)
	var names []string
	for description := range descriptions {
		name := fqName.FindStringSubmatch(description.String())[1]
		names = append(names, name)
		if strings.HasSuffix(name, "_seconds") {
			names = append(names, name+"_bucket", name+"_sum", name+"_count")
		}
	}
	return names
}

func filesBelow(t *testing.T, roots ...string) []string {
	t.Helper()
	var files []string
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}
