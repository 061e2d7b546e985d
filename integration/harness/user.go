package harness

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// User uses caddy on the command line, with a home directory of their own and nothing of the
// developer's.
type User struct {
	Home    string // also the working directory
	Runtime string // the runtime directory
	Env     []string
}

// NewUser makes a user, who is removed when the test ends.
func NewUser(tb testing.TB) *User {
	tb.Helper()
	home := socketDir(tb)
	runtime := filepath.Join(home, "runtime")
	if err := os.Mkdir(runtime, 0o700); err != nil {
		tb.Fatal(err)
	}
	return &User{Home: home, Runtime: runtime, Env: []string{"HOME=" + home, "XDG_RUNTIME_DIR=" + runtime, "PATH=" + os.Getenv("PATH"), "TERM=xterm-256color"}}
}

// Result is what a command has printed, and its exit status.
type Result struct {
	Stdout, Stderr string
	Status         int
}

// Command is a `caddy http-helper` command of the user's.
func (u *User) Command(tb testing.TB, args ...string) *exec.Cmd {
	tb.Helper()
	return u.Program(Caddy(tb), append([]string{"http-helper"}, args...)...)
}

// Program is any command of the user's.
func (u *User) Program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = u.Home, u.Env
	return cmd
}

// Run runs a `caddy http-helper` command to its end.
func (u *User) Run(tb testing.TB, args ...string) Result {
	tb.Helper()
	return Execute(tb, u.Command(tb, args...))
}

// Running is a command that runs until it is ended.
type Running struct{ *process }

// Start starts a `caddy http-helper` command.
func (u *User) Start(tb testing.TB, args ...string) Running {
	tb.Helper()
	return Background(tb, u.Command(tb, args...))
}

// Background starts a command that ends with the test.
func Background(tb testing.TB, cmd *exec.Cmd) Running {
	tb.Helper()
	return Running{startProcess(tb, cmd)}
}

// Execute runs a command to its end.
func Execute(tb testing.TB, cmd *exec.Cmd) Result {
	tb.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		tb.Fatal(err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Status: cmd.ProcessState.ExitCode()}
}

// File writes a file of the user's, and returns its path.
func (u *User) File(tb testing.TB, name, content string) string {
	tb.Helper()
	path := filepath.Join(u.Home, name)
	WriteFile(tb, path, content)
	return path
}

// InstallCaddy puts `caddy` into the PATH of the user's shell.
func (u *User) InstallCaddy(tb testing.TB) {
	tb.Helper()
	bin := filepath.Join(u.Home, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.Symlink(Caddy(tb), filepath.Join(bin, "caddy")); err != nil {
		tb.Fatal(err)
	}
	u.Env = append(u.Env, "PATH="+bin+":"+os.Getenv("PATH"))
}
