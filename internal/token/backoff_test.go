package token

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

func TestBackoffDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestOutage)}
		s, _ := startSource(t, f)
		for f.Count() < 12 {
			if got := wantFailure(t, s, errTestOutage); got.RetryAfter < time.Second || got.RetryAfter%time.Second != 0 {
				t.Fatalf("retry after %v", got.RetryAfter)
			}
			time.Sleep(10 * time.Millisecond)
		}
		want := time.Second
		for i := 1; i < len(f.Calls); i++ {
			pause := f.Calls[i].Sub(f.Calls[i-1])
			if pause < want*8/10 || pause > min(want*12/10, time.Minute)+10*time.Millisecond {
				t.Errorf("pause %d is %v, want about %v", i, pause, want)
			}
			want = min(2*want, time.Minute)
		}
	})
}

func TestBackoffIsJittered(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: time.Second, 3: 4 * time.Second} {
		least, most := time.Hour, time.Duration(0)
		for range 1000 {
			least, most = min(least, backoff(failures)), max(most, backoff(failures))
		}
		if least > want*85/100 || most < want*115/100 || least < want*80/100 || most > want*120/100 {
			t.Errorf("after %d failures from %v to %v", failures, least, most)
		}
	}
}

func TestBackoffNeverGivesUp(t *testing.T) {
	for _, failures := range []int{7, 10, 1000, 1 << 20} {
		if got := backoff(failures); got < 48*time.Second || got > time.Minute {
			t.Errorf("after %d failures %v", failures, got)
		}
	}
}

func TestBackoffIsShortAgainAfterASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call == 5 {
				return tokentest.Token(call, time.Second), nil
			}
			return nil, errTestOutage
		}}
		s, _ := startSource(t, f)
		for f.Count() < 7 {
			_, _ = s.Token(t.Context())
			time.Sleep(10 * time.Millisecond)
		}
		if pause := f.Calls[6].Sub(f.Calls[5]); pause > 1300*time.Millisecond {
			t.Errorf("the back-off after a success is %v", pause)
		}
	})
}

func TestRetryAfterIsRespected(t *testing.T) {
	for retryAfter, want := range map[time.Duration]time.Duration{
		30 * time.Second: 30 * time.Second,
		time.Hour:        5 * time.Minute,
		time.Nanosecond:  time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			failure := busy(retryAfter)
			f := &tokentest.Fetcher{Respond: fails(failure)}
			s, _ := startSource(t, f)
			if first := wantFailure(t, s, failure); first.RetryAfter < want || first.RetryAfter > want+time.Second {
				t.Errorf("Retry-After %v: retry after %v, want %v", retryAfter, first.RetryAfter, want)
			}
			time.Sleep(want * 3 / 4)
			if later := wantFailure(t, s, failure); later.RetryAfter > want/4+time.Second {
				t.Errorf("Retry-After %v: retry after %v with a quarter left", retryAfter, later.RetryAfter)
			}
			tokentest.WantCalls(t, f, 1)
			time.Sleep(want/4 + time.Second)
			wantFailure(t, s, failure)
			tokentest.WantCalls(t, f, 2)
		})
	}
}

func TestRequestsInsideTheBackoffFailAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second / 2, Respond: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTestConfiguration)
		start := time.Now()
		for _, o := range crowd(func() (*oauth.Token, error) { return s.Token(t.Context()) }) {
			var failed *oauth.Error
			if !errors.As(o.err, &failed) || failed.Code != "invalid_client" || !o.at.Equal(start) {
				t.Fatalf("got %v after %v", o.err, o.at.Sub(start))
			}
		}
		tokentest.WantCalls(t, f, 1)
	})
}

// rotating is credentials that a test changes.
type rotating struct {
	mu    sync.Mutex
	value string
	err   error
}

func (r *rotating) set(value string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.value, r.err = value, err
}

func (r *rotating) get() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.value, r.err
}

// grantsFor grants tokens for good credentials only.
func (r *rotating) grantsFor(good string) func(context.Context, int) (*oauth.Token, error) {
	return func(_ context.Context, call int) (*oauth.Token, error) {
		value, err := r.get()
		if err != nil || value != good {
			// Long enough that the end of the back-off plays no part.
			failed := *errTestConfiguration
			failed.RetryAfter = time.Minute
			return nil, &failed
		}
		return tokentest.Token(call, 100*time.Second), nil
	}
}

