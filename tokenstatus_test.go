package httphelper

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
)

func wantState(t *testing.T, s *tokenSource, want sourceState) sourceStatus {
	t.Helper()
	synctest.Wait()
	st := s.status()
	if st.state != want {
		t.Fatalf("state %s, want %s", st.state, want)
	}
	return st
}

func TestStates(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{answer: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		if st := wantState(t, s, stateIdle); st.lastError != nil || st.hadToken || !st.nextAttempt.IsZero() || !st.expires.IsZero() {
			t.Errorf("idle: %+v", st)
		}

		failed := time.Now()
		wantFailure(t, s, errTestConfiguration)
		st := wantState(t, s, stateDown)
		if e := st.lastError; e == nil || *e != (sourceError{failed.Round(0), classConfiguration, "invalid_client", "refused"}) {
			t.Errorf("last error %+v", st.lastError)
		}
		if wait := st.nextAttempt.Sub(failed); wait < 800*time.Millisecond || wait > 1200*time.Millisecond {
			t.Errorf("next attempt in %v", wait)
		}

		f.answers(func(_ context.Context, call int) (*grantedToken, error) {
			token := tokenFor(call, 100*time.Second)
			token.granted, token.missing = []string{"a"}, []string{"b"}
			return token, nil
		})
		time.Sleep(1200 * time.Millisecond)
		if st := wantState(t, s, stateDown); !st.nextAttempt.IsZero() {
			t.Errorf("next attempt %v in the past", st.nextAttempt)
		}
		obtained := time.Now()
		wantToken(t, s, "token-2")
		st = wantState(t, s, stateReady)
		if st.lastError != nil || !st.hadToken || !st.nextAttempt.IsZero() {
			t.Errorf("ready: %+v", st)
		}
		if !st.obtained.Equal(obtained) || !st.expires.Equal(obtained.Add(100*time.Second)) {
			t.Errorf("obtained %v, expires %v", st.obtained, st.expires)
		}
		if ahead := st.expires.Sub(st.refresh); ahead < 18*time.Second || ahead > 22*time.Second {
			t.Errorf("refreshed %v ahead", ahead)
		}
		if !slices.Equal(st.granted, []string{"a"}) || !slices.Equal(st.missing, []string{"b"}) {
			t.Errorf("granted %v, missing %v", st.granted, st.missing)
		}

		f.answers(fails(errTestOutage))
		time.Sleep(85 * time.Second)
		wantToken(t, s, "token-2")
		if st := wantState(t, s, stateFailing); st.lastError == nil || st.expires.IsZero() {
			t.Errorf("failing: %+v", st)
		}

		time.Sleep(10 * time.Second)
		st = wantState(t, s, stateDown)
		if !st.expires.IsZero() || st.granted != nil || !st.hadToken {
			t.Errorf("down: %+v", st)
		}
		if st.requests != 3 || st.failures != 2 || st.rejected != 0 {
			t.Errorf("counts %+v", st)
		}
	})
}

func TestExpiredIdleSourceIsIdle(t *testing.T) {
	simulated(t, func(t *testing.T) {
		s, _ := startSource(t, &fakeFetcher{})
		wantToken(t, s, "token-1")
		time.Sleep(time.Hour)
		if st := wantState(t, s, stateIdle); !st.hadToken {
			t.Error("forgot that it had a token")
		}
	})
}

// events collects what an observer is told.
type events struct {
	mu   sync.Mutex
	told []fetchEvent
}

func (e *events) observe(event fetchEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = append(e.told, event)
}

