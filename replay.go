package httphelper

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// canceled is a context that has ended: for starting what nobody waits for.
var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// errBodyTaken ends the reading of an attempt that was given up.
var errBodyTaken = errors.New("the request is being replayed")

// replayBody is a request's body that can be sent once more while it streams: it remembers what
// was read up to a limit. A nil one is an empty body.
//
// An http transport may go on reading a body after the API has answered, in a goroutine of its own.
// So each attempt reads through a handle: giving an attempt up takes its handle away, and what a
// read in progress still brings is kept for the next attempt.
type replayBody struct {
	limit   int
	trailer http.Header

	mu      sync.Mutex
	source  io.ReadCloser
	reading chan struct{} // closed when the read in progress ends; nil: none
	kept    []byte
	lost    bool  // more was read than is kept
	err     error // how the source ended
	current *bodyReader
	done    bool // no attempt follows
	closed  bool
}

func newReplayBody(req *http.Request, limit int64) *replayBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	return &replayBody{limit: int(min(limit, 1<<30)), trailer: req.Trailer, source: req.Body}
}

// attempt returns the body for one more attempt, from its beginning.
func (b *replayBody) attempt() io.ReadCloser {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = &bodyReader{body: b}
	return b.current
}

// replayable tells whether all that was read so far can be sent again.
func (b *replayBody) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost
}

// rewind gives the current attempt up. It fails when more was read than is kept.
func (b *replayBody) rewind() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lost {
		return false
	}
	b.current = nil
	return true
}

// finish says that no attempt follows, so that the body may be closed with the last one's.
func (b *replayBody) finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
	b.closeIfUnused()
}

// closeIfUnused closes the source when nobody will read it any more. b.mu is held.
func (b *replayBody) closeIfUnused() {
	if !b.done || b.closed || (b.current != nil && !b.current.closed) {
		return
	}
	b.closed = true
	b.kept = nil
	_ = b.source.Close()
}

// bodyReader is the body as one attempt sees it.
type bodyReader struct {
	body   *replayBody
	offset int
	closed bool
}

// Read reads what was kept, then the source.
func (r *bodyReader) Read(p []byte) (int, error) {
	b := r.body
	b.mu.Lock()
	for {
		if r.closed || b.current != r {
			b.mu.Unlock()
			return 0, errBodyTaken
		}
		if r.offset < len(b.kept) {
			n := copy(p, b.kept[r.offset:])
			r.offset += n
			b.mu.Unlock()
			return n, nil
		}
		if b.err != nil {
			b.mu.Unlock()
			return 0, b.err
		}
		if b.reading == nil {
			break
		}
		// A given-up attempt is still reading: what it gets is ours.
		waiting := b.reading
		b.mu.Unlock()
		<-waiting
		b.mu.Lock()
	}
	b.reading = make(chan struct{})
	b.mu.Unlock()
	return r.readSource(p)
}

// readSource reads from the source alone, and keeps what it got as long as a replay may need it.
func (r *bodyReader) readSource(p []byte) (int, error) {
	b := r.body
	n, err := b.source.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.reading)
	b.reading = nil
	if err != nil {
		b.err = err
		b.dropTrailers()
	}
	if b.current != r {
		// Given up meanwhile: the next attempt reads this from what is kept.
		b.kept = append(b.kept, p[:n]...)
		return 0, errBodyTaken
	}
	b.keep(p[:n])
	r.offset += n
	return n, err
}

// keep remembers bytes for a replay, within the limit. b.mu is held.
func (b *replayBody) keep(p []byte) {
	if b.lost || b.done || len(p) == 0 {
		return
	}
	if len(b.kept)+len(p) > b.limit {
		b.lost = true
		b.kept = nil
		return
	}
	b.kept = append(b.kept, p...)
}

// dropTrailers removes what the app may not say in a trailer either.
func (b *replayBody) dropTrailers() {
	for field := range b.trailer {
		if field == "Authorization" || field == "Dpop" || field == "Proxy-Authorization" {
			delete(b.trailer, field)
		}
	}
}

// Close ends the attempt's reading. The source stays open for a replay.
func (r *bodyReader) Close() error {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	r.closed = true
	b.closeIfUnused()
	return nil
}

var _ io.ReadCloser = (*bodyReader)(nil)
