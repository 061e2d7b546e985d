package share

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"go.uber.org/zap"
)

const (
	probePrefix = "http_helper/probe/"

	minPause = time.Second
	maxPause = 30 * time.Second
)

// backoff is a pause that doubles from minPause to maxPause.
type backoff struct{ last time.Duration }

func (b *backoff) next() time.Duration {
	b.last = min(max(2*b.last, minPause), maxPause)
	return b.last
}

// degrade notes a failure, after which the storage is left alone until a probe succeeds. s is the storage
// that failed, or nil if it could not be opened; of one that is not in use any more nothing is noted.
func (f *Fleet) degrade(s *session, failed *failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s != f.current || f.ctx.Err() != nil {
		return
	}
	f.lastError = failed.Error()
	if f.degraded {
		return
	}
	if time.Since(f.since) > maxPause {
		f.pause = backoff{}
	}
	f.degraded, f.since = true, time.Now()
	if s != nil {
		s.failed <- struct{}{} // lookAfter has taken the one before
	}
	f.options.Logger.Warn("the token storage fails and is left alone; tokens are not shared meanwhile",
		zap.String("reason", f.lastError))
}

// recovered notes that the storage works again.
func (f *Fleet) recovered() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return
	}
	f.options.Logger.Info("the token storage works again; tokens are shared", zap.Duration("degraded", time.Since(f.since)))
	f.degraded, f.since, f.lastError = false, time.Now(), ""
}

// lookAfter probes the storage whenever it has failed. It returns when it must be opened again, or after
// Stop.
func (f *Fleet) lookAfter(s *session) {
	for {
		select {
		case <-s.failed:
		case <-f.ctx.Done():
			return
		}
		if !f.restore(s) {
			return
		}
	}
}

// restore leaves the storage alone for a while and probes it, until a probe succeeds. It returns false if
// none does for reopenAfter, and after Stop.
func (f *Fleet) restore(s *session) bool {
	ctx, cancel := context.WithTimeout(f.ctx, reopenAfter)
	defer cancel()
	for {
		wait(ctx.Done(), f.nextPause())
		if ctx.Err() != nil {
			return false
		}
		last, failed := f.probe(s)
		if failed == nil {
			f.recovered()
			return true
		}
		f.degrade(s, failed)
		// A storage that hangs must not hold one operation more with every probe.
		select {
		case <-last:
		case <-ctx.Done():
			return false
		}
	}
}

// nextPause returns how long the storage is left alone now. A storage that failed again soon after a probe
// is left alone for longer.
func (f *Fleet) nextPause() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pause.next()
}

// newProbeKey returns a storage key that no other process uses.
func newProbeKey() string { return probePrefix + hex.EncodeToString(randomBytes(16)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// probe writes, reads and deletes a key of its own. It also returns a channel that is closed when the last
// operation has returned, which may hang for longer than the probe waits for it.
func (f *Fleet) probe(s *session) (last <-chan struct{}, failed *failure) {
	value := randomBytes(32)
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return s.storage.Store(ctx, f.probeKey, value) },
		func(ctx context.Context) error {
			got, err := s.storage.Load(ctx, f.probeKey)
			if err == nil && !bytes.Equal(got, value) {
				err = errOther
			}
			return err
		},
		func(ctx context.Context) error { return s.storage.Delete(ctx, f.probeKey) },
	} {
		o := f.tryStart(s, probing, step)
		if o == nil {
			failed = &failure{"probe", errBusy.Error(), "skipped"}
			last = closedChannel()
			break
		}
		<-o.done
		if last, failed = o.returned, o.err; failed != nil {
			break
		}
	}
	f.options.Count("probe", failed.resultOrOK())
	return last, failed
}

func closedChannel() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}
