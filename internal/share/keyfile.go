package share

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	keyBytes  = 32
	keyAdvice = "; make one with: openssl rand -base64 32"
)

// ParseKey returns the key in the text of a key file: 32 bytes in base64, of either alphabet and with or
// without padding, or 64 hex digits. White space around it is ignored. The error quotes nothing of the
// text.
func ParseKey(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, errors.New("the key is empty" + keyAdvice)
	}
	if key, err := hex.DecodeString(text); err == nil && len(key) == keyBytes {
		return key, nil
	}
	key, err := decodeBase64(text)
	switch {
	case err != nil:
		return nil, errors.New("the key is neither base64 nor 64 hex digits" + keyAdvice)
	case len(key) < keyBytes:
		return nil, fmt.Errorf("the key is too short: read as base64 it has %d bytes instead of %d%s", len(key), keyBytes, keyAdvice)
	case len(key) > keyBytes:
		return nil, fmt.Errorf("the key is too long: read as base64 it has %d bytes instead of %d%s", len(key), keyBytes, keyAdvice)
	}
	return key, nil
}

func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") { // the decoder would skip them
		return nil, errors.New("it has several lines")
	}
	if len(text)%4 == 0 {
		text = strings.TrimSuffix(strings.TrimSuffix(text, "="), "=")
	}
	if strings.ContainsAny(text, "-_") {
		return base64.RawURLEncoding.DecodeString(text)
	}
	return base64.RawStdEncoding.DecodeString(text)
}

// keyring reads the key files again and again, and remembers the last good keys.
type keyring struct {
	read    func() ([][]byte, error)
	timeout time.Duration // the longest wait for the files
	log     *zap.Logger

	mu      sync.Mutex
	good    [][]byte      // the last good keys; nil: there have not been any
	problem string        // why the files cannot be used now; "": they can
	reading chan struct{} // is closed when the files have been read; nil: nobody reads them
	hanging bool          // whether somebody has waited for reading in vain
}

// current returns the keys in the files, or the last good ones while the files cannot be used; nil if
// there have never been any.
func (k *keyring) current() [][]byte {
	k.mu.Lock()
	if k.reading == nil {
		k.reading = make(chan struct{})
		go k.readFiles(k.reading)
	}
	reading, hanging := k.reading, k.hanging
	k.mu.Unlock()
	if !hanging {
		k.await(reading)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.good
}

// await waits until the files have been read. It waits once for files that hang.
func (k *keyring) await(reading <-chan struct{}) {
	timer := time.NewTimer(k.timeout)
	defer timer.Stop()
	select {
	case <-reading:
		return
	case <-timer.C:
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reading == reading {
		k.hanging = true
		k.report(fmt.Sprintf("reading the key files takes longer than %v", k.timeout))
	}
}

func (k *keyring) readFiles(done chan struct{}) {
	keys, err := k.readChecked()
	k.mu.Lock()
	defer k.mu.Unlock()
	defer close(done)
	k.reading, k.hanging = nil, false
	if err != nil {
		k.report(err.Error())
		return
	}
	k.good = keys
	k.report("")
}

// readChecked reads the files. A panic is an error.
func (k *keyring) readChecked() (keys [][]byte, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("reading the key files panicked")
		}
	}()
	if keys, err = k.read(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key file")
	}
	for _, key := range keys {
		if len(key) != keyBytes {
			return nil, fmt.Errorf("a key has %d bytes instead of %d", len(key), keyBytes)
		}
	}
	return keys, nil
}

// report remembers what is wrong with the files, and logs it if that has changed. Call it with the lock
// held.
func (k *keyring) report(problem string) {
	if problem == k.problem {
		return
	}
	k.problem = problem
	switch {
	case problem == "":
		k.log.Info("the key files for shared tokens are usable again")
	case k.good == nil:
		k.log.Warn("tokens are not shared, because the key files are not usable", zap.String("reason", problem))
	default:
		k.log.Warn("the key files for shared tokens are not usable; the last good keys stay in use", zap.String("reason", problem))
	}
}

// state returns whether there are keys, and what is wrong with the files, or "".
func (k *keyring) state() (usable bool, problem string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.good != nil, k.problem
}
