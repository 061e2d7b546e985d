package token

import (
	"context"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// part is the part of the storage in one attempt. The first operation that fails ends it: then the attempt
// continues as without sharing. A nil *part has ended.
type part struct {
	s       *Source
	attempt *attempt
	request *request
	slot    Slot          // nil: the part has ended
	timeout time.Duration // of the attempt

	record record // as it was loaded last
	loaded bool   // whether it was

	began, heard time.Time    // see view
	last         announcement // the last one of another replica
	since        time.Time    // when this replica began to make the token request
	publishes    bool         // whether the result is stored

	queue  <-chan func() // yields the lock, or nil if that has failed; nil: not requested
	leave  func()        // gives the lock up; nil: not requested
	locked bool          // the lock is there, or cannot be had
	unlock func()        // nil: there is nothing to unlock
	quiet  func()        // ends the announcements; nil: there are none
}

// openPart finds the place of the record. That needs the values of the token request.
func (s *Source) openPart(a *attempt, r *request) *part {
	s.mu.Lock()
	p := &part{s: s, attempt: a, request: r, timeout: s.timeout(), began: s.now()}
	s.mu.Unlock()
	slot, _ := do(p, a.ctx, patienceFor(p.timeout), func(context.Context) (Slot, error) {
		identity := r.prepared.Identity()
		if identity == nil {
			return nil, nil
		}
		return r.user.Shared.Slot(identity), nil
	})
	p.slot = slot
	s.mu.Lock()
	defer s.mu.Unlock()
	s.place = nil
	if slot != nil {
		s.place = &place{slot, &request{user: r.user, prepared: r.prepared, credentials: r.credentials}}
		s.forgetPlace()
	}
	return p
}

// outcome is that of an operation of the storage.
type outcome[T any] struct {
	value T
	err   error
}

// do runs an operation of the storage until ctx ends, for at most limit. If the operation fails, panics or
// hangs, it ends the part and reports false.
func do[T any](p *part, ctx context.Context, limit time.Duration, operation func(context.Context) (T, error)) (value T, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	log := p.request.user.log()
	r, ok := InTime(ctx, func() (r outcome[T]) {
		r.err = errPanicked
		defer RecoverAndLog(log, "using the token storage")
		r.value, r.err = operation(ctx)
		return r
	})
	if !ok || r.err != nil {
		p.slot = nil
		return value, false
	}
	return r.value, true
}

// load loads the record, in the time of limit. It reports false if the part has ended.
func (p *part) load(ctx context.Context, limit time.Duration) bool {
	if p.slot == nil {
		return false
	}
	text, ok := do(p, ctx, limit, p.slot.Load)
	if !ok {
		return false
	}
	p.record = parseRecord(text)
	p.listen()
	if p.record.fromFuture(p.s.now()) {
		p.s.warnOfClocks()
	}
	return true
}

// listen notes whether another replica has announced its token request again. Only an announcement that is
// later than those before is one, so that old records which somebody puts back make nobody wait.
func (p *part) listen() {
	if heard := p.record.Announce; heard != nil && heard.Replica != p.s.replica && heard.At.After(p.last.At) {
		if p.loaded {
			p.heard = p.s.now()
		}
		p.last = *heard
	}
	p.loaded = true
}

// save changes the record as it is now, and ends the part if that fails. The attempt may have ended.
func (p *part) save(change func(*record)) {
	ctx := context.Background()
	if !p.load(ctx, p.timeout) {
		return
	}
	change(&p.record)
	slot, text := p.slot, p.record.encode()
	do(p, ctx, p.timeout, func(ctx context.Context) (struct{}, error) { return struct{}{}, slot.Store(ctx, text) })
}

// await waits until a decision can be made about the attempt.
func (p *part) await() decision {
	if !p.look() {
		return requesting
	}
	pause, queueAt := firstPause, p.began.Add(p.s.courtesy(p.timeout))
	for {
		if d := decide(p.record, p.lockedView(), p.s.now()); d != waiting {
			return d
		}
		if !p.locked && p.queue == nil && !p.s.now().Before(queueAt) {
			p.joinQueue()
		}
		// Not all replicas that hear nothing any more must make a request at the same moment.
		if !p.pause(min(jitter(pause, pauseJitter), max(p.left(), 0)+jitter(spread, 0.995))) {
			return givingUp
		}
		pause = min(2*pause, longestPause, patienceFor(p.timeout)/2)
		if !p.look() {
			return requesting
		}
	}
}

// look loads the record while the attempt waits. The storage gets hardly more than the time that is left for
// waiting, so that there is enough for a token request.
func (p *part) look() bool {
	return p.load(p.attempt.ctx, max(p.left(), patienceFor(p.timeout)/4))
}

// left returns how long the attempt continues to wait if it hears nothing.
func (p *part) left() time.Duration {
	since := p.began
	if p.heard.After(since) {
		since = p.heard
	}
	return patienceFor(p.timeout) - p.s.now().Sub(since)
}

// pause waits for the next look at the record, or for the lock. It reports false if the attempt has no time
// left.
func (p *part) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case p.unlock = <-p.queue:
		p.locked, p.queue = true, nil
		return true
	case <-timer.C:
		return true
	case <-p.attempt.ctx.Done():
		return false
	}
}

