package keys

import (
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
)

// ReplacementTime is how long the last good value stays in use while its files are being replaced.
const ReplacementTime = 10 * time.Second

// LastGood remembers the value that was made of files, such as a certificate and its key, which may
// change while a config runs. Files are often replaced slowly, or one after the other, and cannot be
// used meanwhile: then the last good value stays in use for ReplacementTime. Without a last good value,
// or after that time, there is an error. It is safe for concurrent use.
type LastGood[Content comparable, Value any] struct {
	Owner Owner // is told when the files become unusable; nil: nobody. Set it before the first Get.

	mu      sync.Mutex
	content Content
	value   Value
	made    bool      // whether there is a last good value
	broken  time.Time // since when the files are unusable; zero: they are usable
}

// Owner is told, once each time, that files have become unusable. It must not call the LastGood.
type Owner interface {
	WarnUnusable(reason error)
}

// Get returns the value that parse makes of the content of the files, the same one as long as the
// content does not change. err is the error of reading the content, or nil.
func (l *LastGood[Content, Value]) Get(content Content, err error, parse func(Content) (Value, error)) (Value, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	value := l.value
	if err == nil && (!l.made || content != l.content) {
		value, err = parse(content)
	}
	if err == nil {
		l.content, l.value, l.made, l.broken = content, value, true, time.Time{}
		return value, nil
	}
	if l.made && l.beingReplaced(err) {
		return l.value, nil
	}
	var none Value
	return none, err
}

// beingReplaced reports whether the files, unusable because of err, may soon be usable again. Call it
// with the lock held.
func (l *LastGood[Content, Value]) beingReplaced(err error) bool {
	now := time.Now()
	if l.broken.IsZero() {
		l.broken = now
		if l.Owner != nil {
			l.Owner.WarnUnusable(err)
		}
	}
	return clock.Elapsed(l.broken, now) < ReplacementTime
}
