package token

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// part is the part of the storage in one attempt. The first operation that fails ends it: then the attempt
// continues as without sharing. A nil *part has ended.
type part struct {
	s        *Source
	attempt  *attempt
	request  *request
	identity []byte        // of the token request, for the storage of another config; nil: no other one is used
	shared   Shared        // where slot is
	slot     Slot          // nil: the part has ended
	timeout  time.Duration // of the attempt

	record record // as it was loaded last
	loaded bool   // whether it was

	began, heard time.Time    // see view
	last         announcement // the last one of another replica
	since        time.Time    // when this replica began to make the token request
	publishes    bool         // whether the result is stored

	queue  <-chan func()   // yields the lock, or nil if that has failed; nil: not requested
	leave  func()          // gives the lock up; nil: not requested
	locked bool            // the lock is there, or cannot be had
	unlock func()          // nil: there is nothing to unlock
	hush   func()          // ends the announcements; nil: there are none
	silent <-chan struct{} // is closed when they have ended
}

// openPart finds the place of the record. That needs the values of the token request. The attempt may be nil.
func (s *Source) openPart(ctx context.Context, a *attempt, r *request) *part {
	s.mu.Lock()
	p := &part{s: s, attempt: a, request: r, shared: r.user.Shared, timeout: s.timeout(), began: s.now()}
	s.mu.Unlock()
	p.identity = r.identity(ctx)
	p.openSlot(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.place, s.placeLost = nil, r.user != s.primary()
	if p.slot != nil && !s.placeLost {
		s.place = &place{p.slot, &request{user: r.user, prepared: r.prepared, credentials: r.credentials}}
	}
	return p
}

// openSlot finds the place of the record in the storage, if there are both.
func (p *part) openSlot(ctx context.Context) {
	p.slot = nil
	if p.identity == nil || p.shared == nil {
		return
	}
	p.slot, _ = do(p, ctx, p.halfTime(), func(context.Context) (Slot, error) { return p.shared.Slot(p.identity), nil })
}

// move moves the part to the storage of the running config, since a reload stops that of the config before. It
// reports whether it has.
func (p *part) move(ctx context.Context) bool {
	if p.identity == nil {
		return false
	}
	p.s.mu.Lock()
	running := p.s.primary().Shared
	p.s.mu.Unlock()
	if running == p.shared {
		return false
	}
	if !p.publishes { // it waits, and must begin anew
		p.giveUpLock()
	}
	p.shared = running
	p.openSlot(ctx)
	return true
}

// outcome is that of an operation of the storage.
type outcome[T any] struct {
	value T
	err   error
}

// operate runs an operation of the storage like do. One that fails because of a reload is run in the storage of
// the running config.
func operate[T any](p *part, ctx context.Context, limit time.Duration, operation func(context.Context, Slot) (T, error)) (value T, ok bool) {
	p.move(ctx)
	for p.slot != nil {
		slot := p.slot
		value, ok = do(p, ctx, limit, func(ctx context.Context) (T, error) { return operation(ctx, slot) })
		if ok || !p.move(ctx) {
			return value, ok
		}
	}
	return value, false
}

// do runs an operation until ctx ends, for at most limit. It reports false if there is no result. If the
// operation fails, panics or hangs, that ends the part. If it only takes longer than limit, it does not: what
// follows has more time.
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
	if !ok || r.err != nil && ctx.Err() == nil {
		p.slot = nil
	}
	return r.value, ok && r.err == nil
}

// load loads the record, in the time of limit, and reports whether it has.
func (p *part) load(ctx context.Context, limit time.Duration) bool {
	text, ok := operate(p, ctx, limit, func(ctx context.Context, slot Slot) ([]byte, error) { return slot.Load(ctx) })
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
	if !p.load(ctx, saveLimit) {
		return
	}
	change(&p.record)
	text := p.record.encode()
	operate(p, ctx, saveLimit, func(ctx context.Context, slot Slot) (struct{}, error) { return struct{}{}, slot.Store(ctx, text) })
}

// saveLimit is for a storage that does not end its operations itself. Nobody waits for it.
const saveLimit = 10 * time.Second

// await waits until a decision can be made about the attempt.
func (p *part) await() decision {
	if !p.look() {
		return p.unsettled()
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
			return p.unsettled()
		}
	}
}

// look loads the record while the attempt waits. The storage gets half of the attempt's time, so that there is
// enough for a token request, and more only while another replica makes one.
func (p *part) look() bool {
	limit := p.halfTime() - p.s.now().Sub(p.began)
	if p.heard.After(p.began) {
		limit = max(limit, patienceFor(p.timeout))
	}
	return p.load(p.attempt.ctx, limit)
}

func (p *part) halfTime() time.Duration { return p.timeout / 2 }

// unsettled returns what follows if the record cannot be loaded in time.
func (p *part) unsettled() decision {
	if p.attempt.ctx.Err() != nil {
		return givingUp
	}
	return requesting
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
		replica: p.s.replica, latest: p.s.cached.Load(), rejected: p.s.rejected,
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
	p.hush, p.silent = sync.OnceFunc(func() { close(quiet) }), silent
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

// stopAnnouncing ends the announcements, and does not wait for one that is under way.
func (p *part) stopAnnouncing() {
	if p != nil && p.hush != nil {
		p.hush()
	}
}

// beQuiet ends the announcements.
func (p *part) beQuiet() {
	if p.hush != nil {
		p.hush()
		<-p.silent
	}
}

func (p *part) saveAnnouncement() {
	p.save(func(r *record) { r.Announce = &announcement{At: p.s.now().Round(0).UTC(), Replica: p.s.replica} })
}

// willPublish reports whether the result of the token request is stored, unless that fails.
func (p *part) willPublish() bool { return p != nil && p.publishes }

// fits reports whether the part is that of the token request, which may have been prepared again since.
func (p *part) fits(ctx context.Context) bool {
	return p.identity == nil || bytes.Equal(p.request.identity(ctx), p.identity)
}

// withdraw ends the part before the attempt ends, in the background.
func (p *part) withdraw() {
	go func() {
		p.beQuiet()
		p.end()
	}()
}

// publish stores the result of the token request: a token that is the current one now, or a failure.
func (p *part) publish(c *cached, failed *Failure) {
	if !p.willPublish() {
		return
	}
	p.beQuiet()
	p.save(func(r *record) {
		r.Announce = nil
		refused := r.Token != nil && p.refuses(r.Token.Value)
		if p.attempt.replaces {
			r.Replaced = p.since.Round(0).UTC()
		}
		switch {
		case c != nil:
			r.obtained(newRecordToken(&c.Token), refused, p.s.now())
		case p.request.prepared == nil:
			// The failure of a retry that could not be prepared is nobody else's.
		case !refused && r.Token.usable(p.s.now()) && r.Token.Sent.After(p.since):
			// Another replica's token request has had more success since.
		default:
			r.failed(newRecordFailure(failed, p.s.replica), refused)
		}
	})
}

// refuses reports whether APIs have rejected the token with this value.
func (p *part) refuses(value string) bool {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return value == p.s.rejected || value == p.attempt.rejected
}

// giveUpLock gives the lock up, or stops waiting for it.
func (p *part) giveUpLock() {
	release(p.unlock, p.request.user.log())
	if p.leave != nil {
		p.leave()
	}
	p.queue, p.leave, p.unlock, p.locked = nil, nil, nil, false
}

// end ends the part with the attempt.
func (p *part) end() {
	if p != nil {
		p.giveUpLock()
	}
}