// joinQueue asks for the lock. One that comes too late is released at once.
func (p *part) joinQueue() {
	ctx, leave := context.WithCancel(p.attempt.ctx)
	queue, slot, log := make(chan func()), p.slot, p.request.user.log()
	p.queue, p.leave = queue, leave
	go func() {
		unlock := lockOrRecover(ctx, slot, log)
		select {
		case queue <- unlock:
		case <-ctx.Done():
			release(unlock, log)
		}
	}()
}

// lockOrRecover returns how to release the lock, or nil if it could not be had.
func lockOrRecover(ctx context.Context, slot Slot, log *zap.Logger) (unlock func()) {
	defer RecoverAndLog(log, "locking in the token storage")
	unlock, err := slot.Lock(ctx)
	if err != nil {
		return nil
	}
	return unlock
}

func release(unlock func(), log *zap.Logger) {
	defer RecoverAndLog(log, "unlocking in the token storage")
	if unlock != nil {
		unlock()
	}
}

// lockedView is view for whoever does not hold mu.
func (p *part) lockedView() view {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.view()
}

// view returns what is known besides the record. Call it with mu held.
func (p *part) view() view {
	v := view{
		replica: p.s.replica, inHand: p.s.cached.Load(), rejected: p.s.rejected,
		locked: p.locked, began: p.began, heard: p.heard, patience: patienceFor(p.timeout),
	}
	if p.attempt != nil {
		v.replacing, v.own = p.attempt.rejected != "", p.attempt.own
	}
	return v
}

// bound returns the record's token, bound as this replica's own would be, or nil if its type is another one.
func (p *part) bound(now time.Time) *oauth.Token {
	if p.record.Token == nil {
		return nil
	}
	t := p.record.Token.token(now)
	p.request.prepared.Bind(t)
	if strings.TrimSpace(t.HeaderPrefix()) != p.record.Token.Type {
		return nil
	}
	return t
}

// beginRequest prepares the record for a token request of this replica. Without the lock it is announced at
// once, since others may be about to do the same.
func (p *part) beginRequest() {
	p.since, p.publishes = p.s.now(), p.slot != nil
	if !p.locked && p.leave != nil {
		p.leave()
	}
	if !p.publishes {
		return
	}
	if p.record.Failure != nil {
		p.attempt.inARow = p.record.Failure.Consecutive
	}
	p.announce(p.loaded && !p.locked)
}

// announce announces the token request again and again while it lasts. What is under way when it ends is
// not broken off, as it could not be told from a failure of the storage.
func (p *part) announce(atOnce bool) {
	quiet, silent := make(chan struct{}), make(chan struct{})
	p.quiet = func() { close(quiet); <-silent }
	go func() {
		defer close(silent)
		if atOnce {
			p.saveAnnouncement()
		}
		ticker := time.NewTicker(max(patienceFor(p.timeout)/4, time.Millisecond))
		defer ticker.Stop()
		for p.slot != nil {
			select {
			case <-quiet:
				return
			case <-p.attempt.ctx.Done():
				return
			case <-ticker.C:
				p.saveAnnouncement()
			}
		}
	}()
}

func (p *part) saveAnnouncement() {
	p.save(func(r *record) { r.Announce = &announcement{At: p.s.now().Round(0).UTC(), Replica: p.s.replica} })
}

// willPublish reports whether the result of the token request is stored, unless that fails.
func (p *part) willPublish() bool { return p != nil && p.publishes }

// publish stores the result of the token request: a token that is the current one now, or a failure.
func (p *part) publish(c *cached, failed *Failure) {
	if p == nil {
		return
	}
	if p.quiet != nil {
		p.quiet()
	}
	p.save(func(r *record) {
		r.Announce = nil
		if p.attempt.rejected != "" {
			r.Replaced = p.since.Round(0).UTC()
		}
		if c != nil {
			r.obtained(newRecordToken(&c.Token), p.attempt.rejected, p.s.now())
			return
		}
		r.Failure = newRecordFailure(failed, p.s.replica)
		if r.Token != nil && r.Token.Value == p.attempt.rejected {
			r.Token.Rejected = true
		}
	})
}

// end gives up the lock.
func (p *part) end() {
	if p == nil {
		return
	}
	release(p.unlock, p.request.user.log())
	if p.leave != nil {
		p.leave()
	}
}
