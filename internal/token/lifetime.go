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

	// maxRefreshMargin is how long before its expiry a token is replaced at most, unless
	// refresh_before is set.
	maxRefreshMargin = 5 * time.Minute
)

// cached is a token that a source has obtained, with how long requests may use it. It is immutable.
//
// The token is embedded, so that a read returns a pointer to it and allocates nothing. refreshAfter is
// the only other field that a read of a fresh token needs, so it comes first.
type cached struct {
	refreshAfter time.Duration // from Sent on; then a newer token is fetched in the background
	oauth.Token
	usableFor time.Duration // from Sent on; then the token is no longer sent
	origin
}

// origin says where a token is from, and who else may use it.
type origin struct {
	adopted bool // another replica, or this one before a restart, has obtained it
	shared  bool // it is in the record, or was to be stored there: other replicas may use it
}

// newCached works out how long t may be used and when it is refreshed. before is the last token
// obtained, or nil.
func newCached(t *oauth.Token, before *cached, refreshBefore time.Duration, now time.Time) *cached {
	if before != nil && before.Value == t.Value {
		return newCachedAgain(t, before, now)
	}
	c := &cached{
		Token:     *t,
		usableFor: t.Lifetime - hardMargin(t.Lifetime),
		// Varied by ±10 %, so that many proxies do not refresh at the same moment.
		refreshAfter: t.Lifetime - clampMargin(t.Lifetime, jitter(refreshMargin(t.Lifetime, refreshBefore), 0.1)),
	}
	if t.Ending {
		c.refreshAfter = c.usableFor
	}
	return c
}

// newCachedAgain is newCached for a token that the server has granted again. Some servers do so until
// it expires: the next refresh is as late as allowed, and the pauses between further ones halve until
// they are too short. Then the token is left to expire.
func newCachedAgain(t *oauth.Token, before *cached, now time.Time) *cached {
	if !t.HasExpiresIn && before.usable(now) {
		// Without expires_in the server does not say that it lives longer now.
		again := *t
		again.Sent, again.Lifetime = before.Sent, before.Lifetime
		t = &again
	}
	hard, age := hardMargin(t.Lifetime), clock.Elapsed(t.Sent, now)
	c := &cached{Token: *t, usableFor: t.Lifetime - hard}
	c.refreshAfter = c.usableFor
	if pause := (c.usableFor - age) / 2; pause >= lookPause {
		c.refreshAfter = max(t.Lifetime-2*hard, age+pause)
	}
	return c
}

// usable reports whether the token may be sent. It is false if c is nil.
func (c *cached) usable(now time.Time) bool {
	return c != nil && clock.Elapsed(c.Sent, now) < c.usableFor
}

// alive reports whether the token has not expired, even if requests do not use it any more. It is false
// if c is nil.
func (c *cached) alive(now time.Time) bool {
	return c != nil && clock.Elapsed(c.Sent, now) < c.Lifetime
}

// expires returns the end of the token's life on the wall clock.
func (c *cached) expires() time.Time {
	return c.Sent.Add(c.Lifetime).Round(0)
}

// hardMargin returns how long before its expiry a token is no longer sent.
func hardMargin(lifetime time.Duration) time.Duration {
	return min(maxHardMargin, lifetime/10)
}

// refreshMargin returns how long before its expiry a token is refreshed, without jitter.
func refreshMargin(lifetime, refreshBefore time.Duration) time.Duration {
	if refreshBefore <= 0 {
		refreshBefore = min(lifetime/5, maxRefreshMargin)
	}
	return clampMargin(lifetime, refreshBefore)
}

func clampMargin(lifetime, margin time.Duration) time.Duration {
	return min(max(margin, 2*hardMargin(lifetime)), lifetime/2)
}

// jitter varies d by up to the given fraction of it, in both directions.
func jitter(d time.Duration, fraction float64) time.Duration {
	return time.Duration(float64(d) * (1 + fraction*(2*rand.Float64()-1))) //nolint:gosec // nobody gains from guessing it
}
