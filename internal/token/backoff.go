package token

import (
	"context"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

const (
	minBackoff = time.Second
	maxBackoff = time.Minute

	// minRecheckPause is how long requests inside a back-off do not read the credentials and the record
	// again after one has done so.
	minRecheckPause = time.Second
)

// Failure is the failure of the last attempt, with its back-off.
type Failure struct {
	err         *oauth.Error
	at          time.Time
	wait        time.Duration // the length of the back-off
	consecutive int           // how many failures in a row have lengthened it
	credentials string        // fingerprint of the credentials that failed
	unanswered  bool          // this replica has made a token request that got no response
}

// NewFailure returns a failure with the back-off for it. before is the failure of the attempt before,
// or nil; credentials is the fingerprint of the credentials that failed, or "".
func NewFailure(err *oauth.Error, before *Failure, credentials string, now time.Time) *Failure {
	f := &Failure{err: err, at: now, consecutive: 1, credentials: credentials}
	if before != nil {
		f.consecutive += before.consecutive
	}
	f.wait = max(backoff(f.consecutive), min(err.RetryAfter, oauth.MaxRetryAfter))
	return f
}

// backoff returns how long to wait after so many consecutive failures.
func backoff(failures int) time.Duration {
	wait := minBackoff << min(failures-1, 6) // 2^6 seconds are more than maxBackoff
	return min(jitter(min(wait, maxBackoff), 0.2), maxBackoff)
}

// Left returns what is left of the back-off. It is zero if f is nil.
func (f *Failure) Left(now time.Time) time.Duration {
	if f == nil {
		return 0
	}
	return max(0, f.wait-clock.Elapsed(f.at, now))
}

// AsError returns the error for requests inside the back-off. Its RetryAfter is what is left of the
// back-off, in whole seconds.
func (f *Failure) AsError(now time.Time) *oauth.Error {
	err := *f.err
	err.RetryAfter = max(time.Second, (f.Left(now) + time.Second - 1).Truncate(time.Second))
	return &err
}

// inARow returns the failure as the last one of at least n in a row, for the back-off after the next one.
func (f *Failure) inARow(n int) *Failure {
	if f != nil && f.consecutive >= n || n == 0 {
		return f
	}
	return &Failure{consecutive: n}
}

// withoutBackoff returns the failure with its back-off ended. The next back-off is short again.
func (f *Failure) withoutBackoff() *Failure {
	if f == nil {
		return nil
	}
	ended := *f
	ended.wait, ended.consecutive = 0, 0
	return &ended
}

// resetBackoff ends the back-off of failed, if that is still the last failure, and the pause after a
// rejection.
func (s *Source) resetBackoff(failed *Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == failed {
		s.failure = failed.withoutBackoff()
		s.replacedAt = time.Time{}
	}
}

// somethingNew reports whether a token may be had now: the credentials differ from those that failed, which
// ends the back-off of failed, or another replica has obtained a token. failed may be nil. It looks at most
// once a second, because credentials may be files and the other token is in a storage, and waits no longer
// than for a token, because reading may hang.
func (s *Source) somethingNew(ctx context.Context, failed *Failure) bool {
	s.mu.Lock()
	may := (failed != nil || s.mayFindPlace()) && s.mayRecheck(s.now())
	u, timeout := s.primary(), s.timeout()
	s.mu.Unlock()
	if !may {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	changed := make(chan bool, 1)
	go func() { changed <- s.recheck(u, failed) }()
	select {
	case yes := <-changed:
		return yes
	case <-ctx.Done():
		return false
	}
}

// recheck ends the back-off of failed if the user's credentials differ from those that failed; otherwise it
// looks for another replica's token. It reports whether there is something new. Whoever mayRecheck allows it
// must call it.
func (s *Source) recheck(u *User, failed *Failure) bool {
	differ := credentialsDiffer(u, failed)
	adopted := !differ && s.look()
	s.mu.Lock()
	s.rechecking = false
	s.mu.Unlock()
	if differ {
		s.resetBackoff(failed)
	}
	return differ || adopted
}

// mayRecheck reports whether credentials and record may be read again: not so soon after the last time, and not
// while that hangs. Call it with mu held.
func (s *Source) mayRecheck(now time.Time) bool {
	if s.rechecking || clock.Elapsed(s.recheckedAt, now) < minRecheckPause {
		return false
	}
	s.rechecking, s.recheckedAt = true, now
	return true
}

// unknownCredentials is the fingerprint of credentials whose reading has not ended.
const unknownCredentials = "unknown"

// credentialsDiffer reports whether the user's credentials differ from those that failed. It does not
// read those again whose reading has not ended.
func credentialsDiffer(u *User, failed *Failure) bool {
	if failed == nil || failed.credentials == unknownCredentials {
		return false
	}
	current := credentialsOf(u)
	return current != "" && current != failed.credentials
}

// credentialsOf returns the fingerprint of the current credentials, or "" if reading them panics.
func credentialsOf(u *User) string {
	defer RecoverAndLog(u.log(), "reading credentials")
	return u.Fetcher.Fingerprint()
}
