package share

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"
)

var (
	errLeftAlone = errors.New("the token storage is left alone, because it is not usable")
	errBusy      = errors.New("too many operations of the token storage are under way")
	errPanicked  = errors.New("panicked")
	errOther     = errors.New("read something else than was written")
)

// kind is what an operation is, and what follows from it.
type kind struct {
	name   string        // in errors and of the metric
	silent bool          // whether it is not counted
	judged bool          // whether the storage is left alone if it fails
	limit  time.Duration // how long it may take; 0: Options.Timeout
}

var (
	loading   = kind{name: "load", judged: true}
	storing   = kind{name: "store", judged: true}
	unlocking = kind{name: "unlock"}
	probing   = kind{name: "probe", silent: true}           // the whole probe is counted
	listing   = kind{name: "list", limit: 30 * time.Second} // there may be many keys, and nobody waits
	dating    = kind{name: "modified", silent: true}        // there is no metric of it
	deleting  = kind{name: "delete"}
)

// operation is one call of the storage that may hang.
type operation struct {
	kind
	done     chan struct{} // is closed when the result is known, after limit at the latest
	returned chan struct{} // is closed when the call has returned
	finished sync.Once
	err      *failure // once done
}

// failure says in our words which operation failed and how. It quotes no text of the storage.
type failure struct {
	operation, reason string
	result            string // for the metric
}

func (f *failure) Error() string { return f.operation + ": " + f.reason }

// resultOrOK returns the result for the metric. The failure may be nil.
func (f *failure) resultOrOK() string {
	if f == nil {
		return "ok"
	}
	return f.result
}

// newFailure returns nil for a nil error. limit is how long the operation might take, or 0 if only the
// storage knows.
func newFailure(operation string, err error, limit time.Duration) *failure {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		if limit == 0 {
			return &failure{operation, "no response in time", "timeout"}
		}
		return &failure{operation, fmt.Sprintf("no response within %v", limit), "timeout"}
	}
	return &failure{operation, reason(err), "error"}
}

const unknownReason = "the storage reports an error"

// reason says in our words what an error of a storage means.
func reason(err error) string {
	for _, known := range []struct {
		err  error
		text string
	}{
		{errPanicked, "the storage panicked"},
		{errOther, "the storage does not return what was written to it"},
		{context.Canceled, "cancelled"},
		{fs.ErrPermission, "permission denied"},
		{syscall.ENOSPC, "no space is left"},
		{syscall.EROFS, "it is read-only"},
		{syscall.ECONNREFUSED, "connection refused"},
		{syscall.ECONNRESET, "connection reset"},
	} {
		if errors.Is(err, known.err) {
			return known.text
		}
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return "its host name cannot be resolved"
	}
	if network, ok := errors.AsType[net.Error](err); ok && network.Timeout() {
		return "its connection timed out"
	}
	return unknownReason
}

// call makes the call, and returns after the operation's timeout at the latest, even if the call ignores
// its context. If too many operations are under way it waits for a place in that time, too. The call continues
// if ctx ends.
func (f *Fleet) call(ctx context.Context, s *session, k kind, call func(context.Context) error) error {
	started := f.tryStart(s, k, call)
	if started == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.limitOf(k), errBusy)
		defer cancel()
		if err := f.awaitTurn(ctx, s); err != nil {
			if !k.silent {
				f.options.Count(k.name, "skipped")
			}
			return err
		}
		started = f.startAtPlace(s, k, call)
	}
	select {
	case <-started.done:
		if started.err != nil {
			return started.err
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// limitOf returns how long an operation may take.
func (f *Fleet) limitOf(k kind) time.Duration { return cmp.Or(k.limit, f.options.Timeout) }

// tryStart begins an operation in the background, or returns nil if too many are under way.
func (f *Fleet) tryStart(s *session, k kind, call func(context.Context) error) *operation {
	select {
	case f.places <- struct{}{}:
		return f.startAtPlace(s, k, call)
	default:
		return nil
	}
}

// startAtPlace is tryStart for whoever has a place.
func (f *Fleet) startAtPlace(s *session, k kind, call func(context.Context) error) *operation {
	limit := f.limitOf(k)
	o := &operation{kind: k, done: make(chan struct{}), returned: make(chan struct{})}
	f.busy.add(1)
	ctx, cancel := context.WithTimeout(k.context(s), limit)
	overdue := time.AfterFunc(limit, func() {
		f.finish(s, o, newFailure(o.name, context.DeadlineExceeded, limit))
	})
	go func() {
		failed := newFailure(o.name, errPanicked, limit) // unless it returns
		defer func() {
			_ = recover()
			overdue.Stop()
			f.finish(s, o, failed)
			cancel()
			<-f.places
			close(o.returned)
		}()
		err := call(ctx)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = ctx.Err() // whatever the storage calls it
		}
		failed = newFailure(o.name, err, limit)
	}()
	return o
}

// context returns what the operation's context comes from: it ends when the storage is closed, except
// that a lock is released nevertheless.
func (k kind) context(s *session) context.Context {
	if k == unlocking {
		return context.WithoutCancel(s.ctx)
	}
	return s.ctx
}

// finish notes the result of an operation: nil if it has succeeded. Only the first result counts.
func (f *Fleet) finish(s *session, o *operation, failed *failure) {
	o.finished.Do(func() {
		o.err = failed
		if !o.silent {
			f.options.Count(o.name, failed.resultOrOK())
		}
		if o.judged && failed != nil {
			f.degrade(s, failed)
		}
		f.busy.add(-1)
		close(o.done)
	})
}

// awaitTurn waits for a place until ctx ends. It returns an error without one, and if the storage fails meanwhile.
func (f *Fleet) awaitTurn(ctx context.Context, s *session) error {
	if !f.awaitPlace(ctx) {
		return context.Cause(ctx)
	}
	if !f.usable(s) {
		<-f.places
		return errLeftAlone
	}
	return nil
}

// awaitPlace waits for a place among the operations under way until ctx ends, and reports whether it has one.
func (f *Fleet) awaitPlace(ctx context.Context) bool {
	select {
	case f.places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}
