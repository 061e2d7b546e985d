package draft

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// secretsDir is the directory below SaveDir in which each connection has a directory for its secrets.
const secretsDir = "secrets"

// Save writes the block as SaveDir/<name>.caddyfile, which everybody may read, and the secrets that are
// filled in as files in SaveDir/secrets/<name>, which only the user may. It returns the paths of what it
// wrote, the block's last. It replaces nothing and follows no link. When something fails, what was written
// is removed again; the error names what could not be.
func (d *Draft) Save() ([]string, error) {
	block, err := d.Block()
	if err := errors.Join(err, d.CheckName(d.Name), checkFileName(d.Name), CheckDir(d.SaveDir)); err != nil {
		return nil, err
	}
	return saveIn(d.SaveDir, func(s *saver) error { return s.save(d, block) })
}

// connectorsDir is the directory below the one to save in that has connectors.
const connectorsDir = "connectors"

// ConnectorDir returns the directory that connectors are written into when dir is the one to save in.
func ConnectorDir(dir string) string { return filepath.Join(dir, connectorsDir) }

// Save writes the block as <name>.caddyfile into ConnectorDir, which everybody may read, and returns its path. It
// replaces nothing and follows no link.
func (d *ConnectorDraft) Save(dir string) (string, error) {
	block, err := d.Block()
	if err := errors.Join(err, checkFileName(d.Name), CheckDir(dir)); err != nil {
		return "", err
	}
	files, err := saveIn(dir, func(s *saver) error {
		if err := s.makeDir(connectorsDir, 0o755); err != nil {
			return err
		}
		return s.write(filepath.Join(connectorsDir, d.Name+".caddyfile"), block, 0o644)
	})
	if err != nil {
		return "", err
	}
	return files[0], nil
}

// saveIn has files written below a directory, and returns their paths. What was begun is undone when that fails.
func saveIn(dir string, write func(*saver) error) ([]string, error) {
	if !filepath.IsAbs(dir) {
		return nil, errors.New("the path of the directory must be absolute")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	s := saver{dir: dir, root: root}
	if err := write(&s); err != nil {
		return nil, errors.Join(err, s.undo())
	}
	return s.files, nil
}

// ImportLine returns the line that makes a Caddyfile use what is saved in a directory, inside the global option
// http_helper.
func ImportLine(dir string) (string, error) {
	w := new(subdirective.Writer)
	w.Line("import", filepath.Join(dir, "*.caddyfile"))
	line, err := w.Result()
	return strings.TrimSpace(line), err
}

// plainWord matches what a shell takes as it is.
var plainWord = regexp.MustCompile(`^[\w@%+=:,./-]+$`)

// ReloadCommand returns the command that has Caddy load a configuration file; without one, the Caddyfile in the
// directory where the command is started.
func ReloadCommand(file, adapter string) string {
	words := []string{"caddy", "reload", "--config", cmp.Or(file, "Caddyfile")}
	if absolute, err := filepath.Abs(file); file != "" && err == nil {
		words[3] = absolute
	}
	if adapter != "" {
		words = append(words, "--adapter", adapter)
	}
	for i, word := range words {
		if !plainWord.MatchString(word) {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

// blockFile returns the path of the file for a connection's block.
func (d *Draft) blockFile(name string) string { return filepath.Join(d.SaveDir, name+".caddyfile") }

// checkFileName checks once more, whoever checks names, that the name cannot lead out of the directory.
func checkFileName(name string) error {
	if filepath.Base(name) != name || !filepath.IsLocal(name) || strings.HasPrefix(name, ".") {
		return errors.New("the name cannot be that of a file")
	}
	return nil
}

// saver writes files below a directory, which it cannot leave.
type saver struct {
	dir     string
	root    *os.Root
	files   []string // the absolute paths of the files that it wrote
	created []string // what it created, relative to the directory, in this order
}

func (s *saver) save(d *Draft, block string) error {
	dir := filepath.Join(secretsDir, d.Name)
	for _, secret := range d.Secrets() {
		if secret.Value == "" {
			continue
		}
		if err := errors.Join(s.makeDir(secretsDir, 0o700), s.makeDir(dir, 0o700)); err != nil {
			return err
		}
		if err := s.write(filepath.Join(dir, filepath.Base(secret.Path)), secret.Value, 0o600); err != nil {
			return err
		}
	}
	return s.write(filepath.Base(d.blockFile(d.Name)), block, 0o644)
}

// makeDir makes a directory, unless it is there. With mode 0700 nobody but the user may be able to enter it.
func (s *saver) makeDir(name string, mode fs.FileMode) error {
	err := s.root.Mkdir(name, mode)
	if err == nil {
		s.created = append(s.created, name)
		return s.root.Chmod(name, mode) // the umask may have taken something away
	}
	if !errors.Is(err, fs.ErrExist) {
		return s.named(name, err)
	}
	switch info, err := s.root.Lstat(name); {
	case err != nil:
		return s.named(name, err)
	case !info.IsDir():
		return s.named(name, errors.New("it is there, and no directory"))
	case mode == 0o700 && info.Mode().Perm()&0o077 != 0:
		return s.named(name, errors.New("other users can enter it: make that impossible with chmod 700"))
	}
	return nil
}

// write creates a file. The umask has no say in its permissions.
func (s *saver) write(name, content string, mode fs.FileMode) error {
	file, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return s.named(name, errors.New("it is there already, and nothing is replaced"))
	}
	if err != nil {
		return s.named(name, err)
	}
	s.created = append(s.created, name)
	_, err = file.WriteString(content)
	if err := errors.Join(err, file.Chmod(mode), file.Close()); err != nil {
		return s.named(name, err)
	}
	s.files = append(s.files, filepath.Join(s.dir, name))
	return nil
}

// undo removes what was created. Directories that are not empty belong to others too.
func (s *saver) undo() error {
	var errs []error
	for _, name := range slices.Backward(s.created) {
		if err := s.root.Remove(name); err != nil {
			errs = append(errs, fmt.Errorf("it was written and is left there: %w", s.named(name, err)))
		}
	}
	return errors.Join(errs...)
}

// named returns an error with the whole path of what it is about.
func (s *saver) named(name string, err error) error {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathError.Err
	}
	return fmt.Errorf("%s: %w", filepath.Join(s.dir, name), err)
}
