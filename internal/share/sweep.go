package share

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"path"
	"strings"
	"time"

	"go.uber.org/zap"
)

const (
	sweepEvery = 24 * time.Hour

	// unusedAfter is for how long nobody has written a record that is deleted. A token lives for a day
	// at most.
	unusedAfter = 48 * time.Hour
)

// dated is a storage that tells when a key was written.
type dated interface {
	Modified(ctx context.Context, key string) (time.Time, error)
}

// sweepDaily sweeps once a day, the first time after a random part of it, so that processes that start
// together do not sweep together.
func (f *Fleet) sweepDaily() {
	pause := rand.N(sweepEvery) //nolint:gosec // G404: chance, not a secret
	for f.sleep(pause) {
		f.sweep()
		pause = sweepEvery
	}
}

// sweep deletes what lies among the records and has not been written for long: those of connections that
// there are no more, of old secrets, keys and versions. So it does with what probes have left behind whose
// process has ended before the storage worked again. A key that cannot be dated or deleted is left for the
// next day, and all others too if the storage does not respond. Nobody waits for it, so the storage is not
// left alone because of it.
func (f *Fleet) sweep() {
	f.mu.Lock()
	s, usable := f.current, f.current != nil && !f.degraded
	f.mu.Unlock()
	if !usable {
		return
	}
	storage, ok := s.storage.(dated)
	if !ok {
		return
	}
	keys, err := f.list(s)
	deleted := 0
	for _, key := range keys {
		old, failed := f.isUnused(s, storage, key)
		if old {
			failed = f.delete(s, key)
			deleted++
		}
		if err = cmp.Or(err, failed); failed != nil && !mayConcernOneKey(failed) {
			break
		}
	}
	if err != nil {
		f.options.Logger.Warn("old shared tokens cannot be deleted from the token storage", zap.String("reason", err.Error()))
		return
	}
	f.options.Logger.Debug("deleted old shared tokens from the token storage", zap.Int("count", deleted))
}

// mayConcernOneKey reports whether an operation has failed with an error of the storage: with another key it
// may succeed.
func mayConcernOneKey(err error) bool {
	failed, ok := errors.AsType[*failure](err)
	return ok && failed.result == "error"
}

// list returns the keys that lie among the records, and those of probes.
func (f *Fleet) list(s *session) ([]string, error) {
	var keys []string
	err := f.call(s.ctx, s, listing, func(ctx context.Context) error {
		all, err := s.storage.List(ctx, "http_helper", true)
		if isAbsent(ctx, err) {
			return nil
		}
		for _, key := range all {
			ours := strings.HasPrefix(key, tokenPrefix) || strings.HasPrefix(key, probePrefix)
			if ours && path.Clean(key) == key {
				keys = append(keys, key)
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// isUnused reports whether the key has not been written for long. It has not if the storage cannot tell.
func (f *Fleet) isUnused(s *session, storage dated, key string) (bool, error) {
	var modified time.Time
	err := f.call(s.ctx, s, dating, func(ctx context.Context) (err error) {
		modified, err = storage.Modified(ctx, key)
		if isAbsent(ctx, err) { // another process has deleted it
			modified, err = time.Time{}, nil
		}
		return err
	})
	return err == nil && !modified.IsZero() && time.Since(modified) > unusedAfter, err
}

func (f *Fleet) delete(s *session, key string) error {
	return f.call(s.ctx, s, deleting, func(ctx context.Context) error { return s.storage.Delete(ctx, key) })
}
