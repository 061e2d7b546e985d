package integration

import (
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// unitLine finds the value of a setting of the systemd unit.
func unitLine(t *testing.T, setting string) string {
	t.Helper()
	for line := range strings.Lines(deployedFile(t, "systemd/http-helper.service")) {
		if value, ok := strings.CutPrefix(line, setting+"="); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("the unit has no %s", setting)
	return ""
}

// TestSystemdUnitIsSound has systemd check the unit, and rate how well it is closed off.
func TestSystemdUnitIsSound(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("there is no systemd-analyze here")
	}
	unit := filepath.Join(t.TempDir(), "http-helper.service")
	// It looks for the program.
	harness.WriteFile(t, unit, strings.ReplaceAll(deployedFile(t, "systemd/http-helper.service"), "/usr/local/bin/caddy", harness.Caddy(t)))
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	// From 0 (closed off) to 100.
	if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", unit).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSystemdStartAndReload starts and reloads the sidecar with the commands of the unit, in the
// surroundings that systemd gives it.
func TestSystemdStartAndReload(t *testing.T) {
	t.Parallel()
	equal(t, "type", unitLine(t, "Type"), "notify")
	s := here(t, deployedFile(t, "systemd/Caddyfile"))
	s.provide(t)
	notify := filepath.Join(s.Dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	file := s.File(t, "Caddyfile", s.caddyfile)
	command := func(setting string) *exec.Cmd {
		line := strings.NewReplacer("/usr/local/bin/caddy", harness.Caddy(t), "/etc/http_helper/Caddyfile", file,
			"/run/http_helper/admin.sock", s.AdminSocket()).Replace(unitLine(t, setting))
		args := strings.Fields(line)
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = []string{
			"NOTIFY_SOCKET=" + notify, "XDG_CONFIG_HOME=" + s.Dir, "XDG_DATA_HOME=" + s.Dir,
		}
		return cmd
	}
	harness.Background(t, command("ExecStart"))
	awaitNotice(t, socket, "READY=1")
	s.wantToken(t)
	output(t, command("ExecReload"))
	awaitNotice(t, socket, "RELOADING=1")
	awaitNotice(t, socket, "READY=1")
	s.wantToken(t) // the same one
}

// awaitNotice reads what the sidecar tells systemd until it says what is wanted.
func awaitNotice(t *testing.T, socket *net.UnixConn, want string) {
	t.Helper()
	_ = socket.SetReadDeadline(time.Now().Add(harness.Timeout))
	message := make([]byte, 4<<10)
	for {
		n, err := socket.Read(message)
		if err != nil {
			t.Fatalf("systemd is not told %s: %v", want, err)
		}
		if slices.Contains(strings.Split(string(message[:n]), "\n"), want) {
			return
		}
	}
}
