package share

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"go.uber.org/zap"
)

// maxOperations is how many operations of the storage may be under way, also those that nobody waits for
// any more: so many goroutines at most can a storage hold that hangs.
const maxOperations = 64

// Slot is the place of one identity in the storage, for one attempt to get a token.
type Slot struct {
	fleet  *Fleet
	places []place // of all keys; records are stored at the first

	mu     sync.Mutex
	newest time.Time // when the newest record was written that has been seen
}

// Slot returns the place of the identity, under the keys that the key files have now. It returns nil if
// the identity is empty, no key is usable, or Stop has been called.
func (f *Fleet) Slot(identity []byte) *Slot {
	if len(identity) == 0 || !f.begin() {
		return nil
	}
	keys := f.keys.current()
	if len(keys) == 0 {
		return nil
	}
	s := &Slot{fleet: f}
	for _, key := range keys {
		s.places = append(s.places, newPlace(key, identity))
	}
	return s
}

// Load returns the newest record under any key, or nil if there is none that can be opened. If it was
// found under another key than the first, it is also stored under the first, so that the other key can be
// dropped.
func (s *Slot) Load(ctx context.Context) ([]byte, error) {
	storage, err := s.fleet.ready(ctx, "load")
	if err != nil {
		return nil, err
	}
	records, err := s.loadAll(ctx, storage)
	if err != nil {
		return nil, err
	}
	newest := 0
	for i, r := range records {
		if r.written.After(records[newest].written) {
			newest = i
		}
	}
	found := records[newest]
	s.seen(found.written)
	if newest > 0 {
		_ = s.fleet.store(ctx, storage, s.places[0], found) // a failure has been noted; the record is good
	}
	return found.content, nil
}

// loadAll loads the records under all keys at the same time. One that is absent is empty.
func (s *Slot) loadAll(ctx context.Context, storage *session) ([]record, error) {
	records, errs := make([]record, len(s.places)), make([]error, len(s.places))
	var all sync.WaitGroup
	for i, p := range s.places {
		all.Go(func() { records[i], errs[i] = s.fleet.load(ctx, storage, p) })
	}
	all.Wait()
	return records, cmp.Or(errs...)
}

// Store stores the record, so that it counts as newer than those that Load has returned, even if the
// clock of their writer is ahead.
func (s *Slot) Store(ctx context.Context, content []byte) error {
	storage, err := s.fleet.ready(ctx, "store")
	if err != nil {
		return err
	}
	s.mu.Lock()
	written := time.Now()
	if !written.After(s.newest) {
		written = s.newest.Add(1)
	}
	s.mu.Unlock()
	s.seen(written)
	return s.fleet.store(ctx, storage, s.places[0], record{written, content})
}

func (s *Slot) seen(written time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if written.After(s.newest) {
		s.newest = written
	}
}

// load returns the record at the place, an empty one if there is none.
func (f *Fleet) load(ctx context.Context, s *session, p place) (record, error) {
	var sealed []byte
	var damaged bool
	err := f.call(ctx, s, loading, func(ctx context.Context) (err error) {
		sealed, damaged, err = f.read(ctx, s.storage, p.name)
		return err
	})
	if err != nil || sealed == nil && !damaged {
		return record{}, err
	}
	r, err := p.open(sealed)
	f.noteDamage(p.name, err != nil)
	if err != nil {
		return record{}, nil //nolint:nilerr // a record that cannot be opened counts as absent
	}
	return r, nil
}

// read returns the value of the key, or nil if there is none. Some storages wrap what they store, and fail if the
// wrapping is damaged. So a failure whose cause is unknown is taken for damage if the storage can load another key.
func (f *Fleet) read(ctx context.Context, s Storage, key string) (value []byte, damaged bool, err error) {
	if value, err = loadIfPresent(ctx, s, key); err == nil || ctx.Err() != nil || reason(err) != unknownReason {
		return value, false, err
	}
	if _, other := loadIfPresent(ctx, s, f.probeKey); other != nil {
		return nil, false, err
	}
	return nil, true, nil
}

// loadIfPresent returns the value of the key, or nil if there is none.
func loadIfPresent(ctx context.Context, s Storage, key string) ([]byte, error) {
	value, err := s.Load(ctx, key)
	if isAbsent(ctx, err) {
		return nil, nil
	}
	return value, err
}

// isAbsent reports whether the error of a call with this context says that there is no such key. Some storages
// say so of a key that they could not look for in time.
func isAbsent(ctx context.Context, err error) bool {
	return errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil
}

func (f *Fleet) store(ctx context.Context, s *session, p place, r record) error {
	sealed := p.seal(r)
	return f.call(ctx, s, storing, func(ctx context.Context) error {
		return s.storage.Store(ctx, p.name, sealed)
	})
}

// noteDamage warns about a record that cannot be opened, once until it can be opened again.
func (f *Fleet) noteDamage(name string, damaged bool) {
	f.mu.Lock()
	known := f.damaged[name]
	if damaged {
		f.damaged[name] = true
	} else {
		delete(f.damaged, name)
	}
	f.mu.Unlock()
	if damaged && !known {
		f.options.Logger.Warn("a shared token cannot be opened and counts as absent: it was damaged, moved or sealed with another key",
			zap.String("storage_key", name))
	}
}

// ready returns the storage, or an error if it is to be left alone. It waits for the first attempt to open
// it, but no longer than until that is overdue.
func (f *Fleet) ready(ctx context.Context, name string) (*session, error) {
	select {
	case <-f.opened:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f.mu.Lock()
	s, usable := f.current, f.current != nil && !f.degraded
	if name == "lock" && (f.stopped || f.locking.Err() != nil) { // all locks are about to be released
		usable = false
	}
	f.mu.Unlock()
	if !usable {
		f.options.Count(name, "skipped")
		return nil, errLeftAlone
	}
	return s, nil
}

// usable reports whether this storage is in use, and not left alone.
func (f *Fleet) usable(s *session) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current == s && !f.degraded
}
