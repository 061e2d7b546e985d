package token

import (
	"context"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// Replicas, which are sources of different processes with equal token requests, share one token by a record
// in a storage (rules 26 to 29, 32 and 33).
//
// An attempt loads the record before it makes a token request. A better token in it is adopted, and a recent
// failure is taken over. Otherwise the attempt asks for the lock, and looks at the record while it waits.
// Whoever has the lock looks once more, makes the token request, and stores the result. A request that takes
// long is announced in the record; if the others hear nothing, they do not wait for the lock any more.
//
// What is right follows from comparing the record with the current token. Without the lock, or with an old
// record, there are more token requests, and nothing else differs.

// Shared gives a source the place that it shares with equal sources of other processes.
type Shared interface {
	// Slot returns the place for token requests with this identity, or nil if nothing is shared now.
	Slot(identity []byte) Slot
}

// Slot is a place in a storage that holds one record.
type Slot interface {
	// Load returns the record. It returns nil, nil if there is none, or none that can be opened.
	Load(ctx context.Context) ([]byte, error)

	// Store replaces the record.
	Store(ctx context.Context, record []byte) error

	// Lock waits for the lock until ctx ends. Others may have it at the same time.
	Lock(ctx context.Context) (unlock func(), err error)
}

const (
	maxPatience = 2 * time.Second        // see patienceFor
	courtesy    = 500 * time.Millisecond // how long a replica whose request had no response lets others try first

	// The pauses between two looks at the record begin and end with these. With their jitter they are from 50
	// ms to 1 s.
	firstPause   = 63 * time.Millisecond
	longestPause = 830 * time.Millisecond
	pauseJitter  = 0.2

	// spread is, with its jitter, how far apart replicas are that hear nothing any more: from 1 ms to 400 ms.
	spread = 200 * time.Millisecond
)

// patienceFor returns how long an attempt waits for the storage, and for another replica of which it hears
// nothing.
func patienceFor(timeout time.Duration) time.Duration { return min(maxPatience, timeout/3) }

// decision is what follows from a record.
type decision int

const (
	requesting decision = iota // this replica makes the token request
	adopting                   // the record's token is the better one
	failing                    // another replica's token request has just failed
	staying                    // no token request may be made yet to replace the current token
	waiting                    // for the lock, or for another replica
	givingUp                   // no time is left
)

// view is what a replica knows besides the record.
type view struct {
	replica   string
	latest    *cached // the last token obtained, or nil
	rejected  string  // the value of the token that an API has rejected last
	replacing bool    // the current token is to be replaced because of that
	own       bool    // an adopted token was of no use: it has to be one that this replica requests
	locked    bool
	began     time.Time     // when the attempt began to wait
	heard     time.Time     // when it last heard of another replica that makes the token request
	patience  time.Duration // how long to wait without hearing anything
}

// decide says what follows from a record that was loaded now.
func decide(r record, v view, now time.Time) decision {
	switch {
	case !v.own && v.prefers(r.Token, now):
		return adopting
	case r.Failure.left(now) > 0 && r.Failure.Replica != v.replica:
		return failing
	case v.replacing && v.latest.usable(now) && r.replacedAgo(now) < replacePause:
		return staying
	case now.Sub(v.heard) < v.patience:
		return waiting
	case v.locked, now.Sub(v.began) >= v.patience:
		return requesting
	default:
		return waiting
	}
}

// prefers reports whether the record's token is better than the current one: ahead of expiry it must live
// longer, otherwise it must have been obtained later. It may be the same token, which was granted again.
func (v view) prefers(t *recordToken, now time.Time) bool {
	switch {
	case !t.usable(now), t.Value == v.rejected:
		return false
	case v.latest == nil:
		return true
	case v.latest.usable(now) && v.latest.Value != v.rejected:
		return t.expires().After(v.latest.expires())
	default:
		return t.Sent.After(v.latest.Sent)
	}
}

// settle ends the attempt by what the record holds, and reports whether it has. Otherwise this replica makes
// the token request.
func (s *Source) settle(a *attempt, r *request) bool {
	switch {
	case r.user.Shared == nil:
		return false
	case r.part != nil: // this is a retry
		if !r.part.fits(a.ctx) {
			r.part.withdraw()
			r.part = &part{request: r}
		}
		return false
	}
	r.part = s.openPart(a.ctx, a, r)
	if a.forced || !s.settleBy(r.part.await(), a, r) {
		r.part.beginRequest()
		return false
	}
	return true
}

// settleBy ends the attempt if a decision does so.
func (s *Source) settleBy(d decision, a *attempt, r *request) bool {
	switch d {
	case adopting:
		return s.finishAdopted(a, r)
	case staying:
		return s.finishStaying(a, r.part.record)
	case failing:
		s.finishFailed(a, r, func(now time.Time) *Failure { return r.part.record.Failure.takenOver(r.credentials, now) })
		return true
	case givingUp:
		s.finishFailed(a, r, func(now time.Time) *Failure { return NewFailure(ErrTimeout, s.failure, r.credentials, now) })
		return true
	case requesting, waiting:
	}
	return false
}

// finishAdopted ends the attempt with the record's token. It reports false if that cannot be used after all.
func (s *Source) finishAdopted(a *attempt, r *request) bool {
	t := r.part.bound(s.now())
	if t == nil {
		return false
	}
	s.mu.Lock()
	c := s.takeUp(t, r.credentials)
	if c == nil {
		s.mu.Unlock()
		return false
	}
	if a.rejected != "" {
		s.replacedAt = time.Time{} // no token request was made
	}
	s.attempt, a.token, a.settled = nil, &c.Token, true
	s.schedule()
	s.mu.Unlock()
	s.reportAdopted(c)
	close(a.done)
	return true
}

// takeUp makes a token of the record the current one, unless it is too late for that. Call it with mu held.
func (s *Source) takeUp(t *oauth.Token, credentials string) *cached {
	now := s.now()
	if s.keep(t, origin{adopted: true, shared: true}, now) != nil {
		return nil
	}
	s.obtainedWith = credentials
	if s.ending = t.Ending; t.Ending {
		s.lookedAt = now
	}
	return s.cached.Load()
}

func (s *Source) reportAdopted(c *cached) {
	s.adoptions.Add(1)
	s.report(nil, 0)
	s.notify(Event{Adopted: true, Expires: c.expires()})
}

// finishStaying ends the attempt with the current token, as another replica has just made a token request
// because of a rejection. It reports false if that token has expired meanwhile.
func (s *Source) finishStaying(a *attempt, r record) bool {
	s.mu.Lock()
	c, now := s.cached.Load(), s.now()
	if !c.usable(now) {
		s.mu.Unlock()
		return false
	}
	s.replacedAt = now.Add(-r.replacedAgo(now))
	s.attempt, a.token, a.settled = nil, &c.Token, true
	s.schedule()
	s.mu.Unlock()
	close(a.done)
	return true
}

// finishFailed ends the attempt with a failure that is not of a token request of this replica. It counts as
// none, but requests get its error, and it begins a back-off. failure is called with mu held.
func (s *Source) finishFailed(a *attempt, r *request, failure func(now time.Time) *Failure) {
	s.mu.Lock()
	now := s.now()
	s.failure = failure(now)
	s.failure.err = s.inContext(s.failure.err, r.credentials)
	s.attempt, a.err, a.settled = nil, s.failure.AsError(now), true
	failed, next := s.failure.err, s.failure.Left(now)
	s.schedule()
	s.mu.Unlock()
	s.report(failed, next)
	close(a.done)
}

// look adopts the record's token if it is better than the current one, and reports whether it has. It makes
// no token request, so it may be called inside a back-off.
func (s *Source) look() bool {
	s.findPlace()
	s.mu.Lock()
	place, timeout := s.place, s.timeout()
	s.mu.Unlock()
	if place == nil {
		return false
	}
	p := &part{s: s, request: place.request, slot: place.slot, timeout: timeout, began: s.now()}
	if !p.load(context.Background(), p.halfTime()) {
		return false
	}
	t := p.bound(s.now())
	s.mu.Lock()
	var c *cached
	if t != nil && p.view().prefers(p.record.Token, s.now()) {
		c = s.takeUp(t, place.request.credentials)
		s.schedule()
	}
	s.mu.Unlock()
	if c == nil {
		return false
	}
	s.reportAdopted(c)
	return true
}

// ReplaceAdopted returns a token for the second replay of a request: the API has also rejected the token
// that Replace has returned. It returns nil unless that was adopted from the record. Otherwise it returns a
// token that this replica has requested itself, or nil if none could be had.
func (s *Source) ReplaceAdopted(ctx context.Context, rejected *oauth.Token) *oauth.Token {
	at := s.now()
	a, news := s.ownReplacement(ctx, rejected)
	if news {
		s.noteRejection(at)
	}
	if a == nil {
		return nil
	}
	own, err := a.wait(ctx)
	if err != nil || own.Value == rejected.Value || a.wasSettled() {
		return nil
	}
	return own
}

// ownReplacement returns the attempt that yields a token which this replica requests, or nil if there is
// none to be had now. news reports whether the rejection is the first one of the current token.
func (s *Source) ownReplacement(ctx context.Context, rejected *oauth.Token) (a *attempt, news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, now := s.cached.Load(), s.now()
	if known := s.known(rejected); known == nil || !known.adopted {
		return nil, false
	}
	news = c.Value == rejected.Value && s.rejected != c.Value
	if news {
		s.rejected = c.Value
	}
	switch {
	case !c.adopted && c.usable(now) && s.rejected != c.Value:
		return finishedAttempt(&c.Token), news // it has been replaced already
	case s.attempt != nil:
		return s.attempt, news
	case clock.Elapsed(s.replacedAt, now) < replacePause, s.failure.Left(now) > 0:
		return nil, news
	}
	s.replacedAt = now
	return s.beginFor(ctx, purpose{rejected: rejected.Value, own: true}), news
}

// Shares reports whether other replicas may use t, the current token or the one before: it was adopted from
// the record, or stored in it. Such a token must not be revoked.
func (s *Source) Shares(t *oauth.Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.known(t)
	return c != nil && c.shared
}

// known returns the current token or the one before if it is t, otherwise nil. Call it with mu held.
func (s *Source) known(t *oauth.Token) *cached {
	for _, c := range []*cached{s.cached.Load(), s.previous} {
		if c != nil && t != nil && c.Value == t.Value {
			return c
		}
	}
	return nil
}

// courtesy returns how long an attempt with this timeout lets other replicas try first: a moment after a
// token request of this replica without a response, because the cause may be on this side.
func (s *Source) courtesy(timeout time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil || !s.failure.unanswered {
		return 0
	}
	return min(courtesy, patienceFor(timeout)/2)
}

// warnOfClocks logs once that a record is from the future.
func (s *Source) warnOfClocks() {
	if s.clocksWarned.CompareAndSwap(false, true) {
		log, _ := s.logger()
		log.Warn("what another replica has stored is from the future and is not used: the clocks of the replicas differ")
	}
}

// place is where the last attempt has found the record, for looks at it outside of attempts.
type place struct {
	slot    Slot
	request *request // which is never made
}

// forgetPlace forgets the place of the record if that belongs to a user whose settings do not apply any
// more: it keeps the config of that user alive. Call it with mu held.
func (s *Source) forgetPlace() {
	if s.place == nil || s.place.request.user != s.primary() {
		s.place, s.placeLost = nil, true
	}
}

// mayFindPlace reports whether the place of the record is known, or a reload has made the source forget it. Call
// it with mu held.
func (s *Source) mayFindPlace() bool {
	return s.place != nil || s.placeLost && s.primary().Shared != nil
}

// findPlace finds the place of the record anew, once after a reload.
func (s *Source) findPlace() {
	s.mu.Lock()
	lost, timeout := s.place == nil && s.mayFindPlace(), s.timeout()
	r := &request{user: s.primary()}
	if lost {
		s.placeLost = false
	}
	s.mu.Unlock()
	if !lost {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout/2)
	defer cancel()
	if r.prepare(ctx) == nil {
		s.openPart(ctx, nil, r)
	}
}
