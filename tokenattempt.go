package httphelper

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"go.uber.org/zap"
)

// The pauses before the quick retries within one attempt (rule 8).
var retryPauses = []time.Duration{100 * time.Millisecond, 300 * time.Millisecond}

// tokenAttempt is one running attempt to get a token. Any number of requests wait for it; it goes
// on when they leave.
type tokenAttempt struct {
	ctx  context.Context // ends at the attempt's deadline
	done chan struct{}   // closed when token or err is set

	token *grantedToken
	err   *tokenError
}

// wait returns what came out of the attempt, or ctx's error when the caller leaves before.
func (a *tokenAttempt) wait(ctx context.Context) (*grantedToken, error) {
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
		err := *errTokenTimeout
		err.retryAfter = minBackoff
		return nil, &err
	}
}

func (a *tokenAttempt) result() (*grantedToken, error) {
	if a.err != nil {
		return nil, a.err
	}
	return a.token, nil
}

// finishedAttempt is one that has yielded t already.
func finishedAttempt(t *grantedToken) *tokenAttempt {
	a := &tokenAttempt{ctx: context.Background(), done: make(chan struct{}), token: t}
	close(a.done)
	return a
}

var (
	errTokenTimeout = &tokenError{
		class:   classOutage,
		status:  http.StatusGatewayTimeout,
		message: "no token within token_timeout",
	}
	errTokenTooLate = &tokenError{
		class:   classOutage,
		status:  http.StatusServiceUnavailable,
		message: "the token had expired before it arrived",
	}
	errPanicked = &tokenError{
		class:   classOutage,
		status:  http.StatusServiceUnavailable,
		message: "fetching a token failed because of a bug; the log has its place",
	}
)

// run makes the attempt with the user's fetcher, and hands the result to everybody.
func (s *tokenSource) run(a *tokenAttempt, cancel context.CancelFunc, u *sourceUser) {
	defer cancel()
	for i := 0; ; i++ {
		started := s.now()
		s.requests.Add(1)
		t, credentials, err := s.fetchOnce(a.ctx, u)
		event := fetchEvent{failed: err, took: s.now().Sub(started)}
		if err == nil || !err.transient || i == len(retryPauses) || !pauseFor(a.ctx, retryPauses[i]) {
			s.finish(a, t, credentials, event)
			return
		}
		s.failures.Add(1)
		s.tell(event)
	}
}

// fetchOnce makes one token request. What goes wrong is always a tokenError, panics included.
func (s *tokenSource) fetchOnce(ctx context.Context, u *sourceUser) (t *grantedToken, credentials string, failed *tokenError) {
	t, credentials, err := guardedFetch(ctx, u)
	if t != nil && err == nil {
		return t, credentials, nil
	}
	if err == nil {
		return nil, credentialsOf(u), errPanicked
	}
	failed = asTokenError(err)
	if ctx.Err() != nil && failed.class == classOutage && failed.status != http.StatusGatewayTimeout {
		failed = errTokenTimeout
	}
	return nil, credentials, failed
}

// guardedFetch keeps a panic in a fetcher from ending the process. It returns nothing then.
func guardedFetch(ctx context.Context, u *sourceUser) (t *grantedToken, credentials string, err error) {
	defer logPanic(u.log(), "fetching a token")
	return u.fetcher.fetch(ctx)
}

// logPanic ends a panic when it is deferred. The panic's own text may hold a secret, so only its
// type is logged.
func logPanic(log *zap.Logger, doing string) {
	if p := recover(); p != nil {
		log.Error("panic while "+doing,
			zap.String("type", fmt.Sprintf("%T", p)), zap.ByteString("stack", debug.Stack()))
	}
}

// credentialsOf is the fingerprint of the credentials as they are now, "" if reading them panics.
func credentialsOf(u *sourceUser) string {
	defer logPanic(u.log(), "reading credentials")
	return u.fetcher.fingerprint()
}

// credentialsDiffer reports whether the credentials are others than those of a failure.
func credentialsDiffer(u *sourceUser, failed *fetchFailure) bool {
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
