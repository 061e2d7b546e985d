package token

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// retryPauses are the pauses before the quick retries within one attempt (rule 8).
var retryPauses = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond}

// ErrTimeout is the error of an attempt that has yielded no token in time.
var ErrTimeout = oauth.AsError(context.DeadlineExceeded)

var (
	errTooLate  = oauth.OutageErrorf("the token had expired before it arrived")
	errPanicked = oauth.OutageErrorf("fetching a token failed because of a bug; the log has its place")
)

// attempt is one running attempt to get a token: a token request and its quick retries. Any number of
// requests wait for it; it continues when they leave.
type attempt struct {
	purpose
	ctx  context.Context // ends at the attempt's deadline
	done chan struct{}   // closed when token or err is set

	inARow   int  // how many token requests in a row have failed by the record
	replaces bool // whether an API has rejected the token that was current, once it has ended

	token   *oauth.Token
	err     error // an *oauth.Error
	settled bool  // by the record, without a token request
}

// purpose is why an attempt was begun, as far as it matters to other replicas.
type purpose struct {
	forced   bool   // by Refresh: the token has to be a new one
	rejected string // to replace the token with this value, which an API has rejected; "": not because of that
	own      bool   // and the token has to be one that this replica requests
}

// finishedAttempt returns an attempt that has yielded t already.
func finishedAttempt(t *oauth.Token) *attempt {
	a := &attempt{ctx: context.Background(), done: make(chan struct{}), token: t}
	close(a.done)
	return a
}

// wait returns the result of the attempt, or ctx's error if the caller leaves first.
func (a *attempt) wait(ctx context.Context) (*oauth.Token, error) {
	select {
	case <-a.done:
		return a.token, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-a.ctx.Done():
	}
	// The deadline applies to the callers even if the fetcher hangs, for example on a file.
	select {
	case <-a.done:
		return a.token, a.err
	default:
		err := *ErrTimeout
		err.RetryAfter = minBackoff
		return nil, &err
	}
}

// wasSettled reports whether the attempt has ended without a token request of this replica.
func (a *attempt) wasSettled() bool {
	select {
	case <-a.done:
		return a.settled
	default:
		return false
	}
}

// run makes the attempt with the user's fetcher and finishes it.
func (s *Source) run(a *attempt, cancel context.CancelFunc, u *User) {
	defer cancel()
	wait(a.ctx, s.untilNextLook())
	r := &request{user: u}
	defer func() { r.part.end() }()
	for i := 0; ; i++ {
		started := s.now()
		err := r.prepare(a.ctx)
		if err == nil {
			prepared := s.now()
			if s.settle(a, r) {
				return
			}
			started = started.Add(s.now().Sub(prepared)) // waiting for others is no part of the token request
		}
		s.requests.Add(1)
		var t *oauth.Token
		if err == nil {
			t, err = r.fetch(a.ctx)
		}
		ended := s.now()
		event := Event{At: ended, Err: err, Duration: ended.Sub(started)}
		if r.prepared != nil { // otherwise the response is that of a flow or of discovery
			event.Status = statusOf(t, err)
		}
		switch {
		case err == nil && s.repeatsEnding(t) && wait(a.ctx, lookPause):
			s.noteEnding()
			event.Expires = t.Sent.Add(t.Lifetime).Round(0)
		case err != nil && err.Transient && i < len(retryPauses) && wait(a.ctx, jitter(retryPauses[i], 0.5)):
			s.failures.Add(1)
			if !err.Responded {
				r.part.stopAnnouncing() // the cause may be on this side, and others must not wait for retries
			}
		default:
			r.part.publish(s.finish(a, t, r, event))
			return
		}
		s.notify(event)
	}
}

// statusOf returns the status of the token endpoint's response, or 0 if there was none.
func statusOf(t *oauth.Token, err *oauth.Error) int {
	if err != nil {
		return err.ServerStatus
	}
	return t.Status
}

// request is the token request of one attempt. It is prepared each time that it is made.
type request struct {
	user        *User
	prepared    Prepared // nil: not prepared
	credentials string   // fingerprint of the credentials in the request
	part        *part    // of the storage; nil: none
}

