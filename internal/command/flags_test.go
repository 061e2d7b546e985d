package command

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestShellWord(t *testing.T) {
	for word, want := range map[string]string{"unix//run/a.sock": "unix//run/a.sock", "a b": "'a b'", "it's": `'it'\''s'`, "": "''", "$x": "'$x'"} {
		if got := shellWord(word); got != want {
			t.Errorf("%q becomes %s", word, got)
		}
	}
}

func TestParseFrom(t *testing.T) {
	for from, want := range map[string]sidecarAddress{
		":8080":                 {"tcp", "127.0.0.1:8080", "http://:8080", "127.0.0.1", "8080"},
		"localhost:80":          {"tcp", "localhost:80", "http://:80", "localhost", "80"},
		"http://127.0.0.1:9000": {"tcp", "127.0.0.1:9000", "http://:9000", "127.0.0.1", "9000"},
		"[::1]:8080":            {"tcp", "[::1]:8080", "http://:8080", "[::1]", "8080"},
		"0.0.0.0:8080":          {"tcp", "0.0.0.0:8080", "http://:8080", "0.0.0.0", "8080"},
		"unix//run/a.sock":      {"unix", "/run/a.sock", "http://", "unix//run/a.sock", "unix"},
		"/run/a.sock":           {"unix", "/run/a.sock", "http://", "unix//run/a.sock", "unix"},
	} {
		if got, err := parseFrom(from); got != want || err != nil {
			t.Errorf("%s: %+v %v", from, got, err)
		}
	}
}

// The file is the user's alone, and one that is there stays as it is.
func TestMakeCallerToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "caller token")
	for _, o := range []runOptions{{}, {callerTokenFile: path}} {
		if err := o.makeCallerToken(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := os.ReadFile(path)
	if info.Mode() != 0o600 || !regexp.MustCompile(`^[A-Z2-7]{52}\n$`).Match(first) {
		t.Errorf("mode %v, %d bytes", info.Mode(), len(first))
	}
	other := runOptions{callerTokenFile: path + "2"}
	if err := other.makeCallerToken(); err != nil {
		t.Fatal(err)
	}
	if second, _ := os.ReadFile(other.callerTokenFile); string(second) == string(first) {
		t.Error("two files have the same token")
	}

	for _, content := range []string{"mine\n", ""} {
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := (&runOptions{callerTokenFile: path}).makeCallerToken(); err != nil {
			t.Error(err)
		}
		info, _ := os.Stat(path)
		if got, _ := os.ReadFile(path); string(got) != content || info.Mode() != 0o640 {
			t.Errorf("%q, %v", got, info.Mode())
		}
	}
	link := path + "-link"
	if err := os.Symlink(path+"-target", link); err != nil {
		t.Fatal(err)
	}
	if err := (&runOptions{callerTokenFile: link}).makeCallerToken(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path + "-target"); err == nil {
		t.Error("a file was made through a symbolic link")
	}
	nowhere := runOptions{callerTokenFile: filepath.Join(path, "x")}
	if err := nowhere.makeCallerToken(); err == nil || !strings.Contains(err.Error(), "--caller-token-file: making it: ") {
		t.Error(err)
	}
}

func TestCurlWithACallerToken(t *testing.T) {
	for from, want := range map[string]string{
		":8080":       `curl --header "Proxy-Authorization: Bearer $(head -n 1 'my token')" http://127.0.0.1:8080/`,
		"/run/a.sock": `curl --header "Proxy-Authorization: Bearer $(head -n 1 'my token')" --unix-socket /run/a.sock http://localhost/`,
	} {
		listen, err := parseFrom(from)
		if err != nil {
			t.Fatal(err)
		}
		if got := listen.curl("my token"); got != want {
			t.Errorf("%s: %s", from, got)
		}
	}
}

// The socket is in a directory that only the user can enter. What is left there by others goes.
func TestAdminSocket(t *testing.T) {
	runtime, err := os.MkdirTemp("", "cli")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(runtime) })
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	t.Setenv("XDG_CACHE_HOME", runtime)
	address, err := newAdminSocket(sidecarAddress{label: "8080"})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(runtime, "http_helper")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 || !strings.HasPrefix(address, "unix/"+dir+"/run-8080-") {
		t.Errorf("the directory of %s: %v %v", address, info, err)
	}
	for name, unlink := range map[string]bool{"run-1-1.sock": false, "run-2-2.sock": true} {
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name)})
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		if !unlink {
			listener.SetUnlinkOnClose(false)
			_ = listener.Close()
		}
	}
	removeLeftSockets()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 || filepath.Base(left[0]) != "run-2-2.sock" {
		t.Errorf("left: %v", left)
	}
}

func TestNoPlaceForAdminSocket(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", file)
	t.Setenv("XDG_CACHE_HOME", filepath.Join(t.TempDir(), strings.Repeat("x", 100)))
	if _, err := newAdminSocket(sidecarAddress{label: "1"}); err == nil || !strings.Contains(err.Error(), "--admin") {
		t.Error(err)
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	if _, err := newAdminSocket(sidecarAddress{label: "1"}); err == nil {
		t.Error("there is a place")
	}
}

func TestSecretFromStandardInput(t *testing.T) {
	for stdin, want := range map[string]string{"s3cret": "s3cret", "s3cret\n": "s3cret", "s3cret\r\n": "s3cret", " a b \n": " a b "} {
		cmd := new(cobra.Command)
		cmd.SetIn(strings.NewReader(stdin))
		if got, err := readStdinSecret(cmd); got != want || err != nil {
			t.Errorf("%q: %q %v", stdin, got, err)
		}
	}
	cmd := new(cobra.Command)
	for _, stdin := range []io.Reader{strings.NewReader(""), strings.NewReader("\n")} {
		cmd.SetIn(stdin)
		if got, err := readStdinSecret(cmd); err == nil {
			t.Errorf("got %q", got)
		}
	}
}

// Errors name flags, but what is in paths, URLs and values stays as it is.
func TestErrorsNameFlags(t *testing.T) {
	for message, want := range map[string]string{
		"token_url: not a URL": "--token-url: not a URL",
		"connection x: base_url is http, see allow_insecure base_url":               "connection x: --to is http, see --allow-insecure",
		"reading file /etc/client_id: gone":                                         "reading file /etc/client_id: gone",
		"auth_method client_secret_basic needs client_secret or client_secret_file": "--auth-method client_secret_basic needs --client-secret-env or --client-secret-file",
		"https://token_url.example":                                                 "https://token_url.example",
	} {
		if got := asFlags(message); got != want {
			t.Errorf("%s became %s, want %s", message, got, want)
		}
	}
}
