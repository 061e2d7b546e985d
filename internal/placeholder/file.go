package placeholder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

// maxFile is the size limit of a file, the same as for Caddy's own placeholder.
const maxFile = 1 << 20 // bytes

// ReadFile returns the value in a file, without the newline at its end. An empty file is an error.
func ReadFile(path string) (string, error) {
	content, err := readRegularFile(path)
	if err != nil {
		if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
			err = pathErr.Err
		}
		if errors.Is(err, fs.ErrNotExist) && !redact.PlausiblePath(path) {
			return "", fmt.Errorf("reading file: %w; the path is not shown, since it may be the secret itself; begin it with / or ./", err)
		}
		return "", fmt.Errorf("reading file %s: %w", path, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r")
	if value == "" {
		return "", fmt.Errorf("reading file %s: it is empty", path)
	}
	return value, nil
}

// readRegularFile reads a file, unless opening it could block, as with a pipe.
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
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(content) > maxFile {
		err = errors.New("it is larger than 1 MiB")
	}
	return content, err
}
