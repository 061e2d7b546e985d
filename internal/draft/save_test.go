package draft

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
)

// savable is a complete draft that is saved in a new directory.
func savable(t *testing.T) *Draft {
	t.Helper()
	d := New(formOnly(adminapi.Connector{Name: "c", Fields: []adminapi.Field{
		{Key: "client_id", Type: adminapi.TypeText, Fixed: true},
		{Key: "client_secret", Type: adminapi.TypePassword, Fixed: true, Label: "Client secret"},
		{Key: "pass", Type: adminapi.TypePassword, Label: "Passphrase"},
		{Key: "pin", Type: adminapi.TypePassword, Label: "PIN"},
	}}), &Config{})
	for i, value := range []string{"me", "s3cret", "open {sesame}", ""} {
		d.Fields[i].Value = value
	}
	d.Name, d.SaveDir = "n", t.TempDir()
	return d
}

// tree returns the contents and modes of what is in a directory.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content := info.Mode().String()
		if info.Mode().IsRegular() {
			read, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content += " " + string(read)
		}
		found[strings.TrimPrefix(path, dir+"/")] = content
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSave(t *testing.T) {
	for _, umask := range []int{0, 0o777} {
		d := savable(t)
		d.SaveDir = filepath.Join(d.SaveDir, "new")
		if umask != 0 { // else the directory could not be entered
			if err := os.Mkdir(d.SaveDir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		old := syscall.Umask(umask)
		files, err := d.Save()
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		secrets := filepath.Join(d.SaveDir, "secrets", "n")
		want := map[string]string{
			"n.caddyfile": "-rw-r--r-- # Secrets:\n#   file " + secrets + "/client_secret: Client secret\n#   file " + secrets + "/pass: Passphrase\n" +
				"# Secrets to store:\n#   file " + secrets + "/pin: PIN\n" +
				"connection n c {\n\tclient_id me\n\tclient_secret {file." + secrets + "/client_secret}\n\tparameter pass {file." + secrets + "/pass}\n\tparameter pin {file." + secrets + "/pin}\n}\n",
			"secrets":                 "drwx------",
			"secrets/n":               "drwx------",
			"secrets/n/client_secret": "-rw------- s3cret",
			"secrets/n/pass":          "-rw------- open {sesame}",
		}
		if got := tree(t, d.SaveDir); !reflect.DeepEqual(got, want) {
			t.Errorf("umask %o: %v", umask, got)
		}
		if want := []string{secrets + "/client_secret", secrets + "/pass", d.SaveDir + "/n.caddyfile"}; !reflect.DeepEqual(files, want) {
			t.Errorf("umask %o: wrote %v", umask, files)
		}
	}
}

// Nothing is replaced, no link is followed, nothing is written elsewhere, and what was begun is undone.
func TestSaveRefuses(t *testing.T) {
	elsewhere := t.TempDir()
	for name, test := range map[string]struct {
		prepare func(t *testing.T, d *Draft)
		want    string
	}{
		"a connection's file": {func(t *testing.T, d *Draft) { write(t, d.SaveDir, "n.caddyfile") }, "there is a file of this name already"},
		"a link in its place": {func(t *testing.T, d *Draft) { link(t, elsewhere+"/x", d.SaveDir, "n.caddyfile") }, "there is a file of this name already"},
		"a secret's file": {func(t *testing.T, d *Draft) {
			mkdir(t, 0o700, d.SaveDir, "secrets", "n")
			write(t, d.SaveDir, "secrets", "n", "pass")
		}, "secrets/n/pass: it is there already"},
		"a link as secret": {func(t *testing.T, d *Draft) {
			mkdir(t, 0o700, d.SaveDir, "secrets", "n")
			link(t, elsewhere+"/y", d.SaveDir, "secrets", "n", "pass")
		}, "secrets/n/pass: it is there already"},
		"a link as directory": {func(t *testing.T, d *Draft) { link(t, elsewhere, d.SaveDir, "secrets") }, "secrets: it is there, and no directory"},
		"an inner link": {func(t *testing.T, d *Draft) {
			mkdir(t, 0o700, d.SaveDir, "secrets", "m")
			link(t, "m", d.SaveDir, "secrets", "n")
		}, "secrets/n: it is there, and no directory"},
		"an open directory": {func(t *testing.T, d *Draft) { mkdir(t, 0o755, d.SaveDir, "secrets") }, "secrets: other users can enter it"},
		"a path as name":    {func(_ *testing.T, d *Draft) { d.Name = "../n" }, "the name cannot be that of a file"},
		"an absolute name":  {func(_ *testing.T, d *Draft) { d.Name = "/n" }, "the name cannot be that of a file"},
		"a hidden name":     {func(_ *testing.T, d *Draft) { d.Name = ".n" }, "the name cannot be that of a file"},
		"the parent":        {func(_ *testing.T, d *Draft) { d.Name = ".." }, "the name cannot be that of a file"},
		"a name that is taken": {func(_ *testing.T, d *Draft) {
			d.config.Connections = map[string]json.RawMessage{"n": nil}
		}, "there is a connection of this name already"},
		"a relative directory": {func(_ *testing.T, d *Draft) { d.SaveDir = "elsewhere" }, "must be absolute"},
		"a placeholder's end":  {func(_ *testing.T, d *Draft) { d.SaveDir += "/}" }, "the path has braces"},
	} {
		d := savable(t)
		dir := d.SaveDir
		test.prepare(t, d)
		before := tree(t, dir)
		files, err := d.Save()
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "left there") || files != nil {
			t.Errorf("%s: %v %v", name, files, err)
		}
		if after := tree(t, dir); !reflect.DeepEqual(after, before) {
			t.Errorf("%s: there was %v, and now %v", name, before, after)
		}
	}
	if left := tree(t, elsewhere); len(left) > 0 {
		t.Errorf("written elsewhere: %v", left)
	}
}

// A connector is one file that everybody may read. As with connections, nothing is replaced and no link is followed.
func TestSaveConnector(t *testing.T) {
	elsewhere := t.TempDir()
	connector := func(name string) *ConnectorDraft { return &ConnectorDraft{Name: name, config: new(Config)} }
	for _, umask := range []int{0, 0o777} {
		dir := t.TempDir()
		old := syscall.Umask(umask)
		file, err := connector("n").Save(dir)
		syscall.Umask(old)
		want := map[string]string{"connectors": "drwxr-xr-x", "connectors/n.caddyfile": "-rw-r--r-- connector n {\n}\n"}
		if got := tree(t, dir); err != nil || file != dir+"/connectors/n.caddyfile" || !reflect.DeepEqual(got, want) {
			t.Errorf("umask %o: %s %v %v", umask, file, err, got)
		}
	}
	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir string)
		name    string
		want    string
	}{
		"a file": {func(t *testing.T, dir string) {
			mkdir(t, 0o755, dir, "connectors")
			write(t, dir, "connectors", "n.caddyfile")
		}, "n", "it is there already"},
		"a link": {func(t *testing.T, dir string) {
			mkdir(t, 0o755, dir, "connectors")
			link(t, elsewhere+"/x", dir, "connectors", "n.caddyfile")
		}, "n", "it is there already"},
		"a link as directory": {func(t *testing.T, dir string) { link(t, elsewhere, dir, "connectors") }, "n", "it is there, and no directory"},
		"a path as name":      {func(*testing.T, string) {}, "../n", "the name cannot be that of a file"},
		"a hidden name":       {func(*testing.T, string) {}, ".n", "the name cannot be that of a file"},
	} {
		dir := t.TempDir()
		test.prepare(t, dir)
		before := tree(t, dir)
		if _, err := connector(test.name).Save(dir); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if after := tree(t, dir); !reflect.DeepEqual(after, before) {
			t.Errorf("%s: there was %v, and now %v", name, before, after)
		}
	}
	if left := tree(t, elsewhere); len(left) > 0 {
		t.Errorf("written elsewhere: %v", left)
	}
}

func TestHowToUseWhatIsSaved(t *testing.T) {
	if line, err := ImportLine("/srv/my files"); err != nil || line != `import "/srv/my files/*.caddyfile"` {
		t.Error(line, err)
	}
	for want, args := range map[string][2]string{
		"caddy reload --config Caddyfile":                           {"", ""},
		"caddy reload --config /etc/caddy/Caddyfile":                {"/etc/caddy/Caddyfile", ""},
		`caddy reload --config '/srv/it'\''s.json' --adapter 'a b'`: {"/srv/it's.json", "a b"},
	} {
		if got := ReloadCommand(args[0], args[1]); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func write(t *testing.T, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to string, path ...string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Join(path...)); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, mode fs.FileMode, path ...string) {
	t.Helper()
	dir := filepath.Join(path...)
	if err := os.MkdirAll(dir, mode); err != nil {
		t.Fatal(err)
	}
}
