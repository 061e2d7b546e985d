package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
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
	}
	for i := 0; i < 6; i += 2 {
		if !strings.Contains(caddyfile, changes[i]) {
			t.Fatalf("the Caddyfile has no %s", changes[i])
		}
	}
	s.caddyfile = strings.NewReplacer(changes...).Replace(caddyfile)
	return s
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

// TestDeployedCaddyfilesAnswer runs each Caddyfile of deploy/ as it is, but for addresses and paths.
func TestDeployedCaddyfilesAnswer(t *testing.T) {
	t.Parallel()
	for name, caddyfile := range map[string]string{
		"kubernetes": deployedFile(t, "kubernetes/component/Caddyfile"),
		"helm":       helmCaddyfile(t),
		"systemd":    deployedFile(t, "systemd/Caddyfile"),
		"compose":    deployedFile(t, "compose/Caddyfile"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := here(t, caddyfile)
			s.provide(t)
			credentials := "CREDENTIALS_DIRECTORY=" + filepath.Join(s.Dir, "secrets")
			s.Run(t, harness.Config{Whole: s.caddyfile, Env: []string{credentials}})
			s.wantToken(t)
			if strings.Contains(caddyfile, ":8081") {
				s.wantProbes(t)
			}
			s.wantNothingWritten(t)
		})
	}
}

// wantProbes asks what the kubelet and Prometheus ask.
func (s site) wantProbes(t *testing.T) {
	t.Helper()
	for path, want := range map[string]int{"/live": 200, "/ready": 200, "/metrics": 200, "/hello": 404} {
		status, text := s.probe(t, path)
		equal(t, "status of "+path, status, want)
		if path == "/metrics" && !strings.Contains(text, `caddy_http_helper_requests_total{connection="orders",outcome="sent"} 1`) {
			t.Errorf("the metrics do not count the request:\n%s", text)
		}
	}
}

// probe asks the site of the probes. It may be up a moment later than the app's.
func (s site) probe(t *testing.T, path string) (status int, text string) {
	t.Helper()
	eventually(t, "the site of the probes answers", func() bool {
		res, err := s.Client.Get("http://" + s.health + path)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		status, text = res.StatusCode, string(body)
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

// TestReadinessFollowsTheTokenEndpoint asks the pod's probes while no token can be had, and after.
func TestReadinessFollowsTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	s := here(t, deployedFile(t, "kubernetes/component/Caddyfile"))
	s.provide(t)
	s.tokens.Answer(harness.Status(http.StatusServiceUnavailable))
	s.Run(t, harness.Config{Whole: s.caddyfile})
	status := func(path string) int {
		status, _ := s.probe(t, path)
		return status
	}
	eventually(t, "the pod is not ready", func() bool { return status("/ready") == http.StatusServiceUnavailable })
	equal(t, "liveness", status("/live"), http.StatusOK)
	s.tokens.Answer(s.tokens.Grant(time.Hour))
	eventually(t, "the pod is ready", func() bool { return status("/ready") == http.StatusOK })
}

// TestKubernetesManifests renders the kustomize component and the Helm library in their examples, and
// has the results checked against the schemas of Kubernetes.
func TestKubernetesManifests(t *testing.T) {
	t.Parallel()
	for name, render := range map[string]func(*testing.T) string{"kustomize": renderKustomize, "helm": renderHelm} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			manifests := render(t)
			if out, err := validateManifests(t, manifests); err != nil {
				t.Errorf("%v\n%s\n%s", err, out, manifests)
			}
			// A check that finds nothing proves nothing.
			if _, err := validateManifests(t, strings.Replace(manifests, "readinessProbe", "readynessProbe", 1)); err == nil {
				t.Error("a manifest with a mistake passes")
			}
			wantSidecarApart(t, manifests)
		})
	}
}

func renderKustomize(t *testing.T) string {
	t.Helper()
	return output(t, kustomize.command(t, "build", filepath.Join(harness.Root(), "deploy/kubernetes/example")))
}

