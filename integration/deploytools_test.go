package integration

import (
	"bytes"
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// goTool is a Go program of somebody else's that the tests check the shipped files with. It is
// installed into .tools once, by exact version.
type goTool struct {
	name, pkg, version string
	binary             string // what Go calls the program, if not by the name

	once sync.Once
	path string
	err  error
}

var (
	kustomize       = &goTool{name: "kustomize", pkg: "sigs.k8s.io/kustomize/kustomize/v5", version: "v5.7.1"}
	helm            = &goTool{name: "helm", pkg: "helm.sh/helm/v3/cmd/helm", version: "v3.22.0"}
	kubectlValidate = &goTool{name: "kubectl-validate", pkg: "sigs.k8s.io/kubectl-validate", version: "v0.0.4"}
	composeCheck    = &goTool{name: "compose-go", pkg: "github.com/compose-spec/compose-go/v2/cmd", version: "v2.9.0", binary: "cmd"}
)

// command is the tool with arguments.
func (g *goTool) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	g.once.Do(func() {
		dir := filepath.Join(harness.Root(), ".tools", g.name+"-"+g.version)
		g.path = filepath.Join(dir, cmp.Or(g.binary, g.name))
		if _, err := os.Stat(g.path); err == nil {
			return
		}
		cmd := exec.Command("go", "install", g.pkg+"@"+g.version)
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
		if out, err := cmd.CombinedOutput(); err != nil {
			g.err = err
			t.Logf("installing %s: %s", g.name, out)
		}
	})
	if g.err != nil {
		t.Fatal(g.err)
	}
	return exec.Command(g.path, args...)
}

// output runs a command that must succeed, and returns what it printed.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out, stderr.String())
	}
	return string(out)
}

// debianProgram finds a program of this machine's or, on Debian, takes it out of its package without
// installing that. Where neither is possible the test is skipped.
func debianProgram(t *testing.T, name, pkg string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	dir := filepath.Join(harness.Root(), ".tools", pkg)
	path := filepath.Join(dir, "usr", "bin", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	download := exec.Command("apt-get", "download", pkg)
	download.Dir = t.TempDir()
	if out, err := download.CombinedOutput(); err != nil {
		t.Skipf("there is no %s here, and apt-get cannot get package %s: %v\n%s", name, pkg, err, out)
	}
	archives, _ := filepath.Glob(filepath.Join(download.Dir, "*.deb"))
	if len(archives) != 1 {
		t.Fatalf("apt-get downloaded %q", archives)
	}
	output(t, exec.Command("dpkg-deb", "--extract", archives[0], dir))
	return path
}
