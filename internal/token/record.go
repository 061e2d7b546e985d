package token

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// recordVersion is the version of the record's JSON. A record of another version counts as absent.
const recordVersion = 1

const (
	// maxSkew is how far the clocks of two replicas may be apart.
	maxSkew = 30 * time.Second

	// maxUnansweredWait is how long other replicas take over a failure in which the token endpoint did not
	// respond: the cause may be on the side of the replica that failed.
	maxUnansweredWait = 5 * time.Second
)

// record is what the replicas that share a token know together. All times in it are of the writer's wall
// clock.
type record struct {
	Version  int            `json:"version"`
	Token    *recordToken   `json:"token,omitempty"`    // the newest token
	Failure  *recordFailure `json:"failure,omitempty"`  // of the last token request, if that failed
	Replaced time.Time      `json:"replaced,omitzero"`  // when a token request was last made because of a rejection
	Announce *announcement  `json:"announce,omitempty"` // the token request that is being made
}

// recordToken is a token in the record.
type recordToken struct {
	Value     string        `json:"value"`
	Type      string        `json:"type"` // the scheme of its Authorization
	Sent      time.Time     `json:"sent"`
	Lifetime  time.Duration `json:"lifetime"`
	Ending    bool          `json:"ending,omitempty"` // the response said that nothing is left of its life
	Granted   []string      `json:"granted,omitempty"`
	Missing   []string      `json:"missing,omitempty"`
	Confirmed bool          `json:"confirmed"`          // whether the response listed the granted scopes
	Rejected  bool          `json:"rejected,omitempty"` // an API has rejected it, and no other could be had
}

// recordFailure is the failure of a token request in the record.
type recordFailure struct {
	Class       oauth.Class   `json:"class"`
	Status      int           `json:"status"`
	Code        string        `json:"code,omitempty"`
	Message     string        `json:"message"` // in our words
	RetryAfter  time.Duration `json:"retry_after,omitempty"`
	Presumed    bool          `json:"presumed,omitempty"`
	Responded   bool          `json:"responded"`   // whether the token endpoint responded
	Consecutive int           `json:"consecutive"` // how many failures in a row have lengthened the back-off
	At          time.Time     `json:"at"`
	NotBefore   time.Time     `json:"not_before"` // the end of the back-off
	Replica     string        `json:"replica"`    // whose token request failed
}

// announcement says that a replica is making a token request. It is renewed while that lasts.
type announcement struct {
	At      time.Time `json:"at"`
	Replica string    `json:"replica"`
}

// parseRecord returns the record in text. What cannot be used counts as absent.
func parseRecord(text []byte) record {
	var r record
	if json.Unmarshal(text, &r) != nil || r.Version != recordVersion {
		return record{}
	}
	if r.Token != nil && !r.Token.valid() {
		r.Token = nil
	}
	if r.Failure != nil && !r.Failure.valid() {
		r.Failure = nil
	}
	return r
}

// encode returns the record as JSON.
func (r record) encode() []byte {
	r.Version = recordVersion
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // plain data only
	}
	return text
}

// fromFuture reports whether the record is from further in the future than clocks may differ.
func (r record) fromFuture(now time.Time) bool {
	return r.Token != nil && r.Token.fromFuture(now) || r.Failure != nil && r.Failure.fromFuture(now)
}

// replacedAgo returns how long ago a token request was made because of a rejection, for clocks that
// differ a little.
func (r record) replacedAgo(now time.Time) time.Duration { return now.Sub(r.Replaced).Abs() }

// obtained notes that a token request has yielded t. A token that was obtained later stays, unless it is
// refused: an API has rejected it.
func (r *record) obtained(t *recordToken, refused bool, now time.Time) {
	r.Failure = nil
	if !r.Token.usable(now) || !r.Token.Sent.After(t.Sent) || refused {
		r.Token = t
	}
}

// failed notes that a token request has failed. If an API has rejected the token that there is, no starting
// replica may use that.
func (r *record) failed(f *recordFailure, refused bool) {
	r.Failure = f
	if refused {
		r.Token.Rejected = true
	}
}