func TestObserverIsToldOfEachTokenRequest(t *testing.T) {
	simulated(t, func(t *testing.T) {
		f := &fakeFetcher{takes: time.Second, answer: func(_ context.Context, call int) (*grantedToken, error) {
			if call == 1 {
				return nil, errTestTransient
			}
			return tokenFor(call, time.Hour), nil
		}}
		var old, current, other events
		s, _ := startSource(t, f, func(u *sourceUser) { u.owner = fakeOwner{observed: old.observe} })
		startSource(t, f, func(u *sourceUser) { u.owner = fakeOwner{observed: current.observe} })
		startSource(t, f, func(u *sourceUser) { u.name, u.owner = "shipping", fakeOwner{observed: other.observe} })
		startSource(t, f, func(u *sourceUser) {
			u.name, u.owner = "broken", fakeOwner{observed: func(fetchEvent) { panic("hunter2") }}
		})

		token := mustToken(t, s)
		synctest.Wait()
		if len(old.told) != 0 {
			t.Errorf("the old config was told %v", old.told)
		}
		want := []fetchEvent{
			{failed: errTestTransient, took: time.Second},
			{took: time.Second, expires: token.sent.Add(time.Hour).Round(0)},
		}
		if !slices.Equal(current.told, want) || !slices.Equal(other.told, want) {
			t.Errorf("told %+v and %+v", current.told, other.told)
		}

		s.reject(t.Context(), token)
		synctest.Wait()
		if len(current.told) != 4 || current.told[2] != (fetchEvent{rejected: true}) {
			t.Errorf("told %+v", current.told)
		}
	})
}

func TestStateIsLoggedWhenItChanges(t *testing.T) {
	simulated(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		f := &fakeFetcher{answer: fails(errTestOutage)}
		s, _ := startSource(t, f, func(u *sourceUser) { u.logger = zap.New(core) })
		startSource(t, f, func(u *sourceUser) {
			u.name, u.logger, u.owner = "accounting", zap.New(core), fakeOwner{endpoint: "https://auth.example/token"}
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
		ask := func() {
			time.Sleep(time.Minute)
			_, _ = s.Token(t.Context())
		}

		ask()
		fields := next(zap.ErrorLevel, "getting a token failed; requests are refused until there is one")
		if fields["connection"] != "accounting, billing" || fields["class"] != "outage" || fields["reason"] != "out of order" || fields["token_url"] != "https://auth.example/token" {
			t.Errorf("fields %v", fields)
		}
		for range 5 {
			ask()
		}
		nothing()

		f.answers(fails(errTestConfiguration))
		ask()
		fields = next(zap.ErrorLevel, "getting a token failed; requests are refused until there is one")
		if fields["class"] != "configuration" || fields["reason"] != "refused (invalid_client)" {
			t.Errorf("fields %v", fields)
		}

		f.answers(grants(100 * time.Second))
		ask()
		if fields = next(zap.InfoLevel, "getting tokens works again"); fields["failures"] != int64(7) {
			t.Errorf("fields %v", fields)
		}
		ask()
		nothing()

		f.answers(fails(errTestOutage))
		time.Sleep(25 * time.Second)
		_, _ = s.Token(t.Context())
		next(zap.WarnLevel, "getting a new token failed; requests go on with the current one while it lives")
		ask()
		next(zap.ErrorLevel, "getting a token failed; requests are refused until there is one")

		f.answers(grants(100 * time.Second))
		ask()
		if fields = next(zap.InfoLevel, "getting tokens works again"); fields["failures"] != int64(2) {
			t.Errorf("fields %v", fields)
		}
	})
}

func TestMissingScopesAreLoggedOnce(t *testing.T) {
	simulated(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		missing := []string{"b", "c"}
		f := &fakeFetcher{answer: func(_ context.Context, call int) (*grantedToken, error) {
			token := tokenFor(call, time.Hour)
			token.missing = missing
			return token, nil
		}}
		s, _ := startSource(t, f, func(u *sourceUser) { u.logger = zap.New(core) })
		for _, want := range []int{1, 0} {
			if err := s.refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if entries := logs.TakeAll(); len(entries) != want {
				t.Fatalf("logged %+v", entries)
			}
		}
		missing = []string{"c"}
		_ = s.refresh(t.Context())
		synctest.Wait()
		if logs.Len() != 1 {
			t.Errorf("logged %+v", logs.All())
		}
	})
}

func TestRejectionsAreLoggedNowAndThen(t *testing.T) {
	simulated(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		s, _ := startSource(t, &fakeFetcher{}, func(u *sourceUser) { u.logger = zap.New(core) })
		reject := func(want ...uint64) {
			t.Helper()
			s.reject(t.Context(), mustToken(t, s))
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
		time.Sleep(rejectionsPause)
		reject(5)
	})
}
