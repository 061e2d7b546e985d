package forward

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/telemetry"
)

// maxRepetitions is how often a request is sent again after responses that limit the rate.
const maxRepetitions = 3

// repeatable are the methods whose requests may be sent again although the API has responded.
var repeatable = []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete}

// sendAgain sends a request again for as long as the API's responses ask for that: the first one is res, to a
// request with token, which may be nil. When the API limits the rate, the request is sent again with the token
// that is current then (rule 36). The rejection of a token counts apart.
func (t *Transport) sendAgain(req *http.Request, q *Request, token *oauth.Token, body *replayBody, res *http.Response) (_ *http.Response, err error) {
	for {
		res, err = t.sendWithOtherToken(req, q, token, body, res)
		if err != nil || !q.mayRepeat(req, res, body) {
			return res, err
		}
		pause, ok := q.patience(req).next(res, q.options.RateLimitWait)
		if !ok || !body.rewind() {
			return res, nil
		}
		CloseBody(res.Body)
		if err := body.pause(req.Context(), pause); err != nil {
			return nil, err
		}
		if token, err = q.currentToken(req); err != nil {
			failed := NoTokenError(q.Conn.Name, err)
			failed.Outcome = q.SentOutcome() // once already
			return nil, failed
		}
		q.Conn.Metrics.Count(telemetry.Repeated)
		q.record.replayed = replayedRateLimit
		if res, err = t.sendOnce(req, q, token, body, ""); err != nil {
			return nil, err
		}
	}
}

// mayRepeat reports whether a request may be sent again after the API's response.
func (q *Request) mayRepeat(req *http.Request, res *http.Response, body *replayBody) bool {
	return q.options.RateLimitWait > 0 && limitsRate(res) && q.ofApp && slices.Contains(repeatable, req.Method) && body.fits()
}

// limitsRate reports whether a response says that the request came too early: with the status 429, or with 503
// and a Retry-After that can be read.
func limitsRate(res *http.Response) bool {
	switch res.StatusCode {
	case http.StatusTooManyRequests:
		return true
	case http.StatusServiceUnavailable:
		_, readable := oauth.ReadRetryAfter(res.Header.Get("Retry-After"), time.Now())
		return readable
	default:
		return false
	}
}

// patience is what a request has spent on being sent again.
type patience struct {
	repetitions int
	waited      time.Duration
}

// patience returns that of the app's request. It is the same for all attempts of a reverse_proxy, which may
// make one after the other, so that its retries do not multiply the repetitions.
func (q *Request) patience(req *http.Request) *patience {
	first, ok := caddyhttp.GetVar(req.Context(), recordKey).(*record)
	if !ok {
		first = &q.record
	}
	if first.patience == nil {
		first.patience = make(map[string]*patience)
	}
	p := first.patience[q.Conn.Name]
	if p == nil {
		p = new(patience)
		first.patience[q.Conn.Name] = p
	}
	return p
}

// firstPause is the pause before the first repetition if the API names none. It doubles.
const firstPause = time.Second

// next spends the pause after a response that limits the rate. It reports false if there must not be one
// more, or if limit, the longest time for all pauses, leaves too little for it.
//
// Those who were told the same must not come back together: so a pause is longer by chance, by up to three
// times what the API says, and one that it does not say differs by up to a fifth.
func (p *patience) next(res *http.Response, limit time.Duration) (time.Duration, bool) {
	least, _ := oauth.ReadRetryAfter(res.Header.Get("Retry-After"), time.Now())
	left := limit - p.waited
	most := 4 * min(least, left)
	if least == 0 {
		usual := firstPause << p.repetitions
		least, most = usual*4/5, usual*6/5
	}
	if p.repetitions >= maxRepetitions || least > left {
		return 0, false
	}
	pause := least + rand.N(min(most, left)-least+1) //nolint:gosec // G404: chance, not a secret
	p.repetitions++
	p.waited += pause
	return pause, true
}

// pause waits until a request is sent again. The error is that of ctx, which ends when the app leaves.
func (b *replayBody) pause(ctx context.Context, pause time.Duration) error {
	b.readAhead()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		b.abandon()
		return ctx.Err()
	}
}
