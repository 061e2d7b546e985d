package token

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

// TestRejection has one token rejected once in each situation. The others go on with the current token in
// all of them.
func TestRejection(t *testing.T) {
	const slow = 3 * time.Second
	refresh := func(t *testing.T, s *Source, f *tokentest.Fetcher) {
		t.Helper()
		if err := s.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	failRefresh := func(t *testing.T, s *Source, f *tokentest.Fetcher) {
		t.Helper()
		f.SetRespond(fails(busy(time.Minute)))
		if err := s.Refresh(t.Context()); err == nil {
			t.Fatal("the refresh did not fail")
		}
		f.SetRespond(nil)
	}
	replace := func(t *testing.T, s *Source, f *tokentest.Fetcher) {
		t.Helper()
		if s.Replace(t.Context(), tokentest.MustToken(t, s)) == nil {
			t.Fatal("there is no newer token")
		}
	}
	replaceAccepted := func(t *testing.T, s *Source, f *tokentest.Fetcher) {
		t.Helper()
		s.Accept(tokentest.MustToken(t, s))
		replace(t, s, f)
	}
	for name, test := range map[string]struct {
		before func(t *testing.T, s *Source, f *tokentest.Fetcher) // after token-1
		age    time.Duration                                       // of the token that is rejected
		takes  time.Duration                                       // a token request
		fails  bool                                                // the token request
		old    bool                                                // token-1 is rejected, whatever is current

		retry string        // with this token; "": not at all
		waits time.Duration // the one whose request was rejected
		calls int           // token requests that it causes
		then  string        // the token in use afterwards
	}{
		"first":                 {retry: "token-2", calls: 1, then: "token-2"},
		"endpoint is slow":      {takes: slow, retry: "token-2", waits: slow, calls: 1, then: "token-2"},
		"endpoint fails":        {fails: true, calls: 1, then: "token-1"},
		"endpoint fails slowly": {takes: slow, fails: true, waits: slow, calls: 1, then: "token-1"},
		"back-off":              {before: failRefresh, age: 20 * time.Second, then: "token-1"},
		"after the back-off":    {before: failRefresh, age: 61 * time.Second, retry: "token-3", calls: 1, then: "token-3"},
		"replaced already":      {before: refresh, old: true, retry: "token-2", then: "token-2"},
		"young":                 {before: refresh, retry: "token-1", then: "token-2"},
		"young to the last":     {before: refresh, age: replacePause - 1, retry: "token-1", then: "token-2"},
		"no longer young":       {before: refresh, age: replacePause, retry: "token-3", calls: 1, then: "token-3"},
		"young, endpoint down":  {before: refresh, fails: true, retry: "token-1", then: "token-2"},
		"young to the end of the one before": {before: func(t *testing.T, s *Source, f *tokentest.Fetcher) {
			time.Sleep(time.Hour - replacePause)
			refresh(t, s, f)
		}, age: replacePause - 1, retry: "token-1", then: "token-2"},
		"soon after a rejection":              {before: replaceAccepted, age: replacePause / 2, retry: "token-1", then: "token-2"},
		"API that has rejected all so far":    {before: replace, age: replacePause / 2, then: "token-2"},
		"long enough after a rejection":       {before: replace, age: replacePause, retry: "token-3", calls: 1, then: "token-3"},
		"young, but the previous one is dead": {before: func(t *testing.T, s *Source, f *tokentest.Fetcher) { time.Sleep(time.Hour); refresh(t, s, f) }, retry: "token-3", calls: 1, then: "token-3"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, f, rejected := startWithToken(t)
				if test.before != nil {
					test.before(t, s, f)
				}
				time.Sleep(test.age)
				if !test.old {
					rejected = tokentest.MustToken(t, s)
				}
				calls := f.Count()
				f.SetTakes(test.takes)
				if test.fails {
					f.SetRespond(fails(errTestOutage))
				}
				stop := useInTheMeantime(t, s)
				start := time.Now()
				retry := s.Replace(t.Context(), rejected)
				if waited := time.Since(start); waited != test.waits {
					t.Errorf("waited %v", waited)
				}
				stop()
				wantRetry(t, retry, test.retry)
				tokentest.WantCalls(t, f, calls+test.calls)
				wantRetry(t, tokentest.MustToken(t, s), test.then)
			})
		})
	}
}

// useInTheMeantime uses the source's token until stop is called: it must be there at once.
func useInTheMeantime(t *testing.T, s *Source) (stop func()) {
	t.Helper()
	end := make(chan struct{})
	var user sync.WaitGroup
	user.Go(func() {
		for {
			start := time.Now()
			if _, err := s.Token(t.Context()); err != nil || time.Since(start) != 0 {
				t.Errorf("another request got %v after %v", err, time.Since(start))
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-end:
				return
			}
		}
	})
	return func() { close(end); user.Wait() }
}

func wantRetry(t *testing.T, got *oauth.Token, want string) {
	t.Helper()
	switch {
	case got == nil && want != "":
		t.Errorf("got none, want %s", want)
	case got != nil && got.Value != want:
		t.Errorf("got %s, want %q", got.Value, want)
	}
}

