package integration

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// goTool is a third-party Go program with which the tests check the shipped files. It is
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

// goModuleDir is where Go keeps the files of a module's version.
func goModuleDir(t *testing.T, module string) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = t.TempDir() // no module's own
	var found struct{ Dir string }
	parse(t, []byte(output(t, cmd)), &found)
	return found.Dir
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
	return filepath.Join(debianPackages(t, pkg), "usr", "bin", name)
}

var debianMutex sync.Mutex

// debianPackages unpacks Debian packages, with those that they need and this machine lacks, into a
// directory below .tools. Where they cannot be had the test is skipped.
func debianPackages(t *testing.T, names ...string) (root string) {
	t.Helper()
	debianMutex.Lock()
	defer debianMutex.Unlock()
	root = filepath.Join(harness.Root(), ".tools", "debian-"+strings.Join(names, "-"))
	if _, err := os.Stat(root); err == nil {
		return root
	}
	list := exec.Command("apt-get", append([]string{"install", "--print-uris", "--yes", "--no-install-recommends"}, names...)...)
	uris, err := list.CombinedOutput()
	if err != nil {
		t.Skipf("apt-get does not know %s here: %v\n%s", strings.Join(names, ", "), err, uris)
	}
	// A line is 'URI' name_version_architecture.deb size digest.
	missing := names
	for _, file := range debFile.FindAllStringSubmatch(string(uris), -1) {
		if !slices.Contains(missing, file[1]) {
			missing = append(missing, file[1])
		}
	}
	download := exec.Command("apt-get", append([]string{"download"}, missing...)...)
	download.Dir = t.TempDir()
	if out, err := download.CombinedOutput(); err != nil {
		t.Skipf("apt-get cannot download %s here: %v\n%s", strings.Join(missing, ", "), err, out)
	}
	archives, _ := filepath.Glob(filepath.Join(download.Dir, "*.deb"))
	partial := root + ".partial"
	for _, archive := range archives {
		output(t, exec.Command("dpkg-deb", "--extract", archive, partial))
	}
	if err := os.Rename(partial, root); err != nil {
		t.Fatal(err)
	}
	return root
}

var debFile = regexp.MustCompile(`(?m)^'\S+' ([^_\s]+)_\S+\.deb `)

// namespace is a mount namespace in which Debian packages are installed that this machine may lack,
// with a /run and a /var of its own, so that nothing is left behind on disk.
type namespace struct{ harness.Running }

// newNamespace makes one that ends with the test. Where that is not possible the test is skipped.
func newNamespace(t *testing.T, packages ...string) namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount here")
	}
	root, empty := debianPackages(t, packages...), t.TempDir()
	script := `mount --make-rprivate / && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /dev/shm && mount --bind "$2" /var && mkdir -p /var/tmp /var/lib &&
		for dir in usr etc; do
			! [ -d "$1/$dir" ] || mount -t overlay overlay -o "lowerdir=$1/$dir:/$dir" "/$dir" || exit
		done && echo ready && exec sleep infinity`
	n := namespace{harness.Background(t, exec.Command("unshare", "--mount", "sh", "-c", script, "sh", root, empty))}
	eventually(t, "the namespace is ready, or cannot be", func() bool {
		select {
		case <-n.Exited():
			t.Skipf("no namespace with %s can be made here: %s", strings.Join(packages, " and "), n.Logs())
		default:
		}
		return n.Logs() == "ready\n"
	})
	t.Cleanup(func() { eventually(t, "the namespace is empty", func() bool { return n.population(t) == 1 }) })
	return n
}

// population is how many processes are in the namespace; one of them keeps it.
func (n namespace) population(t *testing.T) int {
	t.Helper()
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", n.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/mnt")
	count := 0
	for _, link := range links {
		if of, err := os.Readlink(link); err == nil && of == own {
			count++
		}
	}
	return count
}

// command is a command in the namespace, run in a directory.
func (n namespace) command(dir string, args ...string) *exec.Cmd {
	enter := []string{"nsenter", "--target", strconv.Itoa(n.Pid()), "--mount", "--", "sh", "-c", `cd "$0" && exec "$@"`, dir}
	return exec.Command(enter[0], append(enter[1:], args...)...)
}
