package token

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// recordNow is when the tests read a record. It has no monotonic reading, as a time from a record.
var recordNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func tokenInRecord(value string, age, life time.Duration) *recordToken {
	return &recordToken{Value: value, Type: "Bearer", Sent: recordNow.Add(-age), Lifetime: life}
}

func failureInRecord(age, wait time.Duration, responded bool) *recordFailure {
	at := recordNow.Add(-age)
	return &recordFailure{
		Class: oauth.ClassOutage, Status: 503, Message: "out of order", Responded: responded, Consecutive: 3,
		At: at, NotBefore: at.Add(wait), Replica: "other",
	}
}

func TestRecordSurvivesItsStorage(t *testing.T) {
	full := record{
		Version: recordVersion,
		Token: &recordToken{
			Value: "t", Type: "DPoP", Sent: recordNow, Lifetime: time.Hour, Ending: true,
			Granted: []string{"a"}, Missing: []string{"b"}, Confirmed: true, Rejected: true,
		},
		Failure: &recordFailure{
			Class: oauth.ClassConfiguration, Status: 502, Code: "invalid_client", Message: "refused", RetryAfter: time.Minute,
			Presumed: true, Responded: true, Consecutive: 4, At: recordNow, NotBefore: recordNow.Add(time.Minute), Replica: "r",
		},
		Replaced: recordNow,
		Announce: &announcement{At: recordNow, Replica: "r"},
	}
	if read := parseRecord(full.encode()); !reflect.DeepEqual(read, full) {
		t.Errorf("got %+v", read)
	}
	if read := parseRecord(record{}.encode()); !reflect.DeepEqual(read, record{Version: recordVersion}) {
		t.Errorf("got %+v", read)
	}
	var fields map[string]any
	if err := json.Unmarshal(full.encode(), &fields); err != nil {
		t.Fatal(err)
	}
	fields["new"], fields["token"].(map[string]any)["new"] = 1, 2
	text, _ := json.Marshal(fields)
	if read := parseRecord(text); !reflect.DeepEqual(read, full) {
		t.Errorf("with unknown fields got %+v", read)
	}
}

func TestUnusableRecordIsAbsent(t *testing.T) {
	good := string(record{Token: tokenInRecord("t", 0, time.Hour), Failure: failureInRecord(0, time.Minute, true)}.encode())
	for name, text := range map[string]string{
		"empty":         "",
		"torn":          good[:len(good)-1],
		"array":         "[]",
		"null":          "null",
		"other version": strings.Replace(good, `"version":1`, `"version":2`, 1),
		"no version":    strings.Replace(good, `"version":1,`, "", 1),
		"no life":       strings.Replace(good, `"lifetime":3600000000000`, `"lifetime":-1`, 1),
		"no value":      strings.Replace(good, `"value":"t"`, `"value":""`, 1),
		"two lines":     strings.Replace(good, `"value":"t"`, `"value":"t\n"`, 1),
	} {
		if text == good {
			t.Fatalf("%s: nothing replaced", name)
		}
		if read := parseRecord([]byte(text)); read.Token != nil {
			t.Errorf("%s: got %+v", name, read.Token)
		}
	}
	for name, text := range map[string]string{
		"class":  strings.Replace(good, `"outage"`, `"other"`, 1),
		"status": strings.Replace(good, `503`, `200`, 1),
	} {
		if read := parseRecord([]byte(text)); read.Failure != nil || read.Token == nil {
			t.Errorf("%s: got %+v", name, read)
		}
	}
}

