package integration

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// booted is a systemd that is process 1 in namespaces of its own. It has the programs of this machine,
// an empty disk, and the directory of the test at /src.
type booted struct{ leader string }

// boot starts one, which ends with the test. Where that is not possible the test is skipped.
func boot(t *testing.T, dir string) booted {
	t.Helper()
	n := newNamespace(t, "systemd", "systemd-container")
	nspawn := harness.Background(t, n.command("/", "systemd-nspawn", "--quiet", "--directory=/", "--volatile=yes", "--tmpfs=/usr/local/bin:mode=0755",
		"--bind-ro="+dir+":/src", "--machine=http-helper", "--register=no", "--keep-unit", "--console=pipe", "--boot", "--", "--unit=basic.target"))
	t.Cleanup(func() { // SIGTERM, which the harness sends, would shut down all of it in order
		nspawn.Signal(os.Interrupt)
		nspawn.Wait(t)
	})
	var b booted
	eventually(t, "systemd has started, or cannot", func() bool {
		select {
		case <-nspawn.Exited():
			t.Skipf("systemd cannot be started here: %s", nspawn.Logs())
		default:
		}
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", nspawn.Pid()))
		if err != nil {
			t.Skipf("it cannot be seen here where systemd runs: %v", err)
		}
		b.leader = strings.TrimSpace(string(children))
		return b.leader != "" && b.command("systemctl is-active --quiet basic.target").Run() == nil
	})
	return b
}

// command runs a script where systemd is process 1.
func (b booted) command(script string) *exec.Cmd {
	return exec.Command("nsenter", "--target", b.leader, "--all", "--", "sh", "-ec", "cd /src\n"+script)
}

func (b booted) run(t *testing.T, script string) string {
	t.Helper()
	return output(t, b.command(script))
}

// appUnit is an app that needs the sidecar as soon as it starts and until it has ended. It says when a
// request of its own has failed, and continues.
const appUnit = `[Unit]
$DEPENDENCIES
[Service]
ExecStart=/bin/sh -c 'curl --silent --fail $URL/started && while sleep 0.05; do curl --silent --fail $URL/working || echo a request failed; done'
ExecStop=/usr/bin/curl --silent --fail $URL/stopping
`