// TestRejectionByAnAPIWhoseClockIsBehind: it takes a token 2 s after it was granted.
func TestRejectionByAnAPIWhoseClockIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: grants(30 * time.Second)}
		s, _ := startSource(t, f)
		tokentest.MustToken(t, s)
		accepts := func(token *oauth.Token) bool { return token != nil && time.Since(token.Sent) >= 2*time.Second }
		time.Sleep(2 * time.Second)
		for range 3000 {
			token := tokentest.MustToken(t, s)
			switch {
			case accepts(token):
				s.Accept(token)
			case !accepts(s.Replace(t.Context(), token)):
				t.Fatal("neither the token nor its replacement is accepted")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got := f.Count(); got > 14 { // refreshed ahead only
			t.Errorf("%d token requests", got)
		}
	})
}

// TestRejectionWithNewCredentials: a secret that was rotated together with the tokens is used at once.
func TestRejectionWithNewCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		f.SetRespond(fails(errTestConfiguration))
		wantRetry(t, s.Replace(t.Context(), rejected), "")
		f.SetRespond(nil)
		wantRetry(t, s.Replace(t.Context(), rejected), "")
		f.SetCredentials(func() (string, error) { return "rotated", nil }, nil)
		time.Sleep(minRecheckPause)
		wantRetry(t, s.Replace(t.Context(), rejected), "token-3")
	})
}

func TestRejectionOfARequestThatCannotBeSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		f.SetTakes(time.Second)
		start := time.Now()
		s.Reject(t.Context(), rejected)
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v", waited)
		}
		tokentest.WantToken(t, s, "token-1")
		time.Sleep(time.Second)
		synctest.Wait()
		tokentest.WantToken(t, s, "token-2")
	})
}

func TestRejectedTokenIsReplacedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		f.SetTakes(time.Second)
		for _, o := range crowd(func() (*oauth.Token, error) { return s.Replace(t.Context(), rejected), nil }) {
			if o.token == nil || o.token.Value != "token-2" {
				t.Fatalf("got %v", o.token)
			}
		}
		tokentest.WantCalls(t, f, 2)
		if late := s.Replace(t.Context(), rejected); late == nil || late.Value != "token-2" {
			t.Errorf("a latecomer got %v", late)
		}
		tokentest.WantCalls(t, f, 2)
		tokentest.WantToken(t, s, "token-2")
		if got := s.Status().Rejected; got != 1 {
			t.Errorf("%d rejections", got)
		}
	})
}

func TestAPIThatRejectsEveryTokenCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Takes: 50 * time.Millisecond}
		s, _ := startSource(t, f)
		tokentest.MustToken(t, s)
		var all sync.WaitGroup
		end := time.Now().Add(59 * time.Second)
		for range 20 {
			all.Go(func() {
				for time.Now().Before(end) {
					token, err := s.Token(t.Context())
					if err != nil {
						t.Errorf("no token: %v", err)
						return
					}
					if newer := s.Replace(t.Context(), token); newer != nil {
						s.Replace(t.Context(), newer)
					}
					time.Sleep(30 * time.Millisecond)
				}
			})
		}
		all.Wait()
		tokentest.WantCalls(t, f, 1+6)
		for i := 2; i < len(f.Calls); i++ {
			if pause := f.Calls[i].Sub(f.Calls[i-1]); pause < replacePause {
				t.Errorf("token requests %v apart", pause)
			}
		}
	})
}

func TestTokenStaysInUseAfterASecondRejection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{}
		s, _ := startSource(t, f)
		newer := s.Replace(t.Context(), tokentest.MustToken(t, s))
		wantRetry(t, s.Replace(t.Context(), newer), "")
		tokentest.WantToken(t, s, "token-2")
		time.Sleep(replacePause)
		wantRetry(t, s.Replace(t.Context(), newer), "token-3")
	})
}

func TestRejectionThatYieldsTheSameToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &tokentest.Fetcher{Respond: func(context.Context, int) (*oauth.Token, error) {
			return &oauth.Token{Value: "always", Lifetime: time.Hour}, nil
		}}
		s, _ := startSource(t, f)
		for range 100 {
			if newer := s.Replace(t.Context(), tokentest.MustToken(t, s)); newer != nil {
				t.Fatalf("got %v", newer)
			}
		}
		tokentest.WantToken(t, s, "always")
		tokentest.WantCalls(t, f, 2)
	})
}

func TestRejectionWhileTheEndpointFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		f.SetRespond(fails(errTestOutage))
		for range 100 {
			wantRetry(t, s.Replace(t.Context(), rejected), "")
		}
		tokentest.WantCalls(t, f, 2)
		tokentest.WantToken(t, s, "token-1")
		if st := s.Status(); st.State != StateFailing || st.Rejected != 1 {
			t.Errorf("status %+v", st)
		}
		f.SetRespond(nil)
		time.Sleep(replacePause)
		wantRetry(t, s.Replace(t.Context(), rejected), "token-3")
	})
}

func TestRejectionBySomebodyWhoDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if newer := s.Replace(ctx, rejected); newer != nil {
			t.Errorf("got %v", newer)
		}
		tokentest.WantCalls(t, f, 2)
		tokentest.WantToken(t, s, "token-2")
	})
}

func TestRejectingWaitEndsWithTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f, rejected := startWithToken(t)
		f.SetTakes(5 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if newer := s.Replace(ctx, rejected); newer != nil || time.Since(start) != time.Second {
			t.Errorf("got %v after %v", newer, time.Since(start))
		}
		tokentest.WantToken(t, s, "token-1")
		time.Sleep(4 * time.Second)
		synctest.Wait()
		tokentest.WantToken(t, s, "token-2")
		tokentest.WantCalls(t, f, 2)
	})
}
