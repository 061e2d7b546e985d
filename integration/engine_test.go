package integration

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// engine is Podman, in a namespace of its own. It understands what the documentation says to Docker.
type engine struct {
	namespace
	config string // its configuration file
}

// newEngine makes one; where it can run nothing the test is skipped.
func newEngine(t *testing.T) *engine {
	t.Helper()
	e := &engine{namespace: newNamespace(t, "podman", "runc", "skopeo"), config: filepath.Join(t.TempDir(), "containers.conf")}
	// Podman's own limits are higher than this process's may be.
	harness.WriteFile(t, e.config, `[containers]
default_ulimits = ["nofile=4096:4096", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
`)
	t.Cleanup(func() {
		if out, err := e.run("", "docker rm --force --ignore sidecar && docker rm --force --ignore app").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return e
}

// run is a script in which docker is Podman. What differs: Podman has its own idea of a read-only
// container, and may not ask a registry here.
func (e *engine) run(dir, script string, env ...string) *exec.Cmd {
	const docker = `docker() {
	case $1 in
	run) shift && podman run --read-only-tmpfs=false "$@" ;;
	build) shift && podman build --pull=never $BUILD_OPTIONS "$@" ;;
	*) podman "$@" ;;
	esac
}
`
	cmd := e.command(cmp.Or(dir, "/"), "sh", "-ec", docker+script)
	cmd.Env = append(os.Environ(), append(env, "CONTAINERS_CONF="+e.config)...)
	return cmd
}

// documented is the first block of shell commands in a document that contains a text.
func documented(t *testing.T, file, text string) string {
	t.Helper()
	for _, block := range commandBlock.FindAllStringSubmatch(readShipped(t, file), -1) {
		if strings.Contains(block[1], text) {
			return block[1]
		}
	}
	t.Fatalf("%s has no commands with %s", file, text)
	return ""
}

var commandBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// wantServes runs the image http-helper with the commands of the documentation, and makes a request.
func (e *engine) wantServes(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	w, caddyfile := inside(t, deployedFile(t, "compose/Caddyfile"))
	for name, content := range map[string]string{"Caddyfile": caddyfile, "client_secret": secret} {
		harness.WriteFile(t, filepath.Join(dir, name), content)
		if err := os.Chmod(filepath.Join(dir, name), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	start, list, _ := strings.Cut(documented(t, "docs/deployment.md", "docker run "), "docker exec ")
	output(t, e.run(dir, start))
	logs := func() string { return output(t, e.run("", "docker logs sidecar 2>&1")) }
	w.awaitResponse(t, nil, logs)
	took := time.Since(began)
	if table := output(t, e.run(dir, "docker exec "+list)); !strings.Contains(table, "ready") {
		t.Errorf("the documented command prints\n%s", table)
	}
	if out, err := e.run("", "docker exec sidecar /bin/sh -c true").CombinedOutput(); err == nil {
		t.Errorf("there is a shell in the container: %s", out)
	}
	pid := strings.TrimSpace(output(t, e.run("", "docker inspect --format '{{.State.Pid}}' sidecar")))
	status := readFile(t, filepath.Join("/proc", pid, "status"))
	wantHarmless(t, status, "65532")
	for _, want := range []string{"CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("the process lacks %s:\n%s", want, status)
		}
	}
	wantWritable(t, pid, "/run/http_helper")
	if text := logs(); strings.Contains(text, `"level":"error"`) {
		t.Errorf("something is wrong in the container:\n%s", text)
	}
	output(t, e.run("", "docker stop sidecar"))
	if text := logs(); !strings.Contains(text, `"exit_code":0`) {
		t.Errorf("the container did not end well:\n%s", text)
	}
	output(t, e.run("", "docker rm sidecar"))
	t.Logf("%v from the command to the first response; %s", took.Round(time.Millisecond), resident(status))
}

// wantValidates checks the example's Caddyfile with the command of the documentation, and one with a mistake.
func (e *engine) wantValidates(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	caddyfile := deployedFile(t, "kubernetes/example/Caddyfile")
	if err := os.Mkdir(filepath.Join(dir, "dummy"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"Caddyfile": caddyfile, "dummy/client_id": "my-app", "dummy/client_secret": "dummy"} {
		harness.WriteFile(t, filepath.Join(dir, name), content)
		if err := os.Chmod(filepath.Join(dir, name), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	validate := documented(t, "docs/upgrading.md", "docker run --rm ")
	if out, err := e.run(dir, validate).CombinedOutput(); err != nil || !strings.Contains(string(out), "Valid configuration") {
		t.Errorf("the documented command: %v\n%s", err, out)
	}
	if err := os.Remove(filepath.Join(dir, "dummy/client_secret")); err != nil {
		t.Fatal(err)
	}
	if out, err := e.run(dir, validate).CombinedOutput(); err == nil || !strings.Contains(string(out), "client_secret") {
		t.Errorf("without the secret: %v\n%s", err, out)
	}
}

// wantWritable checks that a process could write to one place only, as any user: the rest is
// mounted read-only, or belongs to the kernel.
func wantWritable(t *testing.T, pid, place string) {
	t.Helper()
	var writable []string
	for line := range strings.Lines(readFile(t, filepath.Join("/proc", pid, "mountinfo"))) {
		fields := strings.Fields(line)
		target, options := fields[4], strings.Split(fields[5], ",")
		if slices.Contains(options, "rw") && !regexp.MustCompile(`^/(proc|sys|dev)(/|$)`).MatchString(target) {
			writable = append(writable, target)
		}
	}
	equal(t, "writable mounts", strings.Join(writable, " "), place)
}

// TestContainerInAnEngine has a container engine run the image that was made without one, and then the
// one that it builds itself.
func TestContainerInAnEngine(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "http-helper.tar"), buildImage(t), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, e.run(dir, e.skopeo(t)))
	// The stand-in for an app only lends its network: this machine's loopback.
	app := e.run("", "docker run --detach --name app --network host --entrypoint /caddy http-helper respond --listen 127.0.0.1:0")
	if out, err := app.CombinedOutput(); err != nil {
		t.Skipf("no container can be run here: %v\n%s", err, out)
	}
	e.wantServes(t)
	e.wantValidates(t)
	e.buildDockerfile(t)
	e.wantServes(t)
}

// skopeo is the documented command that brings the image to a registry; here it goes to Podman.
func (e *engine) skopeo(t *testing.T) string {
	t.Helper()
	_, command, _ := strings.Cut(documented(t, "docs/deployment.md", "skopeo copy "), "skopeo copy ")
	const registry = "docker://registry.example.com/http-helper:0.1.0"
	if !strings.Contains(command, registry) {
		t.Fatalf("the documented command does not go to %s", registry)
	}
	// Podman keeps one platform's image.
	return "skopeo copy " + strings.NewReplacer("--all ", "", registry, "containers-storage:localhost/http-helper:latest").Replace(command)
}

// buildDockerfile builds the image with the command of the documentation. The image that it starts from
// comes from a registry; its stand-in here has this machine's programs.
func (e *engine) buildDockerfile(t *testing.T) {
	t.Helper()
	base := filepath.Join(t.TempDir(), "base.tar")
	writeBase(t, base)
	from := regexp.MustCompile(`(?m)^FROM (\S+) AS build$`).FindStringSubmatch(deployedFile(t, "container/Dockerfile"))
	env := goEnv(t)
	script := "docker import"
	for _, name := range []string{"GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOPROXY", "GOFLAGS", "GOTOOLCHAIN"} {
		script += fmt.Sprintf(" --change 'ENV %s=%s'", name, env[name])
	}
	script += fmt.Sprintf(" --change 'ENV HOME=/root' --change 'ENV PATH=%s/bin:/usr/bin' %s docker.io/library/%s", env["GOROOT"], base, from[1])
	output(t, e.run("", script))
	options := "--network host"
	for _, volume := range []string{
		"/usr:/usr:ro", "/etc/ssl:/etc/ssl:ro", "/etc/alternatives:/etc/alternatives:ro", env["GOROOT"] + ":" + env["GOROOT"] + ":ro",
		env["GOMODCACHE"] + ":/root/go/pkg/mod", env["GOCACHE"] + ":/root/.cache/go-build",
	} {
		options += " --volume " + volume
	}
	build := e.run(harness.Root(), documented(t, "docs/deployment.md", "docker build "), "BUILD_OPTIONS="+options)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func goEnv(t *testing.T) map[string]string {
	t.Helper()
	var env map[string]string
	parse(t, []byte(output(t, exec.Command("go", "env", "-json"))), &env)
	return env
}

// writeBase writes an empty image, for which the programs are mounted.
func writeBase(t *testing.T, file string) {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	add := func(header tar.Header) {
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"etc", "root", "usr"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp", Mode: 0o1777})
	for _, dir := range []string{"bin", "lib", "lib64"} {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: dir, Linkname: "usr/" + dir, Mode: 0o777})
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