func renderHelm(t *testing.T) string {
	t.Helper()
	dir := t.TempDir() // helm puts the library into the chart
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(harness.Root(), "deploy/kubernetes/helm"))); err != nil {
		t.Fatal(err)
	}
	chart := filepath.Join(dir, "example")
	for _, cmd := range [][]string{{"dependency", "build", chart}, {"lint", "--strict", chart}} {
		output(t, helm.command(t, cmd...))
	}
	return output(t, helm.command(t, "template", "demo", chart))
}

func validateManifests(t *testing.T, manifests string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifests.yaml")
	harness.WriteFile(t, file, manifests)
	out, err := kubectlValidate.command(t, "--version", "1.30", file).CombinedOutput()
	return string(out), err
}

type container struct {
	Name          string
	RestartPolicy string `yaml:"restartPolicy"`
	VolumeMounts  []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
	SecurityContext struct {
		RunAsNonRoot             bool  `yaml:"runAsNonRoot"`
		ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
		AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
	} `yaml:"securityContext"`
}

// wantSidecarApart checks what keeps the app away from the secrets and the admin socket.
func wantSidecarApart(t *testing.T, manifests string) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(manifests))
	for {
		var manifest struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct {
						InitContainers, Containers []container `yaml:",omitempty"`
						Init                       []container `yaml:"initContainers"`
						ShareProcessNamespace      bool        `yaml:"shareProcessNamespace"`
					}
				}
			}
		}
		if err := decoder.Decode(&manifest); errors.Is(err, io.EOF) {
			t.Fatal("there is no Deployment")
		} else if err != nil {
			t.Fatal(err)
		}
		if manifest.Kind != "Deployment" {
			continue
		}
		pod := manifest.Spec.Template.Spec
		if len(pod.Init) != 1 || len(pod.Containers) != 1 {
			t.Fatalf("%d init containers and %d containers, want one each", len(pod.Init), len(pod.Containers))
		}
		sidecar := pod.Init[0]
		equal(t, "restart policy", sidecar.RestartPolicy, "Always")
		equal(t, "mounts of the sidecar", len(sidecar.VolumeMounts), 3)
		equal(t, "mounts of the app", len(pod.Containers[0].VolumeMounts), 0)
		equal(t, "shared process namespace", pod.ShareProcessNamespace, false)
		hardened := sidecar.SecurityContext
		equal(t, "non-root", hardened.RunAsNonRoot, true)
		equal(t, "read-only", hardened.ReadOnlyRootFilesystem, true)
		equal(t, "escalation refused", hardened.AllowPrivilegeEscalation != nil && !*hardened.AllowPrivilegeEscalation, true)
		return
	}
}

// TestCompose has the compose file checked by the library of Docker Compose.
func TestCompose(t *testing.T) {
	t.Parallel()
	file := filepath.Join(harness.Root(), "deploy/compose/compose.yaml")
	project := output(t, composeCheck.command(t, file))
	for _, want := range []string{"network_mode: service:http-helper", "read_only: true", "target: /run/secrets/client_secret"} {
		if !strings.Contains(project, want) {
			t.Errorf("the project lacks %q:\n%s", want, project)
		}
	}
	wrong := filepath.Join(t.TempDir(), "compose.yaml")
	harness.WriteFile(t, wrong, strings.Replace(deployedFile(t, "compose/compose.yaml"), "read_only", "readonly", 1))
	if err := composeCheck.command(t, wrong).Run(); err == nil {
		t.Error("a compose file with a mistake passes")
	}
}

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

// TestSystemdUnitIsSound has systemd check the unit, and judge how well it is closed off.
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
			"NOTIFY_SOCKET=" + notify, "CREDENTIALS_DIRECTORY=" + filepath.Join(s.Dir, "secrets"),
			"XDG_CONFIG_HOME=" + s.Dir, "XDG_DATA_HOME=" + s.Dir,
		}
		return cmd
	}
	startChild(t, command("ExecStart"))
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
	_ = socket.SetReadDeadline(time.Now().Add(harness.Patience))
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

