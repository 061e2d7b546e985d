package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// staticCaddy is the sidecar that the environment variable CADDY names, or one that is built as
// xcaddy.sh does, without the C library.
var staticCaddy = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("CADDY"); path != "" {
		return filepath.Abs(path)
	}
	path := filepath.Join(harness.Root(), ".tools", "test", "caddy-static")
	cmd := exec.Command("go", "build", "-o", path, "-trimpath", "-ldflags", "-s -w", "-tags", "nobadger,nomysql,nopgx", ".")
	cmd.Dir = filepath.Join(harness.Root(), "integration/cmd/caddy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %s", err, out)
	}
	return path, nil
})

// TestContainerImage builds the image without a container engine, checks it as a registry would, and
// runs what is in it: as an arbitrary user, on a read-only root file system.
func TestContainerImage(t *testing.T) {
	t.Parallel()
	image := buildImage(t)
	config, rootfs := unpackImage(t, image)
	equal(t, "user", config.User, "65532:65532")
	wantSameAsDockerfile(t, config)
	if again := buildImage(t); !bytes.Equal(image, again) {
		t.Error("the same inputs give another image")
	}
	t.Logf("the image has %d MiB, compressed", len(image)>>20)
	runImage(t, config, rootfs)
}

// buildImage makes the image without a container engine.
func buildImage(t *testing.T) []byte {
	t.Helper()
	caddy, err := staticCaddy()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	cmd := exec.Command(filepath.Join(harness.Root(), "deploy/container/image.sh"), "oci", file)
	cmd.Env = append(os.Environ(), "CADDY="+caddy)
	output(t, cmd)
	return []byte(readFile(t, file))
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
	w, caddyfile := inside(t, deployedFile(t, "compose/Caddyfile"))
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
	c := harness.Background(t, cmd)
	w.awaitResponse(t, c.Exited(), c.Logs)
	took := time.Since(began)
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(c.Pid()), "status"))
	if err != nil {
		t.Fatal(err)
	}
	wantHarmless(t, string(status))
	if logs := c.Logs(); strings.Contains(logs, "read-only file system") || strings.Contains(logs, "permission denied") || strings.Contains(logs, `"level":"error"`) {
		t.Errorf("something is wrong in the container:\n%s", logs)
	}
	t.Logf("%v from start to the first response; %s", took.Round(time.Millisecond), resident(string(status)))
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

// resident is what a process's status says of its memory: all of it, and what is not the binary's.
func resident(status string) string {
	return strings.Join(regexp.MustCompile(`(?:VmRSS|RssAnon):.*`).FindAllString(status, -1), "; ")
}
