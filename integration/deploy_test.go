package integration

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// deployedFile reads one of the files below deploy/.
func deployedFile(t *testing.T, name string) string {
	t.Helper()
	return readShipped(t, filepath.Join("deploy", name))
}

// site is a Caddyfile of deploy/ that was made to run on this machine: its addresses are those of
// the test's own servers, and its paths lie in the test's directory.
type site struct {
	*world
	health    string // host:port of the probes' site, if the Caddyfile has one
	caddyfile string
}

// here changes a shipped Caddyfile into one that runs in a directory; nothing else is changed.
func here(t *testing.T, caddyfile string) site {
	t.Helper()
	w := newWorld(t, nil)
	_, port, _ := net.SplitHostPort(w.Addr)
	s := site{world: w, health: "127.0.0.1:" + harness.Port(t)}
	_, healthPort, _ := net.SplitHostPort(s.health)
	changes := []string{
		"https://api.example.com", w.api.URL,
		"https://auth.example.com/oauth2/token", w.tokens.URL,
		":8080 {", ":" + port + " {",
		":8081 {", ":" + healthPort + " {",
		"unix//run/http_helper/admin.sock", "unix/" + w.AdminSocket(),
		"/run/secrets", filepath.Join(w.Dir, "secrets"),
		"/etc/http_helper/secrets", filepath.Join(w.Dir, "secrets"),
	}
	for i := 0; i < 6; i += 2 {
		if !strings.Contains(caddyfile, changes[i]) {
			t.Fatalf("the Caddyfile has no %s", changes[i])
		}
	}
	s.caddyfile = strings.NewReplacer(changes...).Replace(caddyfile)
	return s
}

// inside changes a shipped Caddyfile for a sidecar that has its paths to itself, in a container or
// under systemd: only addresses are changed. The sidecar runs as another user there, so its port is not
// one that the harness keeps.
func inside(t *testing.T, caddyfile string) (w *world, changed string) {
	t.Helper()
	w = newWorld(t, nil)
	port := harness.FreePort(t)
	w.URL = "http://127.0.0.1:" + port
	return w, strings.NewReplacer("https://api.example.com", w.api.URL, "https://auth.example.com/oauth2/token", w.tokens.URL,
		":8080 {", ":"+port+" {").Replace(caddyfile)
}

// provide writes the files in which the shipped Caddyfiles look for secrets.
func (s site) provide(t *testing.T) {
	t.Helper()
	dir := filepath.Join(s.Dir, "secrets", "http_helper")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	harness.WriteFile(t, filepath.Join(dir, "client_id"), "my-app")
	harness.WriteFile(t, filepath.Join(dir, "client_secret"), secret)
	harness.WriteFile(t, filepath.Join(s.Dir, "secrets", "client_secret"), secret)
}

// wantToken checks that a request comes back, with the secret of the file and nothing else's.
func (s site) wantToken(t *testing.T) {
	t.Helper()
	s.wantOK(t)
	id, password, _ := (&http.Request{Header: s.tokens.Only(t).Header}).BasicAuth()
	equal(t, "client", id+" "+password, "my-app "+secret)
	equal(t, "request", s.api.Last(t).RequestURI, "/v2/hello")
}

