// Package harness runs the built sidecar, stand-ins for token endpoints and APIs, and real
// authorization servers, for tests and benchmarks. Everything listens on loopback, on ports that
// the kernel gives, and ends with the test.
package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Root is the repository's directory: tests run in the directory of their package, below
// integration/.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for filepath.Base(dir) != "integration" {
		if dir == filepath.Dir(dir) {
			panic("the tests run outside integration/")
		}
		dir = filepath.Dir(dir)
	}
	return filepath.Dir(dir)
}

// program is a Go program of this module or of one beside it, built once.
type program struct {
	dir, name string
	flags     []string

	once sync.Once
	path string
	err  error
}

var (
	caddyProgram    = &program{dir: "integration/cmd/caddy", name: "caddy" + raceSuffix, flags: caddyFlags()}
	caddyS3Program  = &program{dir: "integration/cmd/caddys3", name: "caddys3" + raceSuffix, flags: caddyFlags()}
	hydraProgram    = &program{dir: "integration/hydra", name: "hydra", flags: []string{"-tags", "sqlite,sqlite_omit_load_extension"}}
	goOAuth2Program = &program{dir: "integration/gooauth2", name: "gooauth2"}
)

func caddyFlags() []string {
	flags := []string{"-tags", "nobadger,nomysql,nopgx"}
	if Race {
		flags = append(flags, "-race")
	}
	return flags
}

// build returns the path of the program. A build that is up to date costs next to nothing.
func (p *program) build(tb testing.TB) string {
	tb.Helper()
	p.once.Do(func() {
		p.path = filepath.Join(Root(), ".tools", "test", p.name)
		args := append([]string{"build", "-o", p.path}, p.flags...)
		cmd := exec.Command("go", append(args, ".")...)
		cmd.Dir = filepath.Join(Root(), p.dir)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			p.err = fmt.Errorf("building %s: %v\n%s", p.name, err, out)
		}
	})
	if p.err != nil {
		tb.Fatal(p.err)
	}
	return p.path
}

// Caddy returns the path of the sidecar: the one that the environment variable CADDY names, or one
// built from the sources, with the race detector when the tests have it.
func Caddy(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv("CADDY"); path != "" {
		return path
	}
	return caddyProgram.build(tb)
}

// CaddyWithS3 returns the path of a sidecar that can store tokens in S3.
func CaddyWithS3(tb testing.TB) string {
	tb.Helper()
	return caddyS3Program.build(tb)
}
