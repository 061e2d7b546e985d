package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// xcaddyScript returns the path of a copy of xcaddy.sh whose xcaddy is a stand-in. In place of Caddy that
// makes a program of one line, in which %s is where and how xcaddy was called.
func xcaddyScript(t *testing.T, line string) string {
	t.Helper()
	root := t.TempDir()
	program := func(path, script string) string {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		return file
	}
	program(".tools/xcaddy-v0.4.5/xcaddy", `#!/bin/sh -e
said=$PWD:$*
while [ "$1" != --output ]; do shift; done
printf '#!/bin/sh\n`+line+`\n' "$said" >"$2"
chmod +x "$2"
`)
	return program("xcaddy.sh", readShipped(t, "xcaddy.sh"))
}

// TestXcaddyRunsWhatItHasBuilt has the binary go to another place, named from another directory.
func TestXcaddyRunsWhatItHasBuilt(t *testing.T) {
	t.Parallel()
	script, elsewhere := xcaddyScript(t, `# %s\necho "$@"`), t.TempDir()
	for _, place := range []string{"mine", filepath.Join(elsewhere, "absolute"), ""} {
		cmd := exec.Command(script, "run", "--watch")
		cmd.Dir = elsewhere
		cmd.Env = append(os.Environ(), "OUTPUT="+place)
		equal(t, "called with", output(t, cmd), "run --config Caddyfile.example --adapter caddyfile --watch\n")
	}
}

// TestXcaddyAddsPlugins beside this one, and looks for local ones from where it is called.
func TestXcaddyAddsPlugins(t *testing.T) {
	t.Parallel()
	script, elsewhere := xcaddyScript(t, `echo "%s"`), t.TempDir()
	own := " --with github.com/caddy-httphelper/caddy-httphelper@v0.0.0=" + filepath.Dir(script)
	for with, want := range map[string]string{
		"": "",
		"github.com/pberkel/caddy-storage-redis@v1.8.1":             " --with github.com/pberkel/caddy-storage-redis@v1.8.1",
		" example.com/one/v2\n\texample.com/mine@v0.0.0=../mine \n": " --with example.com/one/v2 --with example.com/mine@v0.0.0=../mine",
	} {
		cmd := exec.Command(script, "run")
		cmd.Dir = elsewhere
		cmd.Env = append(os.Environ(), "WITH="+with)
		place, options, _ := strings.Cut(output(t, cmd), ":")
		equal(t, "xcaddy runs in", place, elsewhere)
		_, options, _ = strings.Cut(options, filepath.Join(filepath.Dir(script), "caddy"))
		equal(t, "added", options, own+want+"\n")
	}
}

// TestXcaddyNamesWhatIsNoPlugin, before it builds anything.
func TestXcaddyNamesWhatIsNoPlugin(t *testing.T) {
	t.Parallel()
	script := xcaddyScript(t, `# %s`)
	for with, word := range map[string]string{
		"redis": "redis", "*": "*", "--output": "--output", "example.com/mine ../mine": "../mine", "=../mine": "=../mine", "example.com/mine@": "example.com/mine@",
	} {
		cmd := exec.Command(script)
		cmd.Env = append(os.Environ(), "WITH="+with)
		said, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != 2 {
			t.Errorf("WITH=%s: %v", with, err)
		}
		equal(t, "error", string(said), "xcaddy.sh: WITH: "+word+" is not a module path, such as github.com/pberkel/caddy-storage-redis@v1.8.1\n")
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(script), "caddy")); err == nil {
		t.Error("something was built")
	}
}
