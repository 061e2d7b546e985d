package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
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
// runs what is in it: as arbitrary users, on a read-only root file system.
func TestContainerImage(t *testing.T) {
	t.Parallel()
	image := buildImage(t)
	for name, user := range imageUsers {
		t.Run(name, func(t *testing.T) {
			config, rootfs := unpackImage(t, image, 0)
			runImage(t, config, rootfs, user)
		})
	}
	config, rootfs := unpackImage(t, image, 0)
	equal(t, "user", config.User, "65532:65532")
	wantSameAsDockerfile(t, config)
	wantPackagedAuthorities(t, readFile(t, filepath.Join(rootfs, "etc/ssl/certs/ca-certificates.crt")))
	if again := buildImage(t); !bytes.Equal(image, again) {
		t.Error("the same inputs give another image")
	}
	t.Logf("the image has %d MiB, compressed", len(image)>>20)
}

// imageUser is who runs an image, and how it may read its secret.
type imageUser struct {
	user, groups string
	mode         os.FileMode // of the secret, which is root's and of the group
	group        int
}

// The image's own user; and one that OpenShift chooses, which is a member of the pod's group.
var imageUsers = map[string]imageUser{
	"own user":       {user: "65532:65532", mode: 0o444},
	"arbitrary user": {user: "1000650000:0", groups: "1000650000", mode: 0o440, group: 1000650000},
}

// buildImage makes the image without a container engine.
func buildImage(t *testing.T) []byte {
	t.Helper()
	caddy, err := staticCaddy()
	if err != nil {
		t.Fatal(err)
	}
	return imageOf(t, caddy)
}

// imageOf makes an image of programs, each for its platform, and checks the bills of materials beside it.
func imageOf(t *testing.T, programs ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	cmd := exec.Command(filepath.Join(harness.Root(), "deploy/container/image.sh"), append([]string{"oci", file}, programs...)...)
	output(t, cmd)
	bills, err := filepath.Glob(filepath.Join(filepath.Dir(file), "image.*.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "bills of materials", len(bills), len(programs))
	for _, bill := range bills {
		if text := readFile(t, bill); !strings.Contains(text, `"bomFormat": "CycloneDX"`) {
			t.Errorf("%s is no bill of materials:\n%s", bill, text)
		}
	}
	return []byte(readFile(t, file))
}

// TestContainerImagePlatforms makes one image for two platforms.
func TestContainerImagePlatforms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	harness.WriteFile(t, filepath.Join(dir, "go.mod"), "module program\n")
	harness.WriteFile(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() {}\n")
	build := func(system, architecture string) string {
		file := filepath.Join(dir, system+"-"+architecture)
		cmd := exec.Command("go", "build", "-o", file, ".")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+architecture)
		output(t, cmd)
		return file
	}
	amd64, arm64 := build("linux", "amd64"), build("linux", "arm64")
	image := imageOf(t, amd64, arm64)
	for i, file := range []string{amd64, arm64} {
		_, rootfs := unpackImage(t, image, i)
		if readFile(t, filepath.Join(rootfs, "caddy")) != readFile(t, file) {
			t.Errorf("the image of %s has another program", filepath.Base(file))
		}
	}
	for message, program := range map[string]string{"two binaries for amd64": amd64, "no Go program for Linux": build("windows", "amd64")} {
		cmd := exec.Command(filepath.Join(harness.Root(), "deploy/container/image.sh"), "oci", filepath.Join(dir, "wrong.tar"), amd64, program)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), message) {
			t.Errorf("with %s: %v, %s, want %q", filepath.Base(program), err, out, message)
		}
	}
}

// wantPackagedAuthorities checks that the image trusts whom Debian trusts, and nobody whom this machine trusts besides.
func wantPackagedAuthorities(t *testing.T, bundle string) {
	t.Helper()
	files, err := filepath.Glob("/usr/share/ca-certificates/mozilla/*.crt")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no authorities of Debian's here: %v", err)
	}
	var packaged strings.Builder
	for _, file := range files {
		packaged.WriteString(readFile(t, file) + "\n")
	}
	got, want := authorities(t, bundle), authorities(t, packaged.String())
	if !slices.Equal(got, want) {
		t.Errorf("the image trusts %d authorities, and not the %d of Debian", len(got), len(want))
	}
}

// authorities are the subjects of certificates and what they are.
func authorities(t *testing.T, bundle string) (found []string) {
	t.Helper()
	for rest := []byte(bundle); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			slices.Sort(found)
			return found
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, certificate.Subject.String()+sha256Of(block.Bytes))
	}
}

type imageConfig struct {
	User                 string
	Env, Entrypoint, Cmd []string
}

type descriptor struct {
	Digest   string
	Size     int64
	Platform struct{ Architecture, OS string }
}

// unpackImage follows the digests of an OCI archive, and unpacks the layer of its image for a platform.
func unpackImage(t *testing.T, image []byte, platform int) (imageConfig, string) {
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
	var entry, index struct{ Manifests []descriptor }
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	var config struct {
		Architecture, OS string

		Config imageConfig
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	parse(t, files["index.json"], &entry)
	equal(t, "indexes", len(entry.Manifests), 1)
	parse(t, blob(entry.Manifests[0]), &index)
	parse(t, blob(index.Manifests[platform]), &manifest)
	parse(t, blob(manifest.Config), &config)
	equal(t, "platform", index.Manifests[platform].Platform, struct{ Architecture, OS string }{config.Architecture, config.OS})
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
func runImage(t *testing.T, config imageConfig, rootfs string, user imageUser) {
	t.Helper()
	enter, leave := []string{"unshare", "--mount"}, []string{"chroot", "--userspec=" + user.user, "--groups=" + user.groups, rootfs}
	if os.Geteuid() != 0 {
		if user.group != 0 {
			t.Skip("only root may give files away")
		}
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
	user.own(t, filepath.Join(rootfs, "run/secrets/client_secret"))
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
	wantHarmless(t, string(status), strings.Split(user.user, ":")[0])
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

// own makes a secret readable for the user as the platform does.
func (u imageUser) own(t *testing.T, file string) {
	t.Helper()
	if err := os.Chmod(file, u.mode); err != nil {
		t.Fatal(err)
	}
	if u.group == 0 {
		return
	}
	if err := os.Chown(file, 0, u.group); err != nil {
		t.Fatal(err)
	}
}

// wantHarmless checks who a process is and what it may do.
func wantHarmless(t *testing.T, status, user string) {
	t.Helper()
	if os.Geteuid() == 0 && !strings.Contains(status, "Uid:"+strings.Repeat("\t"+user, 4)) {
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
