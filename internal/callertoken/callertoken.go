// Package callertoken knows by which tokens the callers of a sidecar are recognized (rule 35).
package callertoken

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// rereadInterval is how old the content of a file may be that a request is judged by.
const rereadInterval = time.Second

// tokenGrammar is that of a bearer token in a header (RFC 6750 §2.1).
var tokenGrammar = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// File is a file with a token in each line, which may change at any time.
type File struct {
	path placeholder.Template

	mu   sync.Mutex
	read time.Time
	sums []sum // of the tokens
	err  error // why there are none
}

// sum is the hash of a token. The tokens themselves are not kept.
type sum = [sha256.Size]byte

// Parse returns the file with a path, which may have placeholders {env.*}. The file is not read.
func Parse(path string) (*File, error) {
	template, err := placeholder.Parse(path)
	if err != nil {
		return nil, err
	}
	return &File{path: template}, nil
}

// Check returns why the file cannot be used now.
func (f *File) Check() error {
	_, err := f.current()
	return err
}

// Accepts reports whether the values of a request's Proxy-Authorization are exactly one bearer token of the file.
// The error is why the file cannot be used now; then nobody is accepted.
func (f *File) Accepts(credentials []string) (bool, error) {
	sums, err := f.current()
	if err != nil || len(credentials) != 1 {
		return false, err
	}
	scheme, token, _ := strings.Cut(credentials[0], " ")
	given := sha256.Sum256([]byte(strings.TrimLeft(token, " ")))
	equal := 0
	for i := range sums { // all of them, so that the time says nothing
		equal |= subtle.ConstantTimeCompare(sums[i][:], given[:])
	}
	return equal == 1 && strings.EqualFold(scheme, "Bearer"), nil
}

// current returns the hashes of the tokens in the file, as it was a second ago at most.
func (f *File) current() ([]sum, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.read) >= rereadInterval {
		f.read = now
		f.sums, f.err = f.load()
	}
	return f.sums, f.err
}

func (f *File) load() ([]sum, error) {
	path, err := f.path.Expand(nil)
	if err != nil {
		return nil, err
	}
	content, err := placeholder.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sums, err := parse(content)
	if err != nil {
		return nil, fmt.Errorf("reading file %s: %w", path, err)
	}
	return sums, nil
}

// parse returns the hashes of the tokens in a text. Its errors quote nothing of it.
func parse(text string) ([]sum, error) {
	var sums []sum
	number := 0
	for line := range strings.Lines(text) {
		number++
		token := strings.TrimSpace(line)
		if token == "" {
			continue
		}
		if !tokenGrammar.MatchString(token) {
			return nil, fmt.Errorf("line %d is not a token, which consists of letters, digits and -._~+/ (and = at its end)", number)
		}
		sums = append(sums, sha256.Sum256([]byte(token)))
	}
	if len(sums) == 0 {
		return nil, errors.New("it has no token")
	}
	return sums, nil
}
