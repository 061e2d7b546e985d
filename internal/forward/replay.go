package forward

import (
	"cmp"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// sendWithBody sends a request with token, which may be nil. It keeps of the body what is needed to send the
// request again.
func (t *Transport) sendWithBody(req *http.Request, q *Request, token *oauth.Token) (*http.Response, error) {
	if !q.direct {
		q.received = req
	}
	body := newReplayBody(req, q)
	defer body.finish()
	res, err := t.sendOnce(req, q, token, body, "")
	if err == nil {
		res, err = t.sendAgain(req, q, token, body, res)
	}
	if err != nil {
		return nil, body.blame(err, req.Context().Err())
	}
	return res, nil
}

// sendWithOtherToken sends a request again with another token when the API's response to token, which may be nil,
// rejects it (rule 18). If that one is another replica's and is rejected too, the request is replayed once more
// (rule 29).
func (t *Transport) sendWithOtherToken(req *http.Request, q *Request, token *oauth.Token, body *replayBody, res *http.Response) (*http.Response, error) {
	res, err := t.sendWithNonce(req, q, token, body, res)
	if err != nil || token == nil {
		return res, err
	}
	if !q.rejected && res.StatusCode < http.StatusBadRequest {
		q.Conn.Tokens.Accept(token)
	}
	if q.rejectedBefore || !q.replaces(token, res) {
		return res, nil
	}
	q.rejectedBefore = true
	other := q.replacement(req, token, res.StatusCode, body)
	res, err = t.replay(req, q, res, other, body)
	if err != nil || other == nil || !q.replaces(other, res) || !body.replayable() {
		return res, err
	}
	return t.replay(req, q, res, q.Conn.Tokens.ReplaceAdopted(req.Context(), other), body)
}

// replay sends a request again with another token than the one that res rejects. Without a token, or the
// whole body, it returns res.
func (t *Transport) replay(req *http.Request, q *Request, res *http.Response, token *oauth.Token, body *replayBody) (*http.Response, error) {
	if token == nil || !body.rewind() {
		return res, nil
	}
	CloseBody(res.Body)
	q.Conn.Metrics.Count(telemetry.Replayed)
	q.record.replayed = replayedUnauthorized
	res, err := t.sendOnce(req, q, token, body, "")
	if err != nil {
		return nil, err
	}
	return t.sendWithNonce(req, q, token, body, res)
}

// replaces reports whether a rejected token is to be replaced, because another one may help.
func (q *Request) replaces(token *oauth.Token, res *http.Response) bool {
	return q.rejected && q.options.RetryUnauthorized && !oauth.InsufficientScope(res.Header) && !oauth.NeedsNonce(res, token)
}

// rejects reports whether a response of the API rejects the token: by its status, or to gRPC clients by
// UNAUTHENTICATED in a trailers-only response, which has its trailers in the header.
func (q *Request) rejects(res *http.Response) bool {
	switch {
	case res.StatusCode == http.StatusOK:
		return slices.Equal(res.Header["Grpc-Status"], []string{grpcUnauthenticated}) && grpcType(q.received) != ""
	case len(q.Conn.RejectedStatuses) == 0:
		return res.StatusCode == http.StatusUnauthorized
	default:
		return slices.Contains(q.Conn.RejectedStatuses, res.StatusCode)
	}
}

// replacement has a token replaced that a response with a status rejects, and waits for the token to replay
// the request with if it can be replayed at all.
func (q *Request) replacement(req *http.Request, rejected *oauth.Token, status int, body *replayBody) *oauth.Token {
	if body.replayable() {
		return q.Conn.Tokens.Replace(req.Context(), rejected, status)
	}
	q.Conn.Tokens.Reject(req.Context(), rejected, status)
	return nil
}

// errBodyTaken ends the reading of an attempt that was given up.
var errBodyTaken = errors.New("the request is being replayed")

// replayBody is a request's body that streams and can be sent again: it keeps what was read, up to a
// limit. A nil *replayBody is an empty body.
//
// An http transport may continue to read a body after the API has responded, in a goroutine of its own.
// So each attempt reads through a bodyReader of its own, which stops working when the attempt is given
// up; what a read in progress still gets is kept for the next attempt.
type replayBody struct {
	limit   int64
	length  int64       // of the whole body; -1: not known
	trailer http.Header // the app's, whose values arrive when the source ends
	fields  []string    // those of trailer that are announced and may reach the API
	request *Request

	mu      sync.Mutex
	idle    sync.Cond // signaled when the read in progress ends
	source  io.ReadCloser
	reading bool
	kept    []byte
	lost    bool  // more was read than may be kept
	err     error // how the source ended
	current *bodyReader
	done    bool // no attempt follows
	closed  bool
}

func newReplayBody(req *http.Request, q *Request) *replayBody {
	if req.Body == nil || req.Body == http.NoBody {
		return nil
	}
	b := &replayBody{limit: q.options.ReplayBuffer, length: req.ContentLength, trailer: req.Trailer, request: q, source: req.Body}
	b.idle.L = &b.mu
	for field := range req.Trailer {
		if q.mayTrail(field) {
			b.fields = append(b.fields, field)
		}
	}
	return b
}

// attempt returns the body for one more attempt, from its beginning.
func (b *replayBody) attempt() *bodyReader {
	if b == nil {
		return nil
	}
	reader := &bodyReader{body: b}
	if b.trailer != nil {
		reader.trailer = make(http.Header, len(b.fields))
		for _, field := range b.fields {
			reader.trailer[field] = nil
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = reader
	return reader
}

// again returns the body for net/http, which sends a request again by itself when a connection has not
// processed it: an HTTP/2 server has refused its stream, or is about to close the connection. It
// implements http.Request.GetBody.
func (b *replayBody) again() (io.ReadCloser, error) {
	b.mu.Lock()
	given := b.current
	b.mu.Unlock()
	if given == nil || !b.rewind() {
		return nil, errNotSentAgain
	}
	reader := b.attempt()
	reader.trailer = given.trailer // net/http keeps the rest of the request
	return reader, nil
}

// replayable reports whether all that was read so far can be sent again.
func (b *replayBody) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.lost
}

// fits reports whether the body is within the limit, as far as that is known.
func (b *replayBody) fits() bool { return b == nil || b.length <= b.limit && b.replayable() }

// readAhead reads what is still missing of the body, as far as it may be kept, while no attempt does it:
// only then does net/http notice that the app leaves. The next attempt ends it.
func (b *replayBody) readAhead() {
	if b == nil || b.length > b.limit {
		return
	}
	reader := b.attempt()
	go func() { _, _ = io.CopyN(io.Discard, reader, b.limit) }()
}

// abandon gives the body up because the app has left, and waits until nothing reads it any more.
func (b *replayBody) abandon() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = nil
	for b.reading {
		b.idle.Wait()
	}
}

// blame returns the error for a request that failed because the app did not send its body to the end, and
// otherwise failure. left is why the request's context ended, if it did.
func (b *replayBody) blame(failure, left error) error {
	if b == nil {
		return failure
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := cmp.Or(b.err, left); err != nil && err != io.EOF {
		broken := brokenBodyError(err)
		broken.Outcome = b.request.SentOutcome()
		return broken
	}
	return failure
}

// rewind gives the current attempt up, and reports whether the body can be sent again.
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

// finish ends the last attempt: the source is closed once that does not read it any more.
func (b *replayBody) finish() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
	b.closeIfUnused()
}

// closeIfUnused closes the source when no attempt reads it any more. A read in progress ends first, because not
// every body may be closed meanwhile. b.mu is held.
func (b *replayBody) closeIfUnused() {
	if !b.done || b.closed || b.reading || (b.current != nil && !b.current.closed) {
		return
	}
	b.closed = true
	b.forget()
	_ = b.source.Close()
}

// bodyReader is the body as one attempt sees it.
type bodyReader struct {
	body    *replayBody
	trailer http.Header // of the attempt's request; nil: the app has announced none
	offset  int
	closed  bool
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
			defer b.mu.Unlock()
			r.fillTrailer()
			return 0, b.err
		}
		if !b.reading {
			break
		}
		// An attempt that was given up is still reading, and its bytes are for this one.
		b.idle.Wait()
	}
	b.reading = true
	b.mu.Unlock()
	return r.readSource(p)
}

