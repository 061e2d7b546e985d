package keys

import (
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
)

// ReplacementTime is how long files may be unusable while somebody replaces them.
const ReplacementTime = 10 * time.Second

// LastGood remembers what was made of files that change while a config runs, such as a certificate
// and its key. People write such files slowly, or one after the other, and for that moment they
// cannot be used: then what was made of them before stays in use. That there has never been
// anything usable, or for longer than such a moment, is an error.
type LastGood[Content comparable, Value any] struct {
	Owner Owner

	mu      sync.Mutex
	content Content
	value   Value
	made    bool
	broken  time.Time // since when the files cannot be used; zero: they can
}

// Owner is told, once each time, that files have become unusable.
type Owner interface{ WarnUnusable(reason error) }

// Get returns what make makes of the content, the same value as long as the content does not change.
// err is why the content could not be read.
func (l *LastGood[Content, Value]) Get(content Content, err error, make func(Content) (Value, error)) (Value, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	value := l.value
	if err == nil && (!l.made || content != l.content) {
		value, err = make(content)
	}
	if err == nil {
		l.content, l.value, l.made, l.broken = content, value, true, time.Time{}
		return value, nil
	}
	if l.made && l.stillReplaced(err) {
		return l.value, nil
	}
	var none Value
	return none, err
}

// stillReplaced reports whether the files may be about to be usable again.
func (l *LastGood[Content, Value]) stillReplaced(err error) bool {
	now := time.Now()
	if l.broken.IsZero() {
		l.broken = now
		l.Owner.WarnUnusable(err)
	}
	return clock.Elapsed(l.broken, now) < ReplacementTime
}
