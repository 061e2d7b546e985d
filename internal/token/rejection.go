package token

import (
	"context"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// replacePause is the shortest time between two attempts that begin because an API has rejected a token:
// an API that rejects every token must not cause a token request each time. A token that is younger may
// be rejected because the API's clock is behind (rule 18).
const replacePause = 10 * time.Second

// Replace returns a token to retry with after an API has rejected one, or nil. It waits for a newer token
// until ctx ends. The rejected one stays in use for everybody else: the API may have reasons of its own,
// and a token endpoint that fails then must not make their requests fail.
func (s *Source) Replace(ctx context.Context, rejected *oauth.Token) *oauth.Token {
	a, failed := s.reject(ctx, rejected)
	if a == nil {
		a = s.rejectAgain(ctx, rejected, failed)
	}
	if a == nil {
		return nil
	}
	other, err := a.wait(ctx)
	if err != nil || other.Value == rejected.Value {
		return nil
	}
	return other
}

// Reject has a token replaced that an API has rejected, like Replace, for a request that cannot be sent
// again. It waits for nothing.
func (s *Source) Reject(ctx context.Context, rejected *oauth.Token) {
	if a, failed := s.reject(ctx, rejected); a == nil {
		go s.rejectAgain(causedBy(ctx), rejected, failed)
	}
}

// reject returns the attempt that yields a token other than the rejected one. If there is none to be had
// now, it returns the failure of the last attempt, if that failed. It reports the rejection.
func (s *Source) reject(ctx context.Context, rejected *oauth.Token) (*attempt, *Failure) {
	at := s.now()
	a, failed, news := s.replacement(ctx, rejected)
	if news {
		s.noteRejection(at)
	}
	return a, failed
}

// rejectAgain is reject for a token that could not be replaced: now it may, if there is something new.
func (s *Source) rejectAgain(ctx context.Context, rejected *oauth.Token, failed *Failure) *attempt {
	if !s.somethingNew(ctx, failed) {
		return nil
	}
	a, _, _ := s.replacement(ctx, rejected)
	return a
}

// noteRejection counts the rejection of a token and tells of it. at is when the API rejected it.
func (s *Source) noteRejection(at time.Time) {
	s.rejections.Add(1)
	s.notify(Event{At: at, Rejected: true})
	s.reportRejection(at)
}

// replacement decides what follows a rejection. If it must not begin an attempt yet, it returns the
// failure of the last one, if that failed: other credentials than those may be tried at once. news is
// false for further rejections of a token that is being replaced or cannot be.
func (s *Source) replacement(ctx context.Context, rejected *oauth.Token) (a *attempt, failed *Failure, news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, now := s.cached.Load(), s.now()
	if c == nil || c.Value != rejected.Value {
		a, failed = s.joinLocked(ctx, now) // it has been replaced already
		return a, failed, false
	}
	news = s.rejected != c.Value
	s.rejected = c.Value
	switch {
	case clock.Elapsed(c.Sent, now) < replacePause && s.previousMayHelp(now):
		return finishedAttempt(&s.previous.Token), nil, news
	case s.attempt != nil:
		return s.attempt, nil, news
	case clock.Elapsed(s.replacedAt, now) < replacePause, s.failure.Left(now) > 0:
		return nil, s.failure, news
	}
	s.replacedAt = now
	if s.place != nil {
		s.recheckedAt = now // the attempt loads the record
	}
	return s.beginFor(ctx, purpose{rejected: c.Value}), nil, true
}

// previousMayHelp reports whether a request may be sent again with the previous token. That may be in the
// last moments of its life: at worst the API rejects it too. One that the API has only ever rejected is
// not sent again, so that an API that rejects every token does not get each request twice. Call it with mu
// held.
func (s *Source) previousMayHelp(now time.Time) bool {
	return s.previous.alive(now) && !s.previousRefused
}

// Accept notes that an API has accepted a token.
func (s *Source) Accept(t *oauth.Token) {
	if c := s.cached.Load(); c != nil && &c.Token == t && s.accepted.Load() != t {
		s.accepted.Store(t)
	}
}