func TestChangedCredentialsEndTheBackoff(t *testing.T) {
	for name, secret := range map[string]*rotating{
		"wrong":      {value: "old"},
		"unreadable": {err: errors.New("no such file")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &tokentest.Fetcher{Credentials: secret.get, Respond: secret.grantsFor("new")}
				s, _ := startSource(t, f)
				wantFailure(t, s, errTestConfiguration)
				wantFailure(t, s, errTestConfiguration)
				secret.set("new", nil)
				time.Sleep(time.Second)
				for _, o := range crowd(func() (*oauth.Token, error) {
					time.Sleep(time.Millisecond) // the first has read the credentials by then
					return s.Token(t.Context())
				}) {
					var failed *oauth.Error
					if o.err != nil && (!errors.As(o.err, &failed) || failed.Code != "invalid_client") {
						t.Fatalf("got %v", o.err)
					}
				}
				tokentest.WantToken(t, s, "token-2")
				tokentest.WantCalls(t, f, 2)
			})
		})
	}
}

func TestCredentialsAreReadOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := busy(time.Minute)
		f := &tokentest.Fetcher{Respond: fails(failure)}
		s, _ := startSource(t, f)
		for range 1000 { // ten seconds
			wantFailure(t, s, failure)
			time.Sleep(10 * time.Millisecond)
		}
		tokentest.WantCalls(t, f, 1)
		// One read belongs to the attempt itself.
		if got := len(f.Reads) - 1; got < 9 || got > 10 {
			t.Errorf("read %d times in 10s", got)
		}
	})
}

// TestCredentialsThatKeepChangingMeanFewAttempts: each change ends the back-off, and the short one after
// it ends by itself.
func TestCredentialsThatKeepChangingMeanFewAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var secret rotating
		f := &tokentest.Fetcher{Credentials: secret.get, Respond: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		for range 1000 { // ten seconds
			secret.set(time.Now().String(), nil)
			wantFailure(t, s, errTestConfiguration)
			time.Sleep(10 * time.Millisecond)
		}
		if got := f.Count(); got > 20 {
			t.Errorf("%d token requests in 10s", got)
		}
	})
}

func TestChangedCredentialsEndTheBackoffOfARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secret := &rotating{value: "first"}
		f := &tokentest.Fetcher{Respond: secret.grantsFor("first"), Credentials: secret.get}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")
		synctest.Wait()
		secret.set("revoked", nil)
		time.Sleep(85 * time.Second)
		tokentest.WantToken(t, s, "token-1") // starts a refresh, which fails
		tokentest.WantCalls(t, f, 2)

		f.SetRespond(secret.grantsFor("second"))
		read, end := slowRead(secret)
		f.SetCredentials(read, secret.get)
		secret.set("second", nil)
		time.Sleep(time.Second)
		start := time.Now()
		for range 100 {
			tokentest.WantToken(t, s, "token-1")
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("requests with a live token waited %v for the credentials", waited)
		}
		end()
		synctest.Wait()
		tokentest.WantToken(t, s, "token-3")
		// One read for each attempt, and one in the back-off.
		if got := len(f.Reads); got != 4 {
			t.Errorf("read %d times", got)
		}
	})
}

// slowRead returns credentials whose next read takes until end is called.
func slowRead(s *rotating) (read func() (string, error), end func()) {
	stuck := make(chan struct{})
	return func() (string, error) { <-stuck; return s.get() }, func() { close(stuck) }
}

func TestSlowReadOfCredentialsDoesNotUndoASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var secret rotating
		f := &tokentest.Fetcher{Credentials: secret.get, Respond: secret.grantsFor("good")}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTestConfiguration)
		secret.set("good", nil)
		read, end := slowRead(&secret)
		f.SetCredentials(read, secret.get)
		waiting := make(chan error)
		go func() { _, err := s.Token(t.Context()); waiting <- err }()
		synctest.Wait()
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		end()
		if err := <-waiting; err != nil {
			t.Error(err)
		}
		if st := s.Status(); st.State != StateReady {
			t.Errorf("state %s", st.State)
		}
		tokentest.WantCalls(t, f, 2)
	})
}

func TestSlowReadOfCredentialsStartsNothingAfterwards(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(*Source, *User)
		calls     int
	}{
		"nothing else": {func(*Source, *User) {}, 3},
		"failed again": {func(s *Source, _ *User) { _ = s.Refresh(context.Background()) }, 3},
		"released":     {func(s *Source, u *User) { s.releaseUser(u) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var secret rotating
				f := &tokentest.Fetcher{Respond: grants(100 * time.Second)}
				s, u := startSource(t, f)
				tokentest.WantToken(t, s, "token-1")
				f.SetRespond(secret.grantsFor("good"))
				time.Sleep(85 * time.Second)
				tokentest.WantToken(t, s, "token-1")
				tokentest.WantCalls(t, f, 2)

				secret.set("bad again", nil)
				read, end := slowRead(&secret)
				f.SetCredentials(read, secret.get)
				tokentest.WantToken(t, s, "token-1")
				synctest.Wait()
				test.meanwhile(s, u)
				end()
				tokentest.WantCalls(t, f, test.calls)
			})
		})
	}
}

