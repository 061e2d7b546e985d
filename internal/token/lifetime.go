package token

import (
	"math/rand/v2"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

const (
	// A token is not sent in the last moments of its life, because a request needs time to arrive.
	maxHardMargin = 5 * time.Second

	// How long before its expiry a token is replaced, unless `refresh_before` says.
	maxRefreshMargin = 5 * time.Minute

	// The shortest pause between two requests that keep yielding the same token.
	minSameTokenPause = 400 * time.Millisecond
)

// cached is a token in the hands of a source, with what its life means for requests. It does
// not change.
type cached struct {
	refreshAfter time.Duration // from sent on; then a newer one is fetched in the background
	oauth.Token
	usableFor time.Duration // from sent on; then the token is no longer sent
}

// newCached works out when t has to be refreshed. before is the last token held, or nil.
func newCached(t *oauth.Token, before *cached, refreshBefore time.Duration, now time.Time) *cached {
	if before == nil || before.Value != t.Value {
		return &cached{
			Token:        *t,
			usableFor:    t.Lifetime - hardMargin(t.Lifetime),
			refreshAfter: t.Lifetime - jitterMargin(t.Lifetime, refreshMargin(t.Lifetime, refreshBefore)),
		}
	}
	return newCachedAgain(t, before, now)
}

// newCachedAgain holds a token that the server has handed out once more. Some servers do so until
// it dies: the next refresh is as late as allowed, and the pauses between further ones halve
// until they are too short; then it is left to expire.
func newCachedAgain(t *oauth.Token, before *cached, now time.Time) *cached {
	if !t.HasExpiresIn && before.usable(now) {
		// Handing it out again has made it no younger.
		again := *t
		again.Sent, again.Lifetime = before.Sent, before.Lifetime
		t = &again
	}
	hard, age := hardMargin(t.Lifetime), clock.Elapsed(t.Sent, now)
	h := &cached{Token: *t, usableFor: t.Lifetime - hard}
	h.refreshAfter = h.usableFor
	if pause := (h.usableFor - age) / 2; pause >= minSameTokenPause {
		h.refreshAfter = max(t.Lifetime-2*hard, age+pause)
	}
	return h
}

func (h *cached) usable(now time.Time) bool {
	return h != nil && clock.Elapsed(h.Sent, now) < h.usableFor
}

// expires is the end of the token's life on the wall clock.
func (h *cached) expires() time.Time {
	return h.Sent.Add(h.Lifetime).Round(0)
}

func hardMargin(life time.Duration) time.Duration {
	return min(maxHardMargin, life/10)
}

// refreshMargin is how long before its expiry a token is to be replaced.
func refreshMargin(life, refreshBefore time.Duration) time.Duration {
	if refreshBefore <= 0 {
		refreshBefore = min(life/5, maxRefreshMargin)
	}
	return clampMargin(life, refreshBefore)
}

// jitterMargin varies a margin by ±10 %, so that many proxies do not refresh at one moment.
func jitterMargin(life, margin time.Duration) time.Duration {
	return clampMargin(life, jitter(margin, 0.1))
}

func clampMargin(life, margin time.Duration) time.Duration {
	return min(max(margin, 2*hardMargin(life)), life/2)
}

// jitter varies d by up to the given part of it, in both directions.
func jitter(d time.Duration, part float64) time.Duration {
	return time.Duration(float64(d) * (1 + part*(2*rand.Float64()-1))) //nolint:gosec // nobody gains from guessing it
}
