package token

import (
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// Some servers grant the same token until it dies, with the whole seconds that are left of its life: …, 2,
// 1, 0, then a new one. Others say 0 always and mean nothing by it. The next response tells them apart,
// if it is asked for a second later (rule 5).

// lookPause is the shortest pause after a response without news: one that repeats the current token, or
// says that nothing is left of its life.
const lookPause = time.Second

// repeatsEnding reports whether t is the last token obtained, of whose life nothing is left. The time that
// the server promised for it before is nearly over, so it is better to look again than to send it on.
func (s *Source) repeatsEnding(t *oauth.Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.Ending || s.ending || !s.holds(t) {
		return false
	}
	s.lookedAt = s.now()
	return true
}

// holds reports whether the last token obtained has the value of t.
func (s *Source) holds(t *oauth.Token) bool {
	c := s.cached.Load()
	return c != nil && c.Value == t.Value
}

// noteEnding notes that the last response said that nothing is left of its token's life.
func (s *Source) noteEnding() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
}

// withMeaning returns t with the default lifetime if it is the second in a row of whose life nothing is
// left. Call it with mu held, once for each token.
func (s *Source) withMeaning(t *oauth.Token, now time.Time) *oauth.Token {
	meaningless := t.Ending && s.ending && clock.Elapsed(s.lookedAt, t.Sent) >= lookPause
	if s.ending = t.Ending; t.Ending || s.holds(t) {
		s.lookedAt = now
	}
	if !meaningless {
		return t
	}
	undated := *t
	undated.Lifetime, undated.HasExpiresIn, undated.Ending = t.Default, false, false
	return &undated
}

// untilNextLook returns how long the next token request has to wait.
func (s *Source) untilNextLook() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, lookPause-clock.Elapsed(s.lookedAt, s.now()))
}
