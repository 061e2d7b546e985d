package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestXcaddyRunsWhatItHasBuilt has the binary go to another place, named from another directory. What
// builds is a stand-in that makes a program which says how it was called.
func TestXcaddyRunsWhatItHasBuilt(t *testing.T) {
	t.Parallel()
	root, elsewhere := t.TempDir(), t.TempDir()
	program := func(path, script string) {
		file := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	program("xcaddy.sh", readShipped(t, "xcaddy.sh"))
	program(".tools/xcaddy-v0.4.5/xcaddy", `#!/bin/sh -e
while [ "$1" != --output ]; do shift; done
printf '#!/bin/sh\necho "$@"\n' >"$2"
chmod +x "$2"
`)
	for _, place := range []string{"mine", filepath.Join(elsewhere, "absolute"), ""} {
		cmd := exec.Command(filepath.Join(root, "xcaddy.sh"), "run", "--watch")
		cmd.Dir = elsewhere
		cmd.Env = append(os.Environ(), "OUTPUT="+place)
		equal(t, "called with", output(t, cmd), "run --config Caddyfile.example --adapter caddyfile --watch\n")
	}
}
