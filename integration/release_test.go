package integration

import (
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

const pluginModule = "github.com/caddy-httphelper/caddy-httphelper"

// TestRelease makes a release of this platform from the sources as they are now, and looks at it as its
// users do.
func TestRelease(t *testing.T) {
	t.Parallel()
	s := taggedSources(t)
	dir := filepath.Join(t.TempDir(), "dist")
	release := s.releaseCommand(s.version, dir)
	// The environment of the release's author has no effect: others could not build the same bytes.
	release.Env = append(release.Env, "CGO_ENABLED=1", "GOAMD64=v3", "GOFLAGS=-tags=other", "GOOS=plan9")
	output(t, release)
	binary := filepath.Join(dir, "caddy-http-helper_"+s.version[1:]+"_"+runtime.GOOS+"_"+runtime.GOARCH)
	t.Run("checksums", func(t *testing.T) { wantChecksums(t, dir, filepath.Base(binary)) })
	t.Run("static", func(t *testing.T) { wantStatic(t, binary) })
	t.Run("version", func(t *testing.T) { s.wantVersion(t, binary) })
	t.Run("bill of materials", func(t *testing.T) { s.wantBillOfMaterials(t, binary) })
	t.Run("built again", func(t *testing.T) { s.wantSameBytesElsewhere(t, binary) })
}

// sources are a repository of the sources as they are now, committed or not, under the tag of a version.
type sources struct{ dir, version string }

func taggedSources(t *testing.T) sources {
	t.Helper()
	list, err := exec.Command("git", "-C", harness.Root(), "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skipf("the sources are not in a git repository: %v", err)
	}
	s := sources{dir: t.TempDir()}
	content := sha256.New()
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		from, to := filepath.Join(harness.Root(), name), filepath.Join(s.dir, name)
		info, err := os.Stat(from)
		if os.IsNotExist(err) { // removed, but not yet from the index
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		text := readFile(t, from)
		if err := os.WriteFile(to, []byte(text), info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(content, "%q %q\n", name, text)
	}
	// Go keeps a module that it has seen: other sources need another version.
	s.version = fmt.Sprintf("v0.0.1-test.s%x", content.Sum(nil)[:6])
	changelog := filepath.Join(s.dir, "CHANGELOG.md")
	harness.WriteFile(t, changelog, readFile(t, changelog)+"\n## ["+s.version[1:]+"]\n")
	s.git(t, "init", "--quiet")
	s.git(t, "add", "--all")
	s.git(t, "commit", "--quiet", "--message", "Release")
	s.git(t, "tag", s.version)
	return s
}

// git runs git with a fixed author. The same sources are the same commit.
func (s sources) git(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", s.dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=Test", "GIT_AUTHOR_EMAIL=test@example.com", "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z",
		"GIT_COMMITTER_NAME=Test", "GIT_COMMITTER_EMAIL=test@example.com", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z")
	output(t, cmd)
}

// releaseCommand makes a release for this platform only.
func (s sources) releaseCommand(version, dir string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.dir, "deploy/release.sh"), version, dir)
	cmd.Env = append(os.Environ(), "PLATFORMS="+runtime.GOOS+"/"+runtime.GOARCH)
	return cmd
}

// wantChecksums checks the files as the documentation says, and that none is left out.
func wantChecksums(t *testing.T, dir, binary string) {
	t.Helper()
	check := exec.Command("sh", "-ec", documented(t, "docs/deployment.md", "sha256sum "))
	check.Dir = dir
	equal(t, "checked", output(t, check), binary+": OK\n"+binary+".cdx.json: OK\n")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "files", len(entries), 3)
}

func wantStatic(t *testing.T, binary string) {
	t.Helper()
	file, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, program := range file.Progs {
		if program.Type == elf.PT_INTERP || program.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary is not static: it has %v", program.Type)
		}
	}
}