// TestLifeOfATokenInARecord ends earlier than for its writer, by 30 s or a tenth of the life, and 5 s or a
// tenth of the rest before that it is not sent any more.
func TestLifeOfATokenInARecord(t *testing.T) {
	for name, test := range map[string]struct {
		age, life  time.Duration
		rejected   bool
		usable     bool
		fromFuture bool
	}{
		"new":                      {age: 0, life: time.Hour, usable: true},
		"at its end":               {age: time.Hour - 35*time.Second - 1, life: time.Hour, usable: true},
		"after its end":            {age: time.Hour - 35*time.Second, life: time.Hour},
		"short, at its end":        {age: 81*time.Second/10 - 1, life: 10 * time.Second, usable: true},
		"short, after its end":     {age: 81 * time.Second / 10, life: 10 * time.Second},
		"clock ahead":              {age: -30 * time.Second, life: time.Hour, usable: true},
		"clock too far ahead":      {age: -30*time.Second - 1, life: time.Hour, fromFuture: true},
		"short, clock ahead":       {age: -time.Second, life: 10 * time.Second, usable: true},
		"short, too far ahead":     {age: -time.Second - 1, life: 10 * time.Second, fromFuture: true},
		"rejected":                 {age: 0, life: time.Hour, rejected: true},
		"one that has ended a day": {age: 24 * time.Hour, life: time.Hour},
	} {
		token := tokenInRecord("t", test.age, test.life)
		token.Rejected = test.rejected
		if got := token.usable(recordNow); got != test.usable {
			t.Errorf("%s: usable %v", name, got)
		}
		if got := (record{Token: token}).fromFuture(recordNow); got != test.fromFuture {
			t.Errorf("%s: from the future %v", name, got)
		}
		taken := token.token(recordNow)
		c := newCached(taken, nil, 0, recordNow)
		if !test.rejected && !test.fromFuture && c.usable(recordNow) != test.usable {
			t.Errorf("%s: usable once it is taken %v", name, !test.usable)
		}
		if left := taken.Sent.Add(taken.Lifetime).Sub(recordNow); !test.fromFuture && left > test.life {
			t.Errorf("%s: its life of %v becomes %v", name, test.life, left)
		}
	}
	if (*recordToken)(nil).usable(recordNow) {
		t.Error("no token is usable")
	}
}

// TestTakenTokenFollowsTheMonotonicClock, so that its life does not get longer when the wall clock is set back.
func TestTakenTokenFollowsTheMonotonicClock(t *testing.T) {
	now := time.Now()
	written := &recordToken{Value: "t", Sent: now.Add(-time.Minute).Round(0).UTC(), Lifetime: time.Hour}
	taken := written.token(now)
	if !taken.Sent.Equal(written.Sent) || taken.Sent == taken.Sent.Round(0) {
		t.Errorf("sent %v, written %v", taken.Sent, written.Sent)
	}
}

func TestConfirmedScopes(t *testing.T) {
	for name, granted := range map[string][]string{"none listed": nil, "empty": {}, "some": {"a"}} {
		text := record{Token: newRecordToken(&oauth.Token{Value: "t", Lifetime: time.Hour, Granted: granted})}.encode()
		if got := parseRecord(text).Token.token(recordNow).Granted; !reflect.DeepEqual(got, granted) {
			t.Errorf("%s: %#v", name, got)
		}
	}
}

// TestBackoffInARecord is never longer than its writer's.
func TestBackoffInARecord(t *testing.T) {
	for name, test := range map[string]struct {
		age, wait time.Duration
		silent    bool
		left      time.Duration
	}{
		"new":                 {wait: time.Minute, left: time.Minute},
		"old":                 {age: 20 * time.Second, wait: time.Minute, left: 40 * time.Second},
		"over":                {age: 2 * time.Minute, wait: time.Minute},
		"clock ahead":         {age: -20 * time.Second, wait: time.Minute, left: time.Minute},
		"clock too far ahead": {age: -31 * time.Second, wait: time.Minute},
		"no response":         {age: time.Second, wait: time.Minute, silent: true, left: 4 * time.Second},
		"no response, short":  {age: time.Second, wait: 3 * time.Second, silent: true, left: 2 * time.Second},
		"too long":            {wait: time.Hour, left: oauth.MaxRetryAfter},
	} {
		failure := failureInRecord(test.age, test.wait, !test.silent)
		if got := failure.left(recordNow); got != test.left {
			t.Errorf("%s: %v left, want %v", name, got, test.left)
		}
		if got := failure.takenOver("", recordNow).Left(recordNow); got != test.left {
			t.Errorf("%s: taken over, %v left, want %v", name, got, test.left)
		}
	}
}

