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

// The pauses before the quick retries within one attempt (rule 8).
var retryPauses = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond}

// attempt is one running attempt to get a token. Any number of requests wait for it; it goes
// on when they leave.
type attempt struct {
	ctx  context.Context // ends at the attempt's deadline
	done chan struct{}   // closed when token or err is set

	token *oauth.Token
	err   *oauth.Error
}

// wait returns what came out of the attempt, or ctx's error when the caller leaves before.
func (a *attempt) wait(ctx context.Context) (*oauth.Token, error) {
	select {
	case <-a.done:
		return a.result()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-a.ctx.Done():
	}
	// The deadline holds for the waiters even if the fetcher is stuck, for example on a file.
	select {
	case <-a.done:
		return a.result()
	default:
		err := *ErrTimeout
		err.RetryAfter = minBackoff
		return nil, &err
	}
}

func (a *attempt) result() (*oauth.Token, error) {
	if a.err != nil {
		return nil, a.err
	}
	return a.token, nil
}

// finishedAttempt is one that has yielded t already.
func finishedAttempt(t *oauth.Token) *attempt {
	a := &attempt{ctx: context.Background(), done: make(chan struct{}), token: t}
	close(a.done)
	return a
}

var (
	ErrTimeout = &oauth.Error{
		Class:   oauth.ClassOutage,
		Status:  http.StatusGatewayTimeout,
		Message: "no token within token_timeout",
	}
	errTooLate = &oauth.Error{
		Class:   oauth.ClassOutage,
		Status:  http.StatusServiceUnavailable,
		Message: "the token had expired before it arrived",
	}
	errPanicked = &oauth.Error{
		Class:   oauth.ClassOutage,
		Status:  http.StatusServiceUnavailable,
		Message: "fetching a token failed because of a bug; the log has its place",
	}
)

// run makes the attempt with the user's fetcher, and hands the result to everybody.
func (s *Source) run(a *attempt, cancel context.CancelFunc, u *User) {
	defer cancel()
	for i := 0; ; i++ {
		started := s.now()
		s.requests.Add(1)
		t, credentials, err := s.fetchOnce(a.ctx, u)
		event := Event{Err: err, Duration: s.now().Sub(started)}
		if err == nil || !err.Transient || i == len(retryPauses) || !pauseFor(a.ctx, retryPauses[i]) {
			s.finish(a, t, credentials, event)
			return
		}
		s.failures.Add(1)
		s.notify(event)
	}
}

// fetchOnce makes one token request. What goes wrong is always a oauth.Error, panics included.
func (s *Source) fetchOnce(ctx context.Context, u *User) (t *oauth.Token, credentials string, failed *oauth.Error) {
	t, credentials, err := guardedFetch(ctx, u)
	if t != nil && err == nil {
		return t, credentials, nil
	}
	if err == nil {
		return nil, credentialsOf(u), errPanicked
	}
	failed = oauth.AsError(err)
	if ctx.Err() != nil && failed.Class == oauth.ClassOutage && failed.Status != http.StatusGatewayTimeout {
		failed = ErrTimeout
	}
	return nil, credentials, failed
}

// guardedFetch keeps a panic in a fetcher from ending the process. It returns nothing then.
func guardedFetch(ctx context.Context, u *User) (t *oauth.Token, credentials string, err error) {
	defer RecoverAndLog(u.log(), "fetching a token")
	return u.Fetcher.Fetch(ctx)
}

// RecoverAndLog ends a panic when it is deferred. The panic's own text may hold a secret, so only its
// type is logged.
func RecoverAndLog(log *zap.Logger, doing string) {
	if p := recover(); p != nil {
		log.Error("panic while "+doing,
			zap.String("type", fmt.Sprintf("%T", p)), zap.ByteString("stack", debug.Stack()))
	}
}

// credentialsOf is the fingerprint of the credentials as they are now, "" if reading them panics.
func credentialsOf(u *User) string {
	defer RecoverAndLog(u.log(), "reading credentials")
	return u.Fetcher.Fingerprint()
}

// credentialsDiffer reports whether the credentials are others than those of a failure.
func credentialsDiffer(u *User, failed *Failure) bool {
	now := credentialsOf(u)
	return now != "" && now != failed.credentials
}

// pauseFor waits about d before a retry. It reports false when the attempt's time does not allow one.
func pauseFor(ctx context.Context, d time.Duration) bool {
	d = jitter(d, 0.5)
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

// causedBy is a context of its own that belongs to the trace of ctx.
func causedBy(ctx context.Context) context.Context {
	return trace.ContextWithSpan(context.Background(), trace.SpanFromContext(ctx))
}
