package integration

import (
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// shipped finds the files that the repository ships, below its root, with one of the endings.
func shipped(t *testing.T, endings ...string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(harness.Root(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if name == "node_modules" || name == "testdata" || path != harness.Root() && strings.HasPrefix(name, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		for _, ending := range endings {
			if strings.HasSuffix(name, ending) {
				relative, err := filepath.Rel(harness.Root(), path)
				files = append(files, relative)
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no files with the endings %q", endings)
	}
	return files
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func readShipped(t *testing.T, file string) string {
	t.Helper()
	return readFile(t, filepath.Join(harness.Root(), file))
}

// TestShippedCaddyfiles has every Caddyfile of the repository formatted as `caddy fmt` does, and
// loadable: whole ones as they are, connectors inside the global option.
func TestShippedCaddyfiles(t *testing.T) {
	t.Parallel()
	for _, file := range shipped(t, "Caddyfile", "Caddyfile.example", ".caddyfile", ".Caddyfile") {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			if out, err := exec.Command(harness.Caddy(t), "fmt", "--diff", filepath.Join(harness.Root(), file)).CombinedOutput(); err != nil {
				t.Errorf("not formatted: %s", out)
			}
			text := readShipped(t, file)
			if strings.HasPrefix(file, "connectors"+string(filepath.Separator)) {
				if _, err := harness.AdaptFile(t, "{\nhttp_helper {\n"+text+"\n}\n}\n", nil); err != nil {
					t.Error(err)
				}
				return
			}
			text, env := withSecrets(t, text)
			if _, err := harness.AdaptFile(t, text, env, "--validate"); err != nil {
				t.Error(err)
			}
		})
	}
}

var (
	envPlaceholder = regexp.MustCompile(`\{env\.([A-Za-z0-9_]+)\}`)
	secretPath     = regexp.MustCompile(`/(?:run|etc)/[A-Za-z0-9_./-]+`)
)

// withSecrets makes a Caddyfile loadable on this machine: each variable it reads is set, and each
// file below /run or /etc is one of the test's own.
func withSecrets(t *testing.T, text string) (changed string, env []string) {
	t.Helper()
	dir := t.TempDir()
	for _, match := range envPlaceholder.FindAllStringSubmatch(text, -1) {
		env = append(env, match[1]+"=value")
	}
	return secretPath.ReplaceAllStringFunc(text, func(path string) string {
		own := filepath.Join(dir, filepath.Base(path))
		harness.WriteFile(t, own, "value")
		return own
	}), env
}

var (
	fence         = regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```$")
	fenceOrGlobal = regexp.MustCompile("(?ms)^```caddyfile(?: global)?\n(.*?)^```$")
)

// TestCaddyfilesInDocs adapts every block of a Caddyfile in the documentation, which may be a whole
// one or a part.
func TestCaddyfilesInDocs(t *testing.T) {
	t.Parallel()
	frames := []string{
		"%s",
		":8080 {\n%s\n}",
		"{\n%s\n}\n:8080",
		"{\nhttp_helper {\n%s\n}\n}\n:8080",
		":8080 {\nhttp_helper https://api.example.com {\ntoken_url https://auth.example.com/token\nclient_id a\nclient_secret {env.B}\n%s\n}\n}",
	}
	for _, file := range shipped(t, ".md") {
		// Imports are relative to the Caddyfile, which here is not beside the connectors.
		text := strings.ReplaceAll(readShipped(t, file), "import connectors/", "import "+filepath.Join(harness.Root(), "connectors")+"/")
		for i, block := range fenceOrGlobal.FindAllStringSubmatch(text, -1) {
			t.Run(fmt.Sprintf("%s/%d", file, i+1), func(t *testing.T) {
				t.Parallel()
				var first error
				for _, frame := range frames {
					_, err := harness.AdaptFile(t, fmt.Sprintf(frame, block[1]), nil)
					if err == nil {
						return
					}
					if first == nil {
						first = err
					}
				}
				t.Errorf("%v\n%s", first, block[1])
			})
		}
	}
}

// TestExample runs Caddyfile.example as it is but for the ports, and makes the request it names. Then list
// prints what README.md shows. The log warns of nothing but the literal secret.
func TestExample(t *testing.T) {
	t.Parallel()
	sidecar := harness.New(t)
	_, own, _ := net.SplitHostPort(sidecar.Addr)
	ports := strings.NewReplacer(":8080", ":"+own, ":8081", ":"+harness.Port(t), ":8082", ":"+harness.Port(t))
	caddyfile := ports.Replace(readShipped(t, "Caddyfile.example"))
	sidecar.Run(t, harness.Config{Whole: caddyfile})
	for _, address := range []string{sidecar.URL, "http://localhost:" + own} {
		response, err := harness.Get(sidecar.Client, address+"/hello")
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "status", response.StatusCode, http.StatusOK)
		equal(t, "body", response.Text, "The API saw the token and was asked: GET /v2/hello")
		if !strings.Contains(readShipped(t, "README.md"), "\n"+response.Text+"\n") {
			t.Errorf("README.md does not show %q", response.Text)
		}
	}
	list := exec.Command(harness.Caddy(t), "http-helper", "list", "--config", sidecar.File(t, "Caddyfile.example", caddyfile))
	list.Dir = sidecar.Dir
	if printed := output(t, list); !strings.Contains(readShipped(t, "README.md"), "\n"+printed+"```\n") {
		t.Errorf("README.md does not show %q", printed)
	}
	wantQuiet(t, sidecar.Logs(), "client_secret is a literal in the configuration")
}

// wantQuiet checks that a log has no warnings and errors, except those that say something known.
func wantQuiet(t *testing.T, log string, known ...string) {
	t.Helper()
	for line := range strings.Lines(log) {
		loud := strings.Contains(line, `"level":"warn"`) || strings.Contains(line, `"level":"error"`)
		if loud && !slices.ContainsFunc(known, func(text string) bool { return strings.Contains(line, text) }) {
			t.Errorf("the log is not quiet: %s", line)
		}
	}
}
