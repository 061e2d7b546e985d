package token

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

func TestPanicIsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call == 1 {
				panic("hunter2")
			}
			return tokentest.Token(call, time.Hour), nil
		}}
		core, logs := observer.New(zap.DebugLevel)
		s, _ := startSource(t, f, func(u *User) { u.Logger = zap.New(core) })
		wantFailure(t, s, errPanicked)
		synctest.Wait()
		if panics := logs.FilterMessage("panic while fetching a token"); panics.Len() != 1 {
			t.Fatalf("logged %v", logs.All())
		}
		for _, entry := range logs.All() {
			if strings.Contains(fmt.Sprint(entry), "hunter2") {
				t.Fatalf("the panic's text is in the log: %v", entry)
			}
		}
		time.Sleep(2 * time.Second)
		tokentest.WantToken(t, s, "token-2")
	})
}

func TestUnknownErrorIsAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := startSource(t, &tokentest.Fetcher{Respond: fails(errors.New("hunter2"))})
		wantFailure(t, s, &oauth.Error{Class: oauth.ClassOutage, Status: 503, Message: "fetching a token failed"})
	})
}

func TestTransientFailuresAreRetriedQuickly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call < 3 {
				return nil, errTestTransient
			}
			return tokentest.Token(call, time.Hour), nil
		}}
		s, _ := startSource(t, f)
		start := time.Now()
		tokentest.WantToken(t, s, "token-3")
		if took := time.Since(start); took < 200*time.Millisecond || took > 600*time.Millisecond {
			t.Errorf("took %v", took)
		}
		synctest.Wait()
		if st := s.Status(); st.Requests != 3 || st.Failures != 2 || st.State != StateReady {
			t.Errorf("got %+v", st)
		}
	})
}

func TestRetriesEnd(t *testing.T) {
	for name, test := range map[string]struct {
		fetcher *tokentest.Fetcher
		calls   int
		want    *oauth.Error
	}{
		"transient":        {&tokentest.Fetcher{Respond: fails(errTestTransient)}, 3, errTestTransient},
		"outage":           {&tokentest.Fetcher{Respond: fails(errTestOutage)}, 1, errTestOutage},
		"configuration":    {&tokentest.Fetcher{Respond: fails(errTestConfiguration)}, 1, errTestConfiguration},
		"timeout":          {&tokentest.Fetcher{Takes: time.Minute}, 1, ErrTimeout},
		"second times out": {&tokentest.Fetcher{Takes: 6 * time.Second, Respond: fails(errTestTransient)}, 2, ErrTimeout},
		"no time left":     {&tokentest.Fetcher{Takes: 9990 * time.Millisecond, Respond: fails(errTestTransient)}, 1, errTestTransient},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := startSource(t, test.fetcher)
				start := time.Now()
				wantFailure(t, s, test.want)
				if took := time.Since(start); took > DefaultTimeout {
					t.Errorf("took %v", took)
				}
				tokentest.WantCalls(t, test.fetcher, test.calls)
			})
		})
	}
}

func TestOutageAtTheDeadlineIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(ctx context.Context, _ int) (*oauth.Token, error) {
			<-ctx.Done()
			return nil, errTestTransient
		}}
		s, _ := startSource(t, f)
		wantFailure(t, s, ErrTimeout)
		tokentest.WantCalls(t, f, 1)
		if got := s.Status().LastError; got == nil || got.Message != ErrTimeout.Message {
			t.Errorf("remembered %+v", got)
		}
	})
}

func TestConfigurationErrorAtTheDeadlineStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(ctx context.Context, _ int) (*oauth.Token, error) {
			<-ctx.Done()
			return nil, errTestConfiguration
		}}
		s, _ := startSource(t, f)
		_, _ = s.Token(t.Context())
		synctest.Wait()
		wantFailure(t, s, errTestConfiguration)
	})
}

func TestTimeoutIsTheLongestOfTheUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: 8 * time.Second}
		s, _ := startSource(t, f, func(u *User) { u.Timeout = 9 * time.Second })
		acquireTestSource(t, f, func(u *User) { u.Timeout = time.Hour }) // of a config that does not run
		startSource(t, f, func(u *User) { u.Timeout = 2 * time.Second })
		tokentest.WantToken(t, s, "token-1")

		f.SetTakes(time.Minute)
		start := time.Now()
		if err := s.Refresh(t.Context()); err == nil || time.Since(start) != 9*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
	})
}

func TestStuckFetcherKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			<-stuck
			return tokentest.Token(call, time.Hour), nil
		}}
		s, _ := startSource(t, f)
		start := time.Now()
		for range 3 {
			if got := wantFailure(t, s, ErrTimeout); got.RetryAfter != time.Second {
				t.Errorf("retry after %v", got.RetryAfter)
			}
		}
		if took := time.Since(start); took != DefaultTimeout {
			t.Errorf("took %v", took)
		}
		tokentest.WantCalls(t, f, 1)
		close(stuck)
		synctest.Wait()
		tokentest.WantToken(t, s, "token-1")
	})
}

func TestTokenThatComesTooLateIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := time.Now()
		f := &tokentest.Fetcher{Takes: 9 * time.Second, Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			late := tokentest.Token(call, 5*time.Second)
			late.Sent = sent
			return late, nil
		}}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTooLate)
		if s.Current() != nil {
			t.Error("it is held")
		}
	})
}

func TestForcedRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: time.Second}
		s, _ := startSource(t, f)
		tokentest.WantToken(t, s, "token-1")

		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := s.Refresh(t.Context()); err != nil {
					t.Errorf("refreshing: %v", err)
				}
			})
		}
		synctest.Wait()
		tokentest.WantToken(t, s, "token-1") // without waiting
		all.Wait()
		tokentest.WantCalls(t, f, 2)
		tokentest.WantToken(t, s, "token-2")

		f.SetRespond(fails(errTestConfiguration))
		var failed *oauth.Error
		if err := s.Refresh(t.Context()); !errors.As(err, &failed) || failed.Code != "invalid_client" {
			t.Errorf("got %v", err)
		}
		tokentest.WantToken(t, s, "token-2")
		if st := s.Status(); st.State != StateFailing {
			t.Errorf("state %s", st.State)
		}
	})
}

func TestForcedRefreshEndsTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retry := *errTestOutage
		retry.RetryAfter = time.Minute
		f := &tokentest.Fetcher{Respond: fails(&retry)}
		s, _ := startSource(t, f)
		wantFailure(t, s, errTestOutage)
		f.SetRespond(nil)
		wantFailure(t, s, errTestOutage)
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		tokentest.WantToken(t, s, "token-2")
	})
}

func TestRequestsWaitForAForcedRefreshInTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: fails(errTestOutage)}
		s, _ := startSource(t, f)
		for f.Count() < 5 {
			wantFailure(t, s, errTestOutage)
			time.Sleep(100 * time.Millisecond)
		}
		f.SetTakes(time.Second)
		go func() { _ = s.Refresh(t.Context()) }()
		synctest.Wait()
		start := time.Now()
		failed := wantFailure(t, s, errTestOutage)
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("waited %v", waited)
		}
		if failed.RetryAfter > 2*time.Second {
			t.Errorf("the back-off after it is %v", failed.RetryAfter)
		}
		tokentest.WantCalls(t, f, 6)
	})
}

func TestForcedRefreshLeavesWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := startSource(t, &tokentest.Fetcher{Takes: time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := s.Refresh(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
	})
}

func TestExpiredTokenThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := new(tokentest.Fetcher)
		s, _ := startSource(t, f)
		old := tokentest.MustToken(t, s)
		old.Certificate = new(tls.Certificate)
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.Expire(old)
		tokentest.WantToken(t, s, "token-2")
		tokentest.WantCalls(t, f, 2)
	})
}

// TestHangingFetcherDoesNotBlockTheSource: a file of a network file system may hang for ever.
func TestHangingFetcherDoesNotBlockTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		f := &tokentest.Fetcher{Respond: func(_ context.Context, call int) (*oauth.Token, error) {
			if call == 1 {
				<-hang
			}
			return tokentest.Token(call, time.Hour), nil
		}}
		s, _ := startSource(t, f)
		wantFailure(t, s, ErrTimeout)
		time.Sleep(2 * hangGrace)
		if st := s.Status(); st.State != StateDown || st.NextAttempt.IsZero() {
			t.Errorf("status %+v", st)
		}
		time.Sleep(2 * minBackoff)
		tokentest.WantToken(t, s, "token-2")
	})
}