// newRecordToken returns t for the record.
func newRecordToken(t *oauth.Token) *recordToken {
	return &recordToken{
		Value: t.Value, Type: strings.TrimSpace(t.HeaderPrefix()), Sent: t.Sent.Round(0).UTC(), Lifetime: t.Lifetime,
		Ending: t.Ending, Granted: t.Granted, Missing: t.Missing, Confirmed: t.Granted != nil,
	}
}

// valid reports whether t can be a token that a replica has written.
func (t *recordToken) valid() bool {
	return t.Value != "" && t.Lifetime > 0 && !strings.ContainsFunc(t.Value, func(c rune) bool { return c <= 0x20 || c > 0x7e })
}

// margin returns how much earlier than by its writer's clock t expires, for clocks that differ (rule 33).
func (t *recordToken) margin() time.Duration { return min(maxSkew, t.Lifetime/10) }

// life returns how long t may be used at most, counted from Sent.
func (t *recordToken) life() time.Duration { return t.Lifetime - t.margin() }

// expires returns the end of the life that t has for those who take it from the record.
func (t *recordToken) expires() time.Time { return t.Sent.Add(t.life()) }

// fromFuture reports whether t was obtained further in the future than its margin allows for. Its life would
// become longer by being read.
func (t *recordToken) fromFuture(now time.Time) bool { return t.Sent.Sub(now) > t.margin() }

// usable reports whether t may be sent by whoever takes it from the record now.
func (t *recordToken) usable(now time.Time) bool {
	return t != nil && !t.Rejected && !t.fromFuture(now) && now.Before(t.expires().Add(-hardMargin(t.life())))
}

// token returns the token for whoever takes it from the record now. It is not bound yet. Its life is
// measured by the monotonic clock too, so that it does not get longer when the wall clock is set back.
func (t *recordToken) token(now time.Time) *oauth.Token {
	taken := &oauth.Token{
		Value: t.Value, Sent: now.Add(t.Sent.Sub(now)), Lifetime: t.life(), HasExpiresIn: true, Ending: t.Ending,
		Granted: t.Granted, Missing: t.Missing,
	}
	if t.Confirmed && taken.Granted == nil {
		taken.Granted = []string{}
	}
	return taken
}

// newRecordFailure returns f for the record. replica is the one whose token request failed.
func newRecordFailure(f *Failure, replica string) *recordFailure {
	at := f.at.Round(0).UTC()
	return &recordFailure{
		Class: f.err.Class, Status: f.err.Status, Code: f.err.Code, Message: f.err.Message, RetryAfter: f.err.RetryAfter,
		Presumed: f.err.Presumed, Responded: f.err.Responded, Consecutive: f.consecutive, At: at, NotBefore: at.Add(f.wait), Replica: replica,
	}
}

// valid reports whether f can be a failure that a replica has written.
func (f *recordFailure) valid() bool {
	return slices.Contains([]oauth.Class{oauth.ClassConfiguration, oauth.ClassOutage}, f.Class) && f.Consecutive >= 0 &&
		slices.Contains([]int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, f.Status)
}

// fromFuture reports whether f is from further in the future than clocks may differ.
func (f *recordFailure) fromFuture(now time.Time) bool { return f.At.Sub(now) > maxSkew }

// left returns what is left of the back-off for other replicas, which is never longer than the writer's. It
// is zero if f is nil.
func (f *recordFailure) left(now time.Time) time.Duration {
	if f == nil || f.fromFuture(now) {
		return 0
	}
	wait := min(f.NotBefore.Sub(f.At), oauth.MaxRetryAfter)
	if !f.Responded {
		wait = min(wait, maxUnansweredWait)
	}
	return max(0, wait-max(0, now.Sub(f.At)))
}

// takenOver returns the failure as that of a replica that takes it over now.
func (f *recordFailure) takenOver(credentials string, now time.Time) *Failure {
	return &Failure{
		err: &oauth.Error{
			Class: f.Class, Status: f.Status, Code: f.Code, Message: f.Message, RetryAfter: f.RetryAfter,
			Presumed: f.Presumed, Responded: f.Responded,
		},
		at: now, wait: f.left(now), consecutive: f.Consecutive, credentials: credentials,
	}
}