// TestSystemd installs the unit with the commands of the documentation on a running systemd, and has
// it start, reload, crash and stop there, beside an app.
func TestSystemd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, caddyfile := inside(t, deployedFile(t, "systemd/Caddyfile"))
	caddy, err := staticCaddy()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "deploy/systemd"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"caddy":                              readFile(t, caddy),
		"client_secret":                      secret,
		"deploy/systemd/Caddyfile":           caddyfile,
		"deploy/systemd/http-helper.service": deployedFile(t, "systemd/http-helper.service"),
		"app.service":                        strings.NewReplacer("$URL", w.URL, "$DEPENDENCIES", documentedDependencies(t)).Replace(appUnit),
	} {
		harness.WriteFile(t, filepath.Join(dir, name), content)
	}
	b := boot(t, dir)

	b.run(t, documented(t, "docs/deployment.md", "systemctl enable"))
	w.wantOK(t) // systemd says that the unit has started when the sidecar listens
	b.wantHardened(t)
	if table := b.run(t, "caddy http-helper list --address unix//run/http_helper/admin.sock"); !strings.Contains(table, "ready") {
		t.Errorf("the documented command prints\n%s", table)
	}
	if response := b.run(t, documented(t, "docs/operations.md", "curl --unix-socket")); !strings.Contains(response, `"state":"ready"`) {
		t.Errorf("the documented command prints\n%s", response)
	}

	b.run(t, "sed -i 's/scopes orders.read/&\\n\\t\\trefresh_before 1m/' /etc/http_helper/Caddyfile && systemctl reload http-helper")
	w.wantOK(t)
	equal(t, "token requests", w.tokens.Count(), 1)

	b.run(t, "systemctl kill --signal=KILL http-helper")
	eventually(t, "the sidecar is back after a crash", func() bool {
		response, err := w.Client.Get(w.URL + "/hello")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	equal(t, "restarts", b.run(t, "systemctl show --property=NRestarts --value http-helper"), "1\n")

	b.run(t, "cp app.service /etc/systemd/system && systemctl daemon-reload && systemctl start app")
	const rotated = "r0tated-s3cret"
	b.wantRotation(t, w, rotated)
	b.wantAppGoesOn(t, w)
	// Everything stops at once, as when the machine shuts down.
	b.run(t, `printf '[Unit]\nRequires=basic.target\nAllowIsolate=yes\n' >/run/systemd/system/halfway.target`)
	b.run(t, "systemctl daemon-reload && systemctl isolate halfway.target")
	eventually(t, "the sidecar has stopped", func() bool {
		return b.run(t, "systemctl show --property=ActiveState,Result --value http-helper") == "success\ninactive\n"
	})
	equal(t, "the API has seen the app stop", slices.ContainsFunc(w.api.Requests(), func(r harness.APIRequest) bool { return r.RequestURI == "/v2/stopping" }), true)
	equal(t, "the app", b.run(t, "systemctl show --property=ActiveState,Result --value app"), "success\ninactive\n")

	journal := b.run(t, "journalctl --unit=http-helper")
	for _, unwanted := range []string{secret, rotated, `"level":"error"`, "$HOME", "permission denied", "read-only file system"} {
		if strings.Contains(journal, unwanted) {
			t.Errorf("the journal has %s:\n%s", unwanted, journal)
		}
	}
}

// documentedDependencies are the lines that the documentation has the app's unit say.
func documentedDependencies(t *testing.T) string {
	t.Helper()
	block := regexp.MustCompile("(?ms)^```ini\n\\[Unit\\]\n(.*?)^```$").FindStringSubmatch(readShipped(t, "docs/deployment.md"))
	if block == nil {
		t.Fatal("docs/deployment.md does not show the app's unit")
	}
	return block[1]
}

// wantRotation replaces the secret with the commands of the documentation while the app makes requests: both
// processes go on, and no request fails.
func (b booted) wantRotation(t *testing.T, w *world, rotated string) {
	t.Helper()
	const processes = "systemctl show --property=MainPID --value http-helper app"
	before := b.run(t, processes)
	rotate := strings.ReplaceAll(documented(t, "docs/deployment.md", "client_secret.new"), "api.example.com", "127.0.0.1")
	// /src is read-only here.
	b.run(t, "cd /tmp && printf "+rotated+" >client_secret && "+rotate+"rm client_secret")
	requests := w.tokens.Requests()
	_, password, _ := (&http.Request{Header: requests[len(requests)-1].Header}).BasicAuth()
	equal(t, "secret after the rotation", password, rotated)
	w.wantWorking(t)
	equal(t, "processes", b.run(t, processes), before)
	if journal := b.run(t, "journalctl --unit=app"); strings.Contains(journal, "a request failed") {
		t.Errorf("the rotation has cost a request:\n%s", journal)
	}
}

// wantWorking waits until the app has made another request.
func (w *world) wantWorking(t *testing.T) {
	t.Helper()
	before := w.api.Count()
	eventually(t, "the app makes requests", func() bool { return w.api.Count() > before && w.api.Last(t).RequestURI == "/v2/working" })
}

// wantAppGoesOn restarts the sidecar, which is no reason to restart the app.
func (b booted) wantAppGoesOn(t *testing.T, w *world) {
	t.Helper()
	const process = "systemctl show --property=MainPID --value app"
	before := b.run(t, process)
	b.run(t, "systemctl restart http-helper")
	w.wantWorking(t)
	equal(t, "the app's process", b.run(t, process), before)
}

// wantHardened looks at the process and its files as they are under systemd.
func (b booted) wantHardened(t *testing.T) {
	t.Helper()
	status := b.run(t, `cat /proc/"$(systemctl show --property=MainPID --value http-helper)"/status`)
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("the process lacks %s:\n%s", want, status)
		}
	}
	rating := regexp.MustCompile(`Overall exposure level for http-helper\.service: (\S+)`).FindStringSubmatch(b.run(t, "systemd-analyze security --no-pager http-helper"))
	if rating == nil {
		t.Fatal("systemd does not rate the exposure")
	}
	if want := "rates its exposure " + rating[1] + " "; !strings.Contains(readShipped(t, "docs/deployment.md"), want) {
		t.Errorf("docs/deployment.md does not say that systemd %s", want)
	}
	_, uid, _ := strings.Cut(status, "Uid:\t")
	// The range that systemd takes dynamic users from.
	if id, _ := strconv.Atoi(strings.Fields(uid)[0]); id < 61184 || id > 65519 {
		t.Errorf("the process has no user of its own: %s", uid)
	}
	for _, path := range []string{"/run/http_helper/admin.sock", "/etc/http_helper/secrets/client_secret"} {
		script := "test -e " + path + " && ! setpriv --reuid=1000 --regid=1000 --clear-groups test -e " + path
		if out, err := b.command(script).CombinedOutput(); err != nil {
			t.Errorf("other users get at %s, or it is not there: %v %s", path, err, out)
		}
	}
}