func TestBackoffEndsAfterASuspend(t *testing.T) {
	failure := busy(time.Minute)
	f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
		if call == 1 {
			return nil, failure
		}
		return &oauth.Token{Value: "awake", Lifetime: 24 * time.Hour}, nil
	}}
	var c clocks
	s, _ := acquireTestSource(t, f)
	s.now = c.now
	wantFailure(t, s, failure)
	c.move(time.Hour, time.Second)
	tokentest.WantToken(t, s, "awake")
}

// TestPanicWhileReadingCredentials inside of a back-off ends neither the process nor the back-off.
func TestPanicWhileReadingCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestConfiguration)}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTestConfiguration)
		f.SetCredentials(func() (string, error) { panic("hunter2") }, nil)
		wantFailure(t, s, errTestConfiguration)
	})
}

func TestErrorsOfOthersAreNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := startSource(t, &tokentest.Fetcher{Respond: fails(errTestOutage)})
		first, second := wantFailure(t, s, errTestOutage), wantFailure(t, s, errTestOutage)
		if first == second || first == errTestOutage {
			t.Error("one error for two requests inside the back-off")
		}
		if errors.Is(first, errTestOutage) {
			t.Error("not a copy")
		}
	})
}

// TestAPresumedMistakeIsAnOutageOnceItHasWorked has the token endpoint refuse by a status alone (rule 11).
func TestAPresumedMistakeIsAnOutageOnceItHasWorked(t *testing.T) {
	refused := oauth.ConfigurationErrorf("refused")
	refused.Presumed = true
	for name, test := range map[string]struct {
		first    error  // of the first token request; nil: it grants a token
		now      string // the credentials of the second one
		second   *oauth.Error
		want     oauth.Class
		wantText string
	}{
		"never worked":          {first: errTestOutage, now: "old", second: refused, want: oauth.ClassConfiguration, wantText: "refused"},
		"worked":                {now: "old", second: refused, want: oauth.ClassOutage, wantText: "worked before"},
		"other credentials now": {now: "new", second: refused, want: oauth.ClassConfiguration, wantText: "refused"},
		"a known code":          {now: "old", second: errTestConfiguration, want: oauth.ClassConfiguration, wantText: "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &tokentest.Fetcher{Credentials: func() (string, error) { return "old", nil }}
				f.Respond = func(_ context.Context, call int) (*oauth.Token, error) {
					switch {
					case call > 1:
						return nil, test.second
					case test.first != nil:
						return nil, test.first
					default:
						return tokentest.Token(call, time.Minute), nil
					}
				}
				s, _ := startSource(t, f)
				_, _ = s.Token(t.Context())
				time.Sleep(2 * time.Minute)
				f.SetCredentials(func() (string, error) { return test.now, nil }, nil)
				_, err := s.Token(t.Context())
				failed := oauth.AsError(err)
				if failed.Class != test.want || !strings.Contains(failed.Message, test.wantText) {
					t.Errorf("got %+v", failed)
				}
				if last := s.Status().LastError; last == nil || last.Class != test.want {
					t.Errorf("shown as %+v", last)
				}
			})
		})
	}
}

// TestHangingCredentialsHoldNobodyUp: a file of a network file system may hang, when a request in a back-off
// has it read again.
func TestHangingCredentialsHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &tokentest.Fetcher{Respond: fails(busy(time.Hour))}
		s, _ := startSource(t, f, func(u *User) { u.Timeout = 5 * time.Second })
		wantFailure(t, s, busy(time.Hour))
		f.SetCredentials(func() (string, error) { <-release; return "another", nil }, nil)
		time.Sleep(2 * time.Second)

		started := time.Now()
		gone, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, err := s.Token(gone); !errors.Is(err, context.DeadlineExceeded) || time.Since(started) != time.Second {
			t.Errorf("%v after %v for an app that has left", err, time.Since(started))
		}
		for range 10 { // the one that reads still hangs, and no other begins
			time.Sleep(2 * time.Second)
			started = time.Now()
			wantFailure(t, s, busy(time.Hour))
			if d := time.Since(started); d > 0 {
				t.Errorf("a request waited for %v", d)
			}
		}
		f.SetRespond(grants(time.Hour))
		close(release)
		synctest.Wait()
		tokentest.MustToken(t, s) // what was read in the end counts
	})
}

// TestHangingCredentialsHoldNobodyUpForLong: the request that reads them waits no longer than for a token.
func TestHangingCredentialsHoldNobodyUpForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		f := &tokentest.Fetcher{Respond: fails(busy(time.Hour))}
		s, _ := startSource(t, f, func(u *User) { u.Timeout = 5 * time.Second })
		wantFailure(t, s, busy(time.Hour))
		f.SetCredentials(func() (string, error) { <-release; return "another", nil }, nil)
		time.Sleep(2 * time.Second)
		started := time.Now()
		wantFailure(t, s, busy(time.Hour))
		if d := time.Since(started); d != 5*time.Second {
			t.Errorf("it waited for %v", d)
		}
	})
}