// wantVersion looks for the version where it is documented to be: in the list of modules and in the log.
func (s sources) wantVersion(t *testing.T, binary string) {
	t.Helper()
	modules := output(t, exec.Command(binary, "list-modules", "--versions"))
	if !strings.Contains(modules, "\nhttp.handlers.http_helper "+s.version+"\n") {
		t.Errorf("the list of modules does not tell the version:\n%s", modules)
	}
	site := here(t, deployedFile(t, "compose/Caddyfile"))
	site.provide(t)
	c := harness.Background(t, exec.Command(binary, "run", "--config", site.File(t, "Caddyfile", site.caddyfile), "--adapter", "caddyfile"))
	site.awaitResponse(t, c.Exited(), c.Logs)
	if want := `"version":"` + s.version + `"`; !strings.Contains(c.Logs(), want) {
		t.Errorf("the log does not tell %s:\n%s", want, c.Logs())
	}
}

// wantSameBytesElsewhere builds the version with the documented command, as everybody can once the
// module is published. Here it is in Go's module cache by now.
func (s sources) wantSameBytesElsewhere(t *testing.T, binary string) {
	t.Helper()
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	s.git(t, "clone", "--quiet", ".", elsewhere)
	cmd := exec.Command("sh", "-ec", strings.ReplaceAll(documented(t, "docs/deployment.md", "VERSION="), "v0.1.0", s.version))
	cmd.Dir = elsewhere
	cmd.Env = append(os.Environ(), "GONOSUMDB="+pluginModule) // it is in no checksum database
	output(t, cmd)
	if readFile(t, filepath.Join(elsewhere, "caddy-rebuilt")) != readFile(t, binary) {
		t.Error("the same version gives other bytes in another place")
	}
}

// wantBillOfMaterials compares it with what the Go command says of the binary.
func (s sources) wantBillOfMaterials(t *testing.T, binary string) {
	t.Helper()
	var bill struct {
		BOMFormat string `json:"bomFormat"`
		Metadata  struct {
			Component struct{ Version string }
		}
		Components []struct{ Name, Version string }
	}
	parse(t, []byte(readFile(t, binary+".cdx.json")), &bill)
	equal(t, "format", bill.BOMFormat, "CycloneDX")
	equal(t, "version", bill.Metadata.Component.Version, s.version)
	var got []string
	for _, component := range bill.Components {
		got = append(got, component.Name+" "+component.Version)
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"std " + info.GoVersion}
	for _, module := range info.Deps {
		want = append(want, module.Path+" "+module.Version)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the bill lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, module := range []string{pluginModule + " " + s.version, "github.com/caddyserver/caddy/v2 v", "golang.org/x/oauth2 v", "go.uber.org/zap v"} {
		if !slices.ContainsFunc(got, func(line string) bool { return strings.HasPrefix(line, module) }) {
			t.Errorf("the bill lacks %s", module)
		}
	}
}

// TestReleaseRefuses requests a release that would not be what its version says.
func TestReleaseRefuses(t *testing.T) {
	t.Parallel()
	s := taggedSources(t)
	wantRefused := func(version, dir, message string) {
		t.Helper()
		out, err := s.releaseCommand(version, dir).CombinedOutput()
		if err == nil || !strings.Contains(string(out), message) {
			t.Errorf("%v, %s, want %q", err, out, message)
		}
	}
	unused := filepath.Join(t.TempDir(), "dist")
	wantRefused("1.0", unused, "1.0 is no version")
	wantRefused("v9.9.9", unused, "there is no tag v9.9.9")
	wantRefused(s.version, t.TempDir(), "there is already a ")
	s.git(t, "tag", "v0.0.2")
	wantRefused("v0.0.2", unused, "CHANGELOG.md has no section for 0.0.2")
	harness.WriteFile(t, filepath.Join(s.dir, "new.go"), "package httphelper\n")
	wantRefused(s.version, unused, "there are changes that are not committed")
	s.git(t, "add", "--all")
	s.git(t, "commit", "--quiet", "--message", "More")
	wantRefused(s.version, unused, "the tag "+s.version+" is not what is checked out")
}
