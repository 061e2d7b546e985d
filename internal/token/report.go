package token

import (
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// rejectionLogPause is how long rejections are only counted after one was logged.
const rejectionLogPause = 10 * time.Minute

// reporter remembers what was logged, so that each change of state is logged once.
type reporter struct {
	mu         sync.Mutex
	failed     *oauth.Error // the failure that was logged last, nil after a success
	usable     bool         // whether there was a usable token then
	failures   int          // since the last success
	missing    string       // the missing scopes that were logged last
	rejectedAt time.Time    // when a rejection was logged last
}

// report logs the result of an attempt if it differs from the one before. failed is nil after a
// success; next is how long the back-off after a failure is.
func (s *Source) report(failed *oauth.Error, next time.Duration) {
	log, newest := s.logger()
	current := s.Current()
	s.reporter.mu.Lock()
	defer s.reporter.mu.Unlock()
	if failed != nil {
		s.reporter.logFailure(log, newest.Observer, failed, current != nil, next)
		return
	}
	s.reporter.logRecovery(log)
	s.reporter.logMissingScopes(log, current)
}

// reportRejection logs that an API has rejected a token, unless one was logged recently.
func (s *Source) reportRejection(now time.Time) {
	log, _ := s.logger()
	s.reporter.mu.Lock()
	defer s.reporter.mu.Unlock()
	if last := s.reporter.rejectedAt; !last.IsZero() && clock.Elapsed(last, now) < rejectionLogPause {
		return
	}
	s.reporter.rejectedAt = now
	log.Warn("the API rejected the token, which is replaced", zap.Uint64("rejected", s.rejections.Load()))
}

// logger returns the newest user and its logger, with the names of all connections of the source.
func (s *Source) logger() (log *zap.Logger, newest *User) {
	users := s.newestUsers()
	return users[0].log().With(zap.String("connection", connectionNames(users))), users[0]
}

func connectionNames(users []*User) string {
	names := make([]string, len(users))
	for i, u := range users {
		names[i] = u.Name
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (r *reporter) logFailure(log *zap.Logger, observer Observer, failed *oauth.Error, usable bool, next time.Duration) {
	r.failures++
	if r.failed != nil && r.failed.Class == failed.Class && r.failed.Code == failed.Code && r.usable == usable {
		return
	}
	r.failed, r.usable = failed, usable
	fields := []zap.Field{
		zap.String("class", string(failed.Class)),
		zap.String("reason", failed.Error()),
		zap.Duration("next_attempt_in", next),
	}
	if observer != nil {
		fields = append(fields, zap.String("token_url", observer.Endpoint()))
	}
	if usable {
		log.Warn("getting a new token failed; requests use the current one until it expires", fields...)
		return
	}
	log.Error("getting a token failed; requests are refused until there is one", fields...)
}

func (r *reporter) logRecovery(log *zap.Logger) {
	if r.failed != nil {
		log.Info("getting tokens works again", zap.Int("failures", r.failures))
	}
	r.failed, r.failures = nil, 0
}

func (r *reporter) logMissingScopes(log *zap.Logger, t *oauth.Token) {
	if t == nil {
		return
	}
	missing := strings.Join(t.Missing, " ")
	if missing != r.missing && missing != "" {
		log.Warn("the token lacks scopes that were requested", zap.Strings("missing", t.Missing))
	}
	r.missing = missing
}
