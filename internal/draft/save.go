package draft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// secretsDir is the directory below SaveDir in which each connection has a directory for its secrets.
const secretsDir = "secrets"

// Save writes the block as SaveDir/<name>.caddyfile, which everybody may read, and the secrets that are
// filled in as files in SaveDir/secrets/<name>, which only the user may. It returns the paths of what it
// wrote, the block's last. It replaces nothing and follows no link. When something fails, what was written
// is removed again; the error names what could not be.
func (d *Draft) Save() ([]string, error) {
	block, err := d.Block()
	if err := errors.Join(err, d.CheckName(d.Name), d.checkFileName(), CheckDir(d.SaveDir)); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(d.SaveDir) {
		return nil, errors.New("the path of the directory must be absolute")
	}
	if err := os.MkdirAll(d.SaveDir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(d.SaveDir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	s := saver{dir: d.SaveDir, root: root}
	if err := s.save(d, block); err != nil {
		return nil, errors.Join(err, s.undo())
	}
	return s.files, nil
}

// blockFile returns the path of the file for a connection's block.
func (d *Draft) blockFile(name string) string { return filepath.Join(d.SaveDir, name+".caddyfile") }

// checkFileName checks once more, whoever checks names, that the name cannot lead out of the directory.
func (d *Draft) checkFileName() error {
	if filepath.Base(d.Name) != d.Name || !filepath.IsLocal(d.Name) || strings.HasPrefix(d.Name, ".") {
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
		if err := errors.Join(s.makeDir(secretsDir), s.makeDir(dir)); err != nil {
			return err
		}
		if err := s.write(filepath.Join(dir, filepath.Base(secret.Path)), secret.Value, 0o600); err != nil {
			return err
		}
	}
	return s.write(filepath.Base(d.blockFile(d.Name)), block, 0o644)
}

// makeDir makes a directory that only the user can enter, unless it is there.
func (s *saver) makeDir(name string) error {
	err := s.root.Mkdir(name, 0o700)
	if err == nil {
		s.created = append(s.created, name)
		return s.root.Chmod(name, 0o700) // the umask may have taken something away
	}
	if !errors.Is(err, fs.ErrExist) {
		return s.named(name, err)
	}
	switch info, err := s.root.Lstat(name); {
	case err != nil:
		return s.named(name, err)
	case !info.IsDir():
		return s.named(name, errors.New("it is there, and no directory"))
	case info.Mode().Perm()&0o077 != 0:
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
