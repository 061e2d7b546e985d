package placeholder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// MaxFile bounds what is read from a file, as Caddy does for its own placeholder.
const MaxFile = 1 << 20

// ReadFile reads a file that holds one value; one newline at its end is not part of it.
func ReadFile(path string) (string, error) {
	content, err := readRegularFile(path)
	if err != nil {
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		return "", fmt.Errorf("reading file %s: %w", path, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if value == "" {
		return "", fmt.Errorf("reading file %s: it is empty", path)
	}
	return value, nil
}

// readRegularFile opens nothing that could block, such as a pipe.
func readRegularFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	if err == nil && len(content) > MaxFile {
		err = errors.New("it is larger than 1 MiB")
	}
	return content, err
}