// child is a process that ends with the test.
type child struct {
	*exec.Cmd
	mu   sync.Mutex
	text bytes.Buffer
	done chan struct{} // closed when it has ended
}

func startChild(t *testing.T, cmd *exec.Cmd) *child {
	t.Helper()
	c := &child{Cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = c, c
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(c.done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-c.done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-c.done
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", cmd.Path, c.logs())
		}
	})
	return c
}

// Write implements io.Writer.
func (c *child) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

func (c *child) logs() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// staticCaddy builds the sidecar as xcaddy.sh does, without the C library.
func staticCaddy(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "caddy")
	cmd := exec.Command("go", "build", "-o", path, "-trimpath", "-ldflags", "-s -w", "-tags", "nobadger,nomysql,nopgx", ".")
	cmd.Dir = filepath.Join(harness.Root(), "integration/cmd/caddy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	output(t, cmd)
	return path
}

// TestContainerImage builds the image without a container engine, checks it as a registry would, and
// runs what is in it: as nobody in particular, on a read-only root file system.
func TestContainerImage(t *testing.T) {
	t.Parallel()
	caddy := staticCaddy(t)
	image := buildImage(t, caddy)
	config, rootfs := unpackImage(t, image)
	equal(t, "user", config.User, "65532:65532")
	wantSameAsDockerfile(t, config)
	if again := buildImage(t, caddy); !bytes.Equal(image, again) {
		t.Error("the same inputs give another image")
	}
	t.Logf("the image has %d MiB, compressed", len(image)>>20)
	runImage(t, config, rootfs)
}