// fetch makes the request. Every failure is an *oauth.Error, panics included.
func (r *request) fetch(ctx context.Context) (*oauth.Token, *oauth.Error) {
	f, ok := InTime(ctx, func() fetched { return r.fetchOrRecover(ctx) })
	switch {
	case !ok:
		return nil, failure(ctx, ctx.Err())
	case f.token != nil && f.err == nil:
		return f.token, nil
	default:
		return nil, failure(ctx, f.err)
	}
}

// prepare prepares the request with the values as they are now (rule 12). Every failure is an *oauth.Error,
// panics included.
func (r *request) prepare(ctx context.Context) *oauth.Error {
	r.prepared = nil
	// It returns soon after ctx has ended even if reading a file hangs: otherwise no attempt could follow.
	p, ok := InTime(ctx, func() preparation { return r.prepareOrRecover(ctx) })
	switch {
	case !ok:
		r.credentials = unknownCredentials
		return failure(ctx, ctx.Err())
	case p.prepared != nil && p.err == nil:
		r.prepared, r.credentials = p.prepared, p.credentials
		return nil
	case p.err == nil:
		r.credentials = credentialsOf(r.user)
		return errPanicked
	default:
		r.credentials = p.credentials
		return failure(ctx, p.err)
	}
}

// identity returns the identity of the request, or nil if it must not be shared or has none in time.
func (r *request) identity(ctx context.Context) []byte {
	identity, _ := InTime(ctx, func() []byte {
		defer RecoverAndLog(r.user.log(), "preparing a token request")
		return r.prepared.Identity()
	})
	return identity
}

// failure returns why there is no token: err, or a timeout. It returns errPanicked if err is nil.
func failure(ctx context.Context, err error) *oauth.Error {
	if err == nil {
		return errPanicked
	}
	failed := oauth.AsError(err)
	if ctx.Err() != nil && failed.Class == oauth.ClassOutage && failed.Status != http.StatusGatewayTimeout {
		return ErrTimeout
	}
	return failed
}

// preparation is what Fetcher.Prepare returns.
type preparation struct {
	prepared    Prepared
	credentials string
	err         error
}

// prepareOrRecover keeps a panic in a fetcher from ending the process. It returns nothing then.
func (r *request) prepareOrRecover(ctx context.Context) (p preparation) {
	defer RecoverAndLog(r.user.log(), "preparing a token request")
	p.prepared, p.credentials, p.err = r.user.Fetcher.Prepare(ctx)
	return p
}

// fetched is what Prepared.Fetch returns.
type fetched struct {
	token *oauth.Token
	err   error
}

// fetchOrRecover keeps a panic in a fetcher from ending the process. It returns nothing then.
func (r *request) fetchOrRecover(ctx context.Context) (f fetched) {
	defer RecoverAndLog(r.user.log(), "fetching a token")
	f.token, f.err = r.prepared.Fetch(ctx)
	return f
}

// hangGrace is how long after its deadline a function may still say what took so long.
const hangGrace = 100 * time.Millisecond

// InTime returns the result of run. If run hangs, for example on a file of a network file system, it
// returns false soon after ctx has ended, and what run returns later is dropped.
func InTime[T any](ctx context.Context, run func() T) (result T, ok bool) {
	results := make(chan T, 1)
	go func() { results <- run() }()
	select {
	case result = <-results:
		return result, true
	case <-ctx.Done():
	}
	select {
	case result = <-results:
		return result, true
	case <-time.After(hangGrace):
		return result, false
	}
}

// RecoverAndLog, when deferred, recovers from a panic and logs it. The panic's text may contain a
// secret, so only its type is logged.
func RecoverAndLog(log *zap.Logger, doing string) {
	if p := recover(); p != nil {
		log.Error("panic while "+doing,
			zap.String("type", fmt.Sprintf("%T", p)), zap.ByteString("stack", debug.Stack()))
	}
}

// wait waits before a token request. It reports false if the attempt's deadline comes first, and does not
// wait then.
func wait(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// causedBy returns a context that belongs to the trace of ctx, but does not end with it.
func causedBy(ctx context.Context) context.Context {
	return trace.ContextWithSpan(context.Background(), trace.SpanFromContext(ctx))
}
