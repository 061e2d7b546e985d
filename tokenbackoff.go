package httphelper

import "time"

const (
	minBackoff = time.Second
	maxBackoff = time.Minute

	// How often a request inside a back-off may look at the credentials again.
	credentialsPause = time.Second
)

// fetchFailure is a failure of the last attempt to get a token, remembered for its back-off.
type fetchFailure struct {
	err         *tokenError
	at          time.Time
	wait        time.Duration // the back-off; from at on
	row         int           // how many failures in a row have lengthened it
	credentials string        // fingerprint of the credentials that failed
}

// newFetchFailure remembers err. before is the failure of the attempt before, or nil.
func newFetchFailure(err *tokenError, before *fetchFailure, credentials string, now time.Time) *fetchFailure {
	f := &fetchFailure{err: err, at: now, row: 1, credentials: credentials}
	if before != nil {
		f.row += before.row
	}
	f.wait = max(backoff(f.row), min(err.retryAfter, maxRetryAfter))
	return f
}

// backoff is how long to wait after so many failures in a row.
func backoff(row int) time.Duration {
	wait := minBackoff
	for range row - 1 {
		if wait *= 2; wait >= maxBackoff {
			break
		}
	}
	return min(jitter(min(wait, maxBackoff), 0.2), maxBackoff)
}

// left is what is left of the back-off; zero without a failure.
func (f *fetchFailure) left(now time.Time) time.Duration {
	if f == nil {
		return 0
	}
	return max(0, f.wait-elapsed(f.at, now))
}

// withoutBackoff is the failure with its back-off ended, and the next one short again.
func (f *fetchFailure) withoutBackoff() *fetchFailure {
	if f == nil {
		return nil
	}
	ended := *f
	ended.wait, ended.row = 0, 0
	return &ended
}

// asError is the error for requests inside the back-off: they learn when to come again, in whole
// seconds as in Retry-After.
func (f *fetchFailure) asError(now time.Time) *tokenError {
	err := *f.err
	err.retryAfter = max(time.Second, (f.left(now) + time.Second - 1).Truncate(time.Second))
	return &err
}