func buildImage(t *testing.T, caddy string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	cmd := exec.Command(filepath.Join(harness.Root(), "deploy/container/image.sh"), "oci", file)
	cmd.Env = append(os.Environ(), "CADDY="+caddy)
	output(t, cmd)
	image, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

type imageConfig struct {
	User                 string
	Env, Entrypoint, Cmd []string
}

type descriptor struct {
	Digest string
	Size   int64
}

// unpackImage follows the digests of an OCI archive, and unpacks its layer.
func unpackImage(t *testing.T, image []byte) (imageConfig, string) {
	t.Helper()
	files := map[string][]byte{}
	for header, content := range tarEntries(t, bytes.NewReader(image)) {
		files[strings.TrimPrefix(header.Name, "./")] = content
	}
	blob := func(d descriptor) []byte {
		content := files["blobs/"+strings.Replace(d.Digest, ":", "/", 1)]
		equal(t, "size of "+d.Digest, int64(len(content)), d.Size)
		equal(t, "digest", sha256Of(content), d.Digest)
		return content
	}
	var index struct{ Manifests []descriptor }
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	var config struct {
		Config imageConfig
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	parse(t, files["index.json"], &index)
	parse(t, blob(index.Manifests[0]), &manifest)
	parse(t, blob(manifest.Config), &config)
	zipped, err := gzip.NewReader(bytes.NewReader(blob(manifest.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(zipped)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "digest of the layer", sha256Of(layer), config.RootFS.DiffIDs[0])
	return config.Config, unpackLayer(t, layer)
}

func parse(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

func sha256Of(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func tarEntries(t *testing.T, r io.Reader) map[*tar.Header][]byte {
	t.Helper()
	entries := map[*tar.Header][]byte{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		entries[header] = content
	}
}

// unpackLayer checks that the layer has what it should and nothing else.
func unpackLayer(t *testing.T, layer []byte) string {
	t.Helper()
	rootfs := filepath.Join(t.TempDir(), "rootfs")
	var files []string
	for header, content := range tarEntries(t, bytes.NewReader(layer)) {
		path := filepath.Join(rootfs, header.Name)
		equal(t, "owner of "+header.Name, header.Uid, 0)
		if header.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		files = append(files, header.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, header.FileInfo().Mode()); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(files)
	equal(t, "files", strings.Join(files, " "), "./caddy ./etc/ssl/certs/ca-certificates.crt")
	return rootfs
}

// wantSameAsDockerfile compares the image with the other description of it.
func wantSameAsDockerfile(t *testing.T, config imageConfig) {
	t.Helper()
	list := func(words []string) string {
		quoted := make([]string, len(words))
		for i, word := range words {
			quoted[i] = strconv.Quote(word)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	dockerfile := deployedFile(t, "container/Dockerfile")
	for _, line := range []string{
		"FROM scratch", "USER " + config.User, "ENV " + strings.Join(config.Env, " "),
		"ENTRYPOINT " + list(config.Entrypoint), "CMD " + list(config.Cmd),
	} {
		if !strings.Contains(dockerfile, "\n"+line+"\n") {
			t.Errorf("the Dockerfile has no line %s", line)
		}
	}
}

// runImage runs the image as a container engine would, as far as files and users go.
func runImage(t *testing.T, config imageConfig, rootfs string) {
	t.Helper()
	enter, leave := []string{"unshare", "--mount"}, []string{"chroot", "--userspec=65532:65532", "--groups=", rootfs}
	if os.Geteuid() != 0 {
		if out, err := exec.Command("unshare", "--user", "--map-root-user", "--mount", "true").CombinedOutput(); err != nil {
			t.Skipf("this user may not make namespaces here: %s", out)
		}
		enter = []string{"unshare", "--user", "--map-root-user", "--mount"}
		leave = []string{"unshare", "--user", "--map-user=65532", "--map-group=65532", "--root=" + rootfs, "--wd=/"}
	}
	w := newWorld(t, nil)
	// The harness keeps its ports for this user, and the container's is another.
	port := freePort(t)
	w.URL = "http://127.0.0.1:" + port
	caddyfile := strings.NewReplacer("https://api.example.com", w.api.URL, "https://auth.example.com/oauth2/token", w.tokens.URL, ":8080 {", ":"+port+" {").
		Replace(deployedFile(t, "compose/Caddyfile"))
	for path, content := range map[string]string{"etc/http_helper/Caddyfile": caddyfile, "run/secrets/client_secret": secret} {
		file := filepath.Join(rootfs, path)
		harness.WriteFile(t, file, content)
		if err := os.Chmod(file, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(rootfs, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	openPath(t, rootfs)
	// What engines mount, a tmpfs for the admin socket, and everything else read-only.
	script := `mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount --rbind /proc "$1/proc" &&
		mount -t tmpfs -o mode=1777 tmpfs "$1/run/http_helper" && shift && exec "$@"`
	args := slices.Concat(enter, []string{"sh", "-c", script, "sh", rootfs}, leave, config.Entrypoint, config.Cmd)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, config.Env...)
	began := time.Now()
	c := startChild(t, cmd)
	w.awaitAnswer(t, c)
	took := time.Since(began)
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	wantHarmless(t, string(status))
	if logs := c.logs(); strings.Contains(logs, "read-only file system") || strings.Contains(logs, "permission denied") || strings.Contains(logs, `"level":"error"`) {
		t.Errorf("something is wrong in the container:\n%s", logs)
	}
	t.Logf("%v from start to the first answer; %s", took.Round(time.Millisecond), regexp.MustCompile(`VmRSS:.*`).FindString(string(status)))
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// openPath lets other users pass through the directories of the test.
func openPath(t *testing.T, path string) {
	t.Helper()
	for dir := path; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitAnswer asks until the API has answered.
func (w *world) awaitAnswer(t *testing.T, c *child) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Patience)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := w.Do(req)
		if err == nil {
			wantStatus(t, answer, http.StatusOK)
			return
		}
		select {
		case <-c.done:
			t.Fatalf("it has ended:\n%s", c.logs())
		case <-ctx.Done():
			t.Fatalf("no answer: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// wantHarmless checks who a process is and what it may do.
func wantHarmless(t *testing.T, status string) {
	t.Helper()
	if os.Geteuid() == 0 && !strings.Contains(status, "Uid:\t65532\t65532\t65532\t65532") {
		t.Errorf("it runs as somebody else:\n%s", status)
	}
	if !strings.Contains(status, "CapEff:\t0000000000000000") {
		t.Errorf("it has capabilities:\n%s", status)
	}
}