// readSource reads from the source, while no other attempt does, and keeps what a replay may need.
func (r *bodyReader) readSource(p []byte) (int, error) {
	b := r.body
	n, err := b.source.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reading = false
	defer b.closeIfUnused()
	b.idle.Broadcast()
	if err != nil {
		b.err = err
	}
	if b.current != r {
		// The attempt was given up meanwhile; the next one reads these bytes from what is kept.
		if !b.closed {
			b.append(p[:n])
		}
		return 0, errBodyTaken
	}
	b.keep(p[:n])
	r.offset += n
	if err != nil {
		r.fillTrailer()
	}
	return n, err
}

// fillTrailer gives the attempt's request the app's trailers that may reach the API, once the source has
// ended. Each attempt has a map of its own, because its http transport may look at it at any time. b.mu is
// held.
func (r *bodyReader) fillTrailer() {
	if r.trailer == nil {
		return
	}
	for field, values := range r.body.trailer {
		if r.body.request.mayTrail(field) {
			r.trailer[field] = values
		}
	}
}

// keep keeps bytes for a replay if the body is within the limit. b.mu is held.
func (b *replayBody) keep(p []byte) {
	if b.lost || b.done || len(p) == 0 {
		return
	}
	if max(b.length, int64(len(b.kept)+len(p))) > b.limit {
		b.lost = true
		b.forget()
		return
	}
	b.append(p)
}

// DefaultReplayBuffer is the default of Options.ReplayBuffer for configurations.
const DefaultReplayBuffer = 64 << 10

const (
	smallBody  = 4 << 10 // bodies up to this size get a buffer of their own
	bufferSize = DefaultReplayBuffer
)

// replayBuffers are the buffers of larger bodies.
var replayBuffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// append appends to the kept bytes. b.mu is held.
func (b *replayBody) append(p []byte) {
	if need := len(b.kept) + len(p); max(int64(need), b.length) > smallBody && need > cap(b.kept) && need <= bufferSize {
		b.kept = append(replayBuffers.Get().(*[bufferSize]byte)[:0], b.kept...)
	}
	b.kept = append(b.kept, p...)
}

// forget drops the kept bytes. b.mu is held.
func (b *replayBody) forget() {
	if cap(b.kept) == bufferSize {
		replayBuffers.Put((*[bufferSize]byte)(b.kept[:bufferSize]))
	}
	b.kept = nil
}

// Close ends the attempt. The source stays open for a replay.
func (r *bodyReader) Close() error {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	r.closed = true
	b.closeIfUnused()
	return nil
}

var _ io.ReadCloser = (*bodyReader)(nil)