// TestObtainedTokenInARecord replaces one that was obtained before, or is of no use.
func TestObtainedTokenInARecord(t *testing.T) {
	rejected := tokenInRecord("old", 0, time.Hour)
	rejected.Rejected = true
	for name, test := range map[string]struct {
		before *recordToken
		want   string
	}{
		"none":            {nil, "new"},
		"older":           {tokenInRecord("old", time.Minute, time.Hour), "new"},
		"later":           {tokenInRecord("old", 0, time.Hour), "old"},
		"from the future": {tokenInRecord("old", -time.Minute, time.Hour), "new"},
		"rejected":        {rejected, "new"},
		"rejected now":    {tokenInRecord("rejected", 0, time.Hour), "new"}, // by a clock that is ahead it is later
	} {
		r := record{Token: test.before, Failure: failureInRecord(0, time.Minute, true)}
		r.obtained(tokenInRecord("new", time.Second, time.Hour), name == "rejected now", recordNow)
		if r.Token.Value != test.want || r.Failure != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestDecide has a replica look at records.
func TestDecide(t *testing.T) {
	latest := func(age, life time.Duration) *cached {
		return newCached(&oauth.Token{Value: "mine", Sent: recordNow.Add(-age), Lifetime: life}, nil, 0, recordNow)
	}
	const patience = 2 * time.Second
	began, longAgo := recordNow, recordNow.Add(-patience)
	rejected := tokenInRecord("theirs", time.Minute, time.Hour)
	rejected.Rejected = true
	mine := failureInRecord(0, time.Minute, true)
	mine.Replica = "me"
	for name, test := range map[string]struct {
		record record
		view   view
		want   decision
	}{
		"nothing":                   {record{}, view{began: began}, waiting},
		"nothing, locked":           {record{}, view{began: began, locked: true}, requesting},
		"nothing heard":             {record{}, view{began: longAgo}, requesting},
		"heard":                     {record{}, view{began: longAgo, heard: longAgo.Add(1)}, waiting},
		"heard, locked":             {record{}, view{began: longAgo, locked: true, heard: longAgo.Add(1)}, waiting},
		"heard long ago":            {record{}, view{began: longAgo, heard: longAgo}, requesting},
		"first use":                 {record{Token: tokenInRecord("theirs", time.Minute, time.Hour)}, view{began: began}, adopting},
		"first use, rejected":       {record{Token: rejected}, view{began: began}, waiting},
		"first use, rejected here":  {record{Token: tokenInRecord("theirs", 0, time.Hour)}, view{began: began, rejected: "theirs"}, waiting},
		"first use, dead":           {record{Token: tokenInRecord("theirs", time.Hour, time.Hour)}, view{began: began}, waiting},
		"first use, future":         {record{Token: tokenInRecord("theirs", -time.Minute, time.Hour)}, view{began: began}, waiting},
		"token beside a failure":    {record{Token: tokenInRecord("theirs", 0, time.Hour), Failure: failureInRecord(0, time.Minute, true)}, view{began: began}, adopting},
		"expired, later":            {record{Token: tokenInRecord("theirs", time.Minute, time.Hour)}, view{began: began, latest: latest(time.Hour, time.Hour)}, adopting},
		"expired, the same":         {record{Token: tokenInRecord("mine", time.Hour, 2*time.Hour)}, view{began: began, latest: latest(time.Hour, time.Hour)}, waiting},
		"expired, granted again":    {record{Token: tokenInRecord("mine", time.Minute, time.Hour)}, view{began: began, latest: latest(time.Hour, time.Hour)}, adopting},
		"ahead, the same":           {record{Token: tokenInRecord("mine", 55*time.Minute, time.Hour)}, view{began: began, latest: latest(55*time.Minute, time.Hour)}, waiting},
		"ahead, granted again":      {record{Token: tokenInRecord("mine", time.Minute, time.Hour)}, view{began: began, latest: latest(55*time.Minute, time.Hour)}, adopting},
		"granted again, rejected":   {record{Token: tokenInRecord("mine", time.Minute, time.Hour)}, view{began: began, latest: latest(55*time.Minute, time.Hour), rejected: "mine"}, waiting},
		"expired, earlier":          {record{Token: tokenInRecord("theirs", 2*time.Hour, 10*time.Hour)}, view{began: began, latest: latest(time.Hour, time.Hour)}, waiting},
		"ahead, lives longer":       {record{Token: tokenInRecord("theirs", time.Minute, time.Hour)}, view{began: began, latest: latest(55*time.Minute, time.Hour)}, adopting},
		"ahead, later but shorter":  {record{Token: tokenInRecord("theirs", time.Minute, 3*time.Minute)}, view{began: began, latest: latest(55*time.Minute, time.Hour)}, waiting},
		"ahead, earlier but longer": {record{Token: tokenInRecord("theirs", time.Hour, 3*time.Hour)}, view{began: began, latest: latest(55*time.Minute, time.Hour)}, adopting},
		"ahead, longer by less than clocks differ": {
			record{Token: tokenInRecord("theirs", 0, 5*time.Minute+20*time.Second)},
			view{began: began, latest: latest(55*time.Minute, time.Hour)},
			waiting,
		},
		"after a 401, later":            {record{Token: tokenInRecord("theirs", time.Minute, 3*time.Minute)}, view{began: began, latest: latest(55*time.Minute, time.Hour), rejected: "mine", replacing: true}, adopting},
		"after a 401, earlier":          {record{Token: tokenInRecord("theirs", time.Hour, 3*time.Hour)}, view{began: began, latest: latest(55*time.Minute, time.Hour), rejected: "mine", replacing: true}, waiting},
		"after two 401":                 {record{Token: tokenInRecord("theirs", time.Minute, time.Hour)}, view{began: began, latest: latest(55*time.Minute, time.Hour), rejected: "mine", replacing: true, own: true}, waiting},
		"just replaced":                 {record{Replaced: recordNow.Add(1 - replacePause)}, view{began: began, latest: latest(time.Minute, time.Hour), rejected: "mine", replacing: true}, staying},
		"just replaced, clock ahead":    {record{Replaced: recordNow.Add(replacePause - 1)}, view{began: began, latest: latest(time.Minute, time.Hour), rejected: "mine", replacing: true}, staying},
		"replaced before":               {record{Replaced: recordNow.Add(-replacePause)}, view{began: began, latest: latest(time.Minute, time.Hour), rejected: "mine", replacing: true}, waiting},
		"just replaced, ahead":          {record{Replaced: recordNow}, view{began: began, latest: latest(55*time.Minute, time.Hour)}, waiting},
		"just replaced, expired":        {record{Replaced: recordNow}, view{began: began, latest: latest(time.Hour, time.Hour), rejected: "mine", replacing: true}, waiting},
		"failed":                        {record{Failure: failureInRecord(0, time.Minute, true)}, view{began: began}, failing},
		"failed, locked":                {record{Failure: failureInRecord(0, time.Minute, true)}, view{began: longAgo, locked: true}, failing},
		"failed, after a 401":           {record{Failure: failureInRecord(0, time.Minute, true)}, view{began: began, latest: latest(time.Minute, time.Hour), replacing: true}, failing},
		"failed before":                 {record{Failure: failureInRecord(2*time.Minute, time.Minute, true)}, view{began: began}, waiting},
		"failed here":                   {record{Failure: mine}, view{began: began}, waiting},
		"failed without a response":     {record{Failure: failureInRecord(4*time.Second, time.Minute, false)}, view{began: began}, failing},
		"failed without a response, 5s": {record{Failure: failureInRecord(5*time.Second, time.Minute, false)}, view{began: began}, waiting},
	} {
		test.view.replica, test.view.patience = "me", patience
		if got := decide(test.record, test.view, recordNow); got != test.want {
			t.Errorf("%s: decision %d, want %d", name, got, test.want)
		}
	}
}
