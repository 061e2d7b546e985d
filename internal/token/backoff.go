package token

import (
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

const (
	minBackoff = time.Second
	maxBackoff = time.Minute

	// How often a request inside a back-off may look at the credentials again.
	credentialsPause = time.Second
)

// Failure is a failure of the last attempt to get a token, remembered for its back-off.
type Failure struct {
	err         *oauth.Error
	at          time.Time
	wait        time.Duration // the back-off; from at on
	consecutive int           // how many failures in a row have lengthened it
	credentials string        // fingerprint of the credentials that failed
}

// NewFailure remembers err. before is the failure of the attempt before, or nil.
func NewFailure(err *oauth.Error, before *Failure, credentials string, now time.Time) *Failure {
	f := &Failure{err: err, at: now, consecutive: 1, credentials: credentials}
	if before != nil {
		f.consecutive += before.consecutive
	}
	f.wait = max(backoff(f.consecutive), min(err.RetryAfter, oauth.MaxRetryAfter))
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

// Left is what is left of the back-off; zero without a failure.
func (f *Failure) Left(now time.Time) time.Duration {
	if f == nil {
		return 0
	}
	return max(0, f.wait-clock.Elapsed(f.at, now))
}

// withoutBackoff is the failure with its back-off ended, and the next one short again.
func (f *Failure) withoutBackoff() *Failure {
	if f == nil {
		return nil
	}
	ended := *f
	ended.wait, ended.consecutive = 0, 0
	return &ended
}

// AsError is the error for requests inside the back-off: they learn when to come again, in whole
// seconds as in Retry-After.
func (f *Failure) AsError(now time.Time) *oauth.Error {
	err := *f.err
	err.RetryAfter = max(time.Second, (f.Left(now) + time.Second - 1).Truncate(time.Second))
	return &err
}