// helmCaddyfile is the Caddyfile in the values of the Helm example.
func helmCaddyfile(t *testing.T) string {
	t.Helper()
	var values struct {
		HTTPHelper struct{ Caddyfile string } `yaml:"httpHelper"`
	}
	if err := yaml.Unmarshal([]byte(deployedFile(t, "kubernetes/helm/example/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	return values.HTTPHelper.Caddyfile
}

// TestDeployedCaddyfilesServe runs each Caddyfile of deploy/ as it is, but for addresses and paths.
func TestDeployedCaddyfilesServe(t *testing.T) {
	t.Parallel()
	for name, caddyfile := range map[string]string{
		"kubernetes": deployedFile(t, "kubernetes/example/Caddyfile"),
		"helm":       helmCaddyfile(t),
		"systemd":    deployedFile(t, "systemd/Caddyfile"),
		"compose":    deployedFile(t, "compose/Caddyfile"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := here(t, caddyfile)
			s.provide(t)
			s.Run(t, harness.Config{Whole: s.caddyfile})
			s.wantToken(t)
			if strings.Contains(caddyfile, ":8081") {
				s.wantProbes(t)
			}
			s.wantNothingWritten(t)
		})
	}
}

// wantProbes makes the requests of the kubelet and of Prometheus.
func (s site) wantProbes(t *testing.T) {
	t.Helper()
	for path, want := range map[string]int{"/live": 200, "/ready": 200, "/metrics": 200, "/hello": 404} {
		status, text := s.probe(t, "http://"+s.health+path)
		equal(t, "status of "+path, status, want)
		if path == "/metrics" && !strings.Contains(text, `caddy_http_helper_requests_total{connection="orders",outcome="sent"} 1`) {
			t.Errorf("the metrics do not count the request:\n%s", text)
		}
	}
}

// probe makes a request to a site of probes, which may be up a moment later than the app's.
func (w *world) probe(t *testing.T, url string) (status int, text string) {
	t.Helper()
	eventually(t, "the site of the probes responds", func() bool {
		response, err := harness.Get(w.Client, url)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		status, text = response.StatusCode, response.Text
		return true
	})
	return status, text
}

// wantNothingWritten checks that the sidecar leaves nothing on disk but its socket.
func (s site) wantNothingWritten(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); name != "Caddyfile" && name != "secrets" && name != "admin.sock" {
			t.Errorf("the sidecar has made %s", name)
		}
	}
}

// TestReadinessFollowsTheTokenEndpoint makes the requests of the pod's probes while no token can be had, and afterwards.
func TestReadinessFollowsTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	s := here(t, deployedFile(t, "kubernetes/example/Caddyfile"))
	s.provide(t)
	s.tokens.RespondWith(harness.Status(http.StatusServiceUnavailable))
	s.Run(t, harness.Config{Whole: s.caddyfile})
	status := func(path string) int {
		status, _ := s.probe(t, "http://"+s.health+path)
		return status
	}
	eventually(t, "the pod is not ready", func() bool { return status("/ready") == http.StatusServiceUnavailable })
	equal(t, "liveness", status("/live"), http.StatusOK)
	s.tokens.RespondWith(s.tokens.Grant(time.Hour))
	eventually(t, "the pod is ready", func() bool { return status("/ready") == http.StatusOK })
}

// TestCompose has the compose file checked by the library of Docker Compose: as it is, and with the app's ports
// where the comment has them.
func TestCompose(t *testing.T) {
	t.Parallel()
	shipped := deployedFile(t, "compose/compose.yaml")
	check := func(text string) ([]byte, error) {
		file := filepath.Join(t.TempDir(), "compose.yaml")
		harness.WriteFile(t, file, text)
		return composeCheck.command(t, file).CombinedOutput()
	}
	ports := strings.Replace(shipped, "# ports:", "ports:", 1)
	for _, text := range []string{shipped, ports} {
		out, err := check(text)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var project struct{ Services map[string]composeService }
		if err := yaml.Unmarshal(out, &project); err != nil {
			t.Fatal(err)
		}
		sidecar, app := project.Services["http-helper"], project.Services["app"]
		equal(t, "network of the app", app.NetworkMode, "service:http-helper")
		equal(t, "a new sidecar restarts the app", app.DependsOn["http-helper"].Restart, true)
		equal(t, "a read-only sidecar", sidecar.ReadOnly, true)
		equal(t, "secrets", fmt.Sprint(sidecar.Secrets, app.Secrets), "[{client_secret /run/secrets/client_secret}] []")
		equal(t, "ports", fmt.Sprint(sidecar.Ports, app.Ports), map[bool]string{true: "[{127.0.0.1 3000 3000}] []", false: "[] []"}[text == ports])
	}
	if _, err := check(strings.Replace(shipped, "read_only", "readonly", 1)); err == nil {
		t.Error("a compose file with a mistake passes")
	}
}

// composeService is what the tests look at in a service.
type composeService struct {
	NetworkMode string                            `yaml:"network_mode"`
	ReadOnly    bool                              `yaml:"read_only"`
	DependsOn   map[string]struct{ Restart bool } `yaml:"depends_on"`
	Secrets     []struct{ Source, Target string }
	Ports       []struct {
		HostIP            string `yaml:"host_ip"`
		Target, Published string
	}
}
