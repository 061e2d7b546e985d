package token

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

func wantState(t *testing.T, s *Source, want State) Status {
	t.Helper()
	synctest.Wait()
	st := s.Status()
	if st.State != want {
		t.Fatalf("state %s, want %s", st.State, want)
	}
	return st
}

func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		if st := wantState(t, s, StateIdle); st.LastError != nil || st.HadToken || !st.NextAttempt.IsZero() || !st.Expires.IsZero() {
			t.Errorf("idle: %+v", st)
		}

		failed := time.Now()
		wantFailure(t, s, errTestConfiguration)
		st := wantState(t, s, StateDown)
		if e := st.LastError; e == nil || *e != (StatusError{failed.Round(0), oauth.ClassConfiguration, "invalid_client", "refused"}) {
			t.Errorf("last error %+v", st.LastError)
		}
		if wait := st.NextAttempt.Sub(failed); wait < 800*time.Millisecond || wait > 1200*time.Millisecond {
			t.Errorf("next attempt in %v", wait)
		}

		f.SetRespond(func(_ context.Context, call int) (*oauth.Token, error) {
			token := tokentest.Token(call, 100*time.Second)
			token.Granted, token.Missing = []string{"a"}, []string{"b"}
			return token, nil
		})
		time.Sleep(1200 * time.Millisecond)
		if st := wantState(t, s, StateDown); !st.NextAttempt.IsZero() {
			t.Errorf("next attempt %v in the past", st.NextAttempt)
		}
		obtained := time.Now()
		tokentest.WantToken(t, s, "token-2")
		st = wantState(t, s, StateReady)
		if st.LastError != nil || !st.HadToken || !st.NextAttempt.IsZero() {
			t.Errorf("ready: %+v", st)
		}
		if !st.Obtained.Equal(obtained) || !st.Expires.Equal(obtained.Add(100*time.Second)) {
			t.Errorf("obtained %v, expires %v", st.Obtained, st.Expires)
		}
		if ahead := st.Expires.Sub(st.Refresh); ahead < 18*time.Second || ahead > 22*time.Second {
			t.Errorf("refreshed %v ahead", ahead)
		}
		if !slices.Equal(st.Granted, []string{"a"}) || !slices.Equal(st.Missing, []string{"b"}) {
			t.Errorf("granted %v, missing %v", st.Granted, st.Missing)
		}

		f.SetRespond(fails(errTestOutage))
		time.Sleep(85 * time.Second)
		tokentest.WantToken(t, s, "token-2")
		if st := wantState(t, s, StateFailing); st.LastError == nil || st.Expires.IsZero() {
			t.Errorf("failing: %+v", st)
		}

		time.Sleep(10 * time.Second)
		st = wantState(t, s, StateDown)
		if !st.Expires.IsZero() || st.Granted != nil || !st.HadToken {
			t.Errorf("down: %+v", st)
		}
		if st.Requests != 3 || st.Failures != 2 || st.Rejected != 0 {
			t.Errorf("counts %+v", st)
		}
	})
}

func TestExpiredIdleSourceIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := startSource(t, &tokentest.Fetcher{})
		tokentest.WantToken(t, s, "token-1")
		time.Sleep(time.Hour)
		if st := wantState(t, s, StateIdle); !st.HadToken {
			t.Error("forgot that it had a token")
		}
	})
}

// events collects what an observer is told, and when that happened.
type events struct {
	mu   sync.Mutex
	told []Event
	at   []time.Time
}

func (e *events) observe(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at = append(e.at, event.At)
	event.At = time.Time{}
	e.told = append(e.told, event)
}

func TestObserverIsToldOfEachTokenRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second, Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call == 1 {
				return nil, errTestTransient
			}
			return tokentest.Token(call, time.Hour), nil
		}}
		var old, current, other events
		s, _ := startSource(t, f, func(u *User) { u.Observer = fakeObserver{observed: old.observe} })
		startSource(t, f, func(u *User) { u.Observer = fakeObserver{observed: current.observe} })
		startSource(t, f, func(u *User) { u.Name, u.Observer = "shipping", fakeObserver{observed: other.observe} })
		startSource(t, f, func(u *User) {
			u.Name, u.Observer = "broken", fakeObserver{observed: func(Event) { panic("hunter2") }}
		})

		token := tokentest.MustToken(t, s)
		synctest.Wait()
		if len(old.told) != 0 {
			t.Errorf("the old config was told %v", old.told)
		}
		want := []Event{
			{Err: errTestTransient, Duration: time.Second},
			{Duration: time.Second, Expires: token.Sent.Add(time.Hour).Round(0)},
		}
		if !slices.Equal(current.told, want) || !slices.Equal(other.told, want) {
			t.Errorf("told %+v and %+v", current.told, other.told)
		}

		s.Replace(t.Context(), token)
		synctest.Wait()
		if len(current.told) != 4 || current.told[2] != (Event{Rejected: true}) {
			t.Errorf("told %+v", current.told)
		}
		if !current.at[0].Before(token.Sent) {
			t.Errorf("the failure is of %v, and the request after its pause was sent at %v", current.at[0], token.Sent)
		}
		if !slices.IsSortedFunc(current.at, time.Time.Compare) || current.at[0].Before(token.Sent.Add(-time.Minute)) {
			t.Errorf("the events are of %v", current.at)
		}
	})
}

func TestStateIsLoggedWhenItChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		f := &tokentest.Fetcher{Respond: fails(errTestOutage)}
		s, _ := startSource(t, f, func(u *User) { u.Logger = zap.New(core) })
		startSource(t, f, func(u *User) {
			u.Name, u.Logger, u.Observer = "accounting", zap.New(core), fakeObserver{endpoint: "https://auth.example/token"}
		})
		next := func(level zapcore.Level, message string) map[string]any {
			t.Helper()
			synctest.Wait()
			entries := logs.TakeAll()
			if len(entries) != 1 || entries[0].Level != level || entries[0].Message != message {
				t.Fatalf("logged %+v", entries)
			}
			return entries[0].ContextMap()
		}
		nothing := func() {
			t.Helper()
			synctest.Wait()
			if logs.Len() != 0 {
				t.Fatalf("logged %+v", logs.All())
			}
		}
		use := func() {
			time.Sleep(time.Minute)
			_, _ = s.Token(t.Context())
		}

		use()
		fields := next(zap.ErrorLevel, "getting a token failed; requests are refused until there is one")
		if fields["connection"] != "accounting, billing" || fields["class"] != "outage" || fields["reason"] != "out of order" || fields["token_url"] != "https://auth.example/token" {
			t.Errorf("fields %v", fields)
		}
		for range 5 {
			use()
		}
		nothing()

		f.SetRespond(fails(errTestConfiguration))
		use()
		fields = next(zap.ErrorLevel, "getting a token failed; requests are refused until there is one")
		if fields["class"] != "configuration" || fields["reason"] != "refused (invalid_client)" {
			t.Errorf("fields %v", fields)
		}

		f.SetRespond(grants(100 * time.Second))
		use()
		if fields = next(zap.InfoLevel, "getting tokens works again"); fields["failures"] != int64(7) {
			t.Errorf("fields %v", fields)
		}
		use()
		nothing()

		f.SetRespond(fails(errTestOutage))
		time.Sleep(25 * time.Second)
		_, _ = s.Token(t.Context())
		next(zap.WarnLevel, "getting a new token failed; requests use the current one until it expires")
		use()
		next(zap.ErrorLevel, "getting a token failed; requests are refused until there is one")

		f.SetRespond(grants(100 * time.Second))
		use()
		if fields = next(zap.InfoLevel, "getting tokens works again"); fields["failures"] != int64(2) {
			t.Errorf("fields %v", fields)
		}
	})
}

func TestMissingScopesAreLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		missing := []string{"b", "c"}
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			token := tokentest.Token(call, time.Hour)
			token.Missing = missing
			return token, nil
		}}
		s, _ := startSource(t, f, func(u *User) { u.Logger = zap.New(core) })
		for _, want := range []int{1, 0} {
			if err := s.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if entries := logs.TakeAll(); len(entries) != want {
				t.Fatalf("logged %+v", entries)
			}
		}
		missing = []string{"c"}
		_ = s.Refresh(t.Context())
		synctest.Wait()
		if logs.Len() != 1 {
			t.Errorf("logged %+v", logs.All())
		}
	})
}

func TestRejectionsAreLoggedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		s, _ := startSource(t, &tokentest.Fetcher{}, func(u *User) { u.Logger = zap.New(core) })
		reject := func(want ...uint64) {
			t.Helper()
			s.Replace(t.Context(), tokentest.MustToken(t, s))
			synctest.Wait()
			entries := logs.TakeAll()
			if len(entries) != len(want) {
				t.Fatalf("logged %+v", entries)
			}
			for i, entry := range entries {
				fields := entry.ContextMap()
				if entry.Message != "the API rejected the token, which is replaced" || fields["connection"] != "billing" || fields["rejected"] != want[i] {
					t.Errorf("logged %+v", entry)
				}
			}
		}
		reject(1)
		for range 3 {
			time.Sleep(time.Minute)
			reject()
		}
		time.Sleep(rejectionLogPause)
		reject(5)
	})
}
