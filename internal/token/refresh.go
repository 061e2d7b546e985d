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
	ctx  context.Context // ends at the attempt's deadline
	done chan struct{}   // closed when token or err is set

	token *oauth.Token
	err   error // an *oauth.Error
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

// run makes the attempt with the user's fetcher and finishes it.
func (s *Source) run(a *attempt, cancel context.CancelFunc, u *User) {
	defer cancel()
	wait(a.ctx, s.untilNextLook())
	for i := 0; ; i++ {
		started := s.now()
		s.requests.Add(1)
		t, credentials, err := fetch(a.ctx, u)
		event := Event{Err: err, Duration: s.now().Sub(started)}
		switch {
		case err == nil && s.endsInHand(t) && wait(a.ctx, lookPause):
			s.noteEnding()
			event.Expires = t.Sent.Add(t.Lifetime).Round(0)
		case err != nil && err.Transient && i < len(retryPauses) && wait(a.ctx, jitter(retryPauses[i], 0.5)):
			s.failures.Add(1)
		default:
			s.finish(a, t, credentials, event)
			return
		}
		s.notify(event)
	}
}

// fetch makes one token request. Every failure is an *oauth.Error, panics included.
func fetch(ctx context.Context, u *User) (t *oauth.Token, credentials string, failed *oauth.Error) {
	f := fetchInTime(ctx, u)
	if f.token != nil && f.err == nil {
		return f.token, f.credentials, nil
	}
	if f.err == nil {
		return nil, credentialsOf(u), errPanicked
	}
	failed = oauth.AsError(f.err)
	if ctx.Err() != nil && failed.Class == oauth.ClassOutage && failed.Status != http.StatusGatewayTimeout {
		failed = ErrTimeout
	}
	return nil, f.credentials, failed
}

// fetched is what a fetcher returns.
type fetched struct {
	token       *oauth.Token
	credentials string
	err         error
}

// fetchInTime returns soon after ctx has ended even if the fetcher hangs: otherwise no attempt could
// follow.
func fetchInTime(ctx context.Context, u *User) fetched {
	f, ok := InTime(ctx, func() fetched { return fetchOrRecover(ctx, u) })
	if !ok {
		return fetched{credentials: unknownCredentials, err: ctx.Err()}
	}
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

// fetchOrRecover keeps a panic in a fetcher from ending the process. It returns nothing then.
func fetchOrRecover(ctx context.Context, u *User) (f fetched) {
	defer RecoverAndLog(u.log(), "fetching a token")
	f.token, f.credentials, f.err = u.Fetcher.Fetch(ctx)
	return f
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
