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

// reporter remembers what was logged, so that each change of state is logged once.
type reporter struct {
	mu       sync.Mutex
	failed   *oauth.Error // the failure that was logged last, nil when all is well
	live     bool         // whether there was a token in hand then
	failures int          // failures since
	missing  string       // the missing scopes that were logged last

	rejectedAt time.Time // when a rejection was logged last
}

// rejectionsPause is how long rejections are only counted after one was logged.
const rejectionsPause = 10 * time.Minute

// report logs the outcome of an attempt if it changes anything.
func (s *Source) report(failed *oauth.Error, next time.Duration) {
	log, speaker := s.log()
	current := s.Current()
	s.reporter.mu.Lock()
	defer s.reporter.mu.Unlock()
	if failed != nil {
		s.reporter.logFailure(log, speaker, failed, current != nil, next)
		return
	}
	s.reporter.logRecovery(log)
	s.reporter.logMissing(log, current)
}

// reportRejection logs that an API has rejected a token, if that is news.
func (s *Source) reportRejection(now time.Time) {
	log, _ := s.log()
	s.reporter.mu.Lock()
	defer s.reporter.mu.Unlock()
	if last := s.reporter.rejectedAt; !last.IsZero() && clock.Elapsed(last, now) < rejectionsPause {
		return
	}
	s.reporter.rejectedAt = now
	log.Warn("the API rejected the token, which is replaced", zap.Uint64("rejected", s.rejections.Load()))
}

// log is the logger for what concerns all connections of the source, and the one that speaks for them.
func (s *Source) log() (*zap.Logger, *User) {
	users := s.observers()
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

func (r *reporter) logFailure(log *zap.Logger, speaker *User, failed *oauth.Error, live bool, next time.Duration) {
	r.failures++
	if r.failed != nil && r.failed.Class == failed.Class && r.failed.Code == failed.Code && r.live == live {
		return
	}
	r.failed, r.live = failed, live
	fields := []zap.Field{
		zap.String("class", string(failed.Class)),
		zap.String("reason", failed.Error()),
		zap.Duration("next_attempt_in", next),
	}
	if speaker.Observer != nil {
		fields = append(fields, zap.String("token_url", speaker.Observer.Endpoint()))
	}
	if live {
		log.Warn("getting a new token failed; requests go on with the current one while it lives", fields...)
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

func (r *reporter) logMissing(log *zap.Logger, t *oauth.Token) {
	if t == nil {
		return
	}
	missing := strings.Join(t.Missing, " ")
	if missing != r.missing && missing != "" {
		log.Warn("the token lacks scopes that were asked for", zap.Strings("missing", t.Missing))
	}
	r.missing = missing
}
