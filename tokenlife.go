package httphelper

import (
	"math/rand/v2"
	"time"
)

const (
	// A token is not sent in the last moments of its life, because a request needs time to arrive.
	maxHardMargin = 5 * time.Second

	// How long before its expiry a token is replaced, unless `refresh_before` says.
	maxRefreshMargin = 5 * time.Minute

	// The shortest pause between two requests that keep yielding the same token.
	minSameTokenPause = 400 * time.Millisecond
)

// heldToken is a token in the hands of a source, with what its life means for requests. It does
// not change.
type heldToken struct {
	refreshAfter time.Duration // from sent on; then a newer one is fetched in the background
	grantedToken
	usableFor time.Duration // from sent on; then the token is no longer sent
}

// holdToken works out when t has to be refreshed. before is the last token held, or nil.
func holdToken(t *grantedToken, before *heldToken, refreshBefore time.Duration, now time.Time) *heldToken {
	if before == nil || before.value != t.value {
		return &heldToken{
			grantedToken: *t,
			usableFor:    t.lifetime - hardMargin(t.lifetime),
			refreshAfter: t.lifetime - jitterMargin(t.lifetime, refreshMargin(t.lifetime, refreshBefore)),
		}
	}
	return holdSameToken(t, before, now)
}

// holdSameToken holds a token that the server has handed out once more. Some servers do so until
// it dies: the next refresh is as late as allowed, and the pauses between further ones halve
// until they are too short; then it is left to expire.
func holdSameToken(t *grantedToken, before *heldToken, now time.Time) *heldToken {
	if !t.hasExpiresIn && before.usable(now) {
		// Handing it out again has made it no younger.
		again := *t
		again.sent, again.lifetime = before.sent, before.lifetime
		t = &again
	}
	hard, age := hardMargin(t.lifetime), elapsed(t.sent, now)
	h := &heldToken{grantedToken: *t, usableFor: t.lifetime - hard}
	h.refreshAfter = h.usableFor
	if pause := (h.usableFor - age) / 2; pause >= minSameTokenPause {
		h.refreshAfter = max(t.lifetime-2*hard, age+pause)
	}
	return h
}

func (h *heldToken) usable(now time.Time) bool {
	return h != nil && elapsed(h.sent, now) < h.usableFor
}

// expires is the end of the token's life on the wall clock.
func (h *heldToken) expires() time.Time {
	return h.sent.Add(h.lifetime).Round(0)
}

// elapsed is the time since then on the clock that has advanced further: the monotonic one stands
// still while a machine sleeps, the wall clock can be set back.
func elapsed(then, now time.Time) time.Duration {
	return max(now.Sub(then), time.Duration(now.UnixNano()-then.UnixNano()))
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
