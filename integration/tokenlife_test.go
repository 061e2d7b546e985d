package integration

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

const crowd = 1000

// simultaneously makes the crowd's requests, calls release once all of them have been sent, and
// returns what became of them.
func (w *world) simultaneously(t *testing.T, release func()) []outcome {
	t.Helper()
	client := harness.NewClient(t)
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = crowd
	outcomes := make([]outcome, crowd)
	var sent, finished sync.WaitGroup
	sent.Add(crowd)
	for i := range crowd {
		finished.Go(func() {
			var once sync.Once
			done := func() { once.Do(sent.Done) }
			defer done()
			trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { done() }}
			req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), http.MethodGet, w.URL+"/", nil)
			outcomes[i].began = time.Now()
			res, err := client.Do(req)
			outcomes[i].ended, outcomes[i].err = time.Now(), err
			if err == nil {
				outcomes[i].status = res.StatusCode
				res.Body.Close()
			}
		})
	}
	sent.Wait()
	release()
	finished.Wait()
	return outcomes
}

func TestACrowdSharesOneTokenRequest(t *testing.T) {
	w := newWorld(t, nil)
	release := make(chan struct{})
	w.tokens.RespondWith(harness.Blocked(release, w.tokens.Grant(time.Hour)))
	w.Run(t, w.inline(options{connection: "token_timeout 30s"}))
	outcomes := w.simultaneously(t, func() {
		w.tokens.Await(t, 1)
		equal(t, "API requests before there is a token", w.api.Count(), 0)
		close(release)
	})
	wantAllOK(t, outcomes)
	equal(t, "token requests", w.tokens.Count(), 1)
	equal(t, "API requests", w.api.Count(), crowd)
}

func TestACrowdSharesOneTokenRequestOnExpiry(t *testing.T) {
	w := newWorld(t, nil)
	w.tokens.RespondWith(w.tokens.Grant(time.Second))
	w.Run(t, w.inline(options{connection: "token_timeout 30s"}))
	w.wantOK(t)
	expired := time.After(time.Second)
	release := make(chan struct{})
	w.tokens.RespondWith(harness.Blocked(release, w.tokens.Grant(time.Hour)))
	<-expired
	wantAllOK(t, w.simultaneously(t, func() {
		w.tokens.Await(t, 2)
		close(release)
	}))
	equal(t, "token requests", w.tokens.Count(), 2)
}

func TestACrowdSharesOneFailure(t *testing.T) {
	w := newWorld(t, nil)
	release := make(chan struct{})
	w.tokens.RespondWith(harness.Blocked(release, harness.Refuse(http.StatusUnauthorized, "invalid_client")))
	w.Run(t, w.inline(options{connection: "token_timeout 30s"}))
	var released time.Time
	outcomes := w.simultaneously(t, func() {
		w.tokens.Await(t, 1)
		released = time.Now()
		close(release)
	})
	for _, o := range outcomes {
		if o.status != http.StatusBadGateway || o.ended.Sub(released) > 10*time.Second {
			t.Fatalf("%v, %v after the attempt ended", o, o.ended.Sub(released))
		}
	}
	// The failure is remembered for a second; a crowd that takes longer may cause one more attempt.
	if got := w.tokens.Count(); got > 2 {
		t.Errorf("%d token requests", got)
	}
	equal(t, "API requests", w.api.Count(), 0)
}

func TestAWaiterLeavesAloneAndTakesNobodyWithIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	release := make(chan struct{})
	w.tokens.RespondWith(harness.Blocked(release, w.tokens.Grant(time.Hour)))
	w.Run(t, w.inline(options{}))
	ctx, leave := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/first", nil)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() {
		_, err := w.Do(req)
		left <- err
	}()
	w.tokens.Await(t, 1)
	stays := make(chan outcome, 1)
	go func() { stays <- w.try("/second") }()
	leave()
	if err := <-left; err == nil {
		t.Error("the first request got a response although its client had left")
	}
	close(release)
	equal(t, "status of the second", (<-stays).status, http.StatusOK)
	equal(t, "token requests", w.tokens.Count(), 1)
	equal(t, "request URI", w.api.Last(t).RequestURI, "/second")
}

func TestNoRequestWaitsWhileATokenIsAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(w.tokens.Grant(8 * time.Second))
	w.Run(t, w.inline(options{connection: "refresh_before 4s\ntoken_timeout 30s"}))
	w.wantOK(t)
	// From now on the token endpoint does not respond at all. A request that waited for it would
	// fail; a hundred succeed with the current token.
	release := make(chan struct{})
	w.tokens.RespondWith(harness.Blocked(release, w.tokens.Grant(time.Hour)))
	eventually(t, "a refresh ahead of expiry", func() bool {
		w.wantOK(t)
		return w.tokens.Count() == 2
	})
	for range 100 {
		w.wantOK(t)
		equal(t, "token", harness.Bearer(w.api.Last(t).Header), "token-1")
	}
	close(release)
	eventually(t, "the fresh token in use", func() bool {
		w.wantOK(t)
		return harness.Bearer(w.api.Last(t).Header) == "token-2"
	})
	equal(t, "token requests", w.tokens.Count(), 2)
}

func TestAFailedRefreshIsSilentWhileTheTokenLives(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const lifetime = 4 * time.Second
	w.tokens.RespondWith(w.tokens.Grant(lifetime))
	w.Run(t, w.inline(options{connection: "refresh_before 2s"}))
	before := time.Now() // the token's lifetime begins after this, and before its request arrives
	w.wantOK(t)
	w.tokens.RespondWith(harness.Refuse(http.StatusInternalServerError, "server_error"))
	var first outcome
	eventually(t, "a response without a token", func() bool {
		first = w.try("/")
		return first.status != http.StatusOK
	})
	equal(t, "status", first.status, http.StatusServiceUnavailable)
	// The margin in which a token is no longer sent is a tenth of such a lifetime.
	if age := first.ended.Sub(before); age < lifetime*9/10 {
		t.Errorf("refused %v after the token was requested, whose lifetime is %v", age, lifetime)
	}
	for _, r := range w.api.Requests() {
		equal(t, "token", harness.Bearer(r.Header), "token-1")
	}
	w.tokens.RespondWith(w.tokens.Grant(time.Hour))
	eventually(t, "recovery", func() bool { return w.try("/").status == http.StatusOK })
}

func TestBackOffAndRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(harness.Reply(http.StatusTooManyRequests, "{}", "Retry-After", "3"))
	w.Run(t, w.inline(options{}))
	began := time.Now()
	response := w.Get(t, "/")
	wantSidecarError(t, response, http.StatusServiceUnavailable, "proxy_internal_error")
	seconds, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil || seconds < 1 || seconds > 4 {
		t.Errorf("Retry-After %q", response.Header.Get("Retry-After"))
	}
	w.tokens.RespondWith(w.tokens.Grant(time.Hour))
	for time.Since(began) < 2500*time.Millisecond {
		wantSidecarError(t, w.Get(t, "/"), http.StatusServiceUnavailable, "proxy_internal_error")
	}
	equal(t, "token requests while the server wants peace", w.tokens.Count(), 1)
	eventually(t, "recovery", func() bool { return w.try("/").status == http.StatusOK })
	equal(t, "token requests", w.tokens.Count(), 2)
}

func TestAnOutageCostsTheTokenEndpointLittle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(harness.Refuse(http.StatusInternalServerError, "server_error"))
	w.Run(t, w.inline(options{}))
	l := w.startLoad(t, 4, time.Millisecond)
	time.Sleep(5 * time.Second)
	outcomes := l.stop()
	// Attempts begin at about 0s, 1s and 3s, a fifth earlier at most, and each is up to three requests.
	if got := w.tokens.Count(); got > 4*3 {
		t.Errorf("%d token requests in 5s for %d requests", got, len(outcomes))
	}
	equal(t, "API requests", w.api.Count(), 0)
}

func TestRejectedCredentialsAreNotRetriedWithinAnAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(harness.Refuse(http.StatusUnauthorized, "invalid_client"))
	w.Run(t, w.inline(options{}))
	wantSidecarError(t, w.Get(t, "/"), http.StatusBadGateway, "proxy_configuration_error")
	equal(t, "token requests", w.tokens.Count(), 1)
}

func TestNetworkErrorsAreRetriedWithinAnAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var mu sync.Mutex
	dropped := 0
	w.tokens.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if dropped++; dropped <= 2 {
			panic(http.ErrAbortHandler)
		}
		w.tokens.Grant(time.Hour).ServeHTTP(rw, r)
	}))
	w.Run(t, w.inline(options{}))
	w.wantOK(t)
	equal(t, "token requests", w.tokens.Count(), 3)
}

func TestAShortLifeNeverLeadsToARequestPerCall(t *testing.T) {
	t.Parallel()
	for name, lifetime := range map[string]any{"1": 1, "0.2": 0.2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.api.Accept(nil)
			w.tokens.RespondWith(harness.Reply(http.StatusOK, map[string]any{"access_token": "t", "expires_in": lifetime}))
			w.Run(t, w.inline(options{}))
			l := w.startLoad(t, 4, 5*time.Millisecond)
			time.Sleep(3 * time.Second)
			wantAllOK(t, l.stop())
			if got := w.tokens.Count(); got < 2 || got > 8 {
				t.Errorf("%d token requests in 3s", got)
			}
		})
	}
}

func TestDefaultLifetime(t *testing.T) {
	t.Parallel()
	for name, response := range map[string]string{
		"missing": `{"access_token":"t"}`, "nonsense": `{"access_token":"t","expires_in":"soon"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.api.Accept(nil)
			w.tokens.RespondWith(harness.Reply(http.StatusOK, response))
			w.Run(t, w.inline(options{connection: "default_lifetime 2s"}))
			w.wantOK(t)
			eventually(t, "a second token request", func() bool {
				w.wantOK(t)
				return w.tokens.Count() == 2
			})
			requests := w.tokens.Requests()
			if after := requests[1].At.Sub(requests[0].At); after < 900*time.Millisecond || after > 3*time.Second {
				t.Errorf("refreshed after %v", after)
			}
		})
	}
}

// TestALifeThatIsAlwaysZero has token endpoints that mean nothing by it: after a second look the default
// lifetime counts.
func TestALifeThatIsAlwaysZero(t *testing.T) {
	t.Parallel()
	for name, response := range map[string]string{"zero": `{"access_token":"t","expires_in":0}`, "negative": `{"access_token":"t","expires_in":-5}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.api.Accept(nil)
			w.tokens.RespondWith(harness.Reply(http.StatusOK, response))
			w.Run(t, w.inline(options{connection: "default_lifetime 1h"}))
			l := w.startLoad(t, 4, 5*time.Millisecond)
			w.tokens.Await(t, 2)
			time.Sleep(2 * time.Second)
			wantAllOK(t, l.stop())
			requests := w.tokens.Requests()
			equal(t, "token requests", len(requests), 2)
			if after := requests[1].At.Sub(requests[0].At); after < time.Second || after > 3*time.Second {
				t.Errorf("looked again after %v", after)
			}
		})
	}
}

// TestTheSameTokenUntilItDies has a token endpoint that grants a token again and again until it dies, with
// the whole seconds that are left, and an API that responds to a dead one with 200.
func TestTheSameTokenUntilItDies(t *testing.T) {
	t.Parallel()
	const life, lives = 4500 * time.Millisecond, 5
	w := newWorld(t, nil)
	w.api.Accept(nil)
	var mu sync.Mutex
	var current string
	var born time.Time
	number := 0
	dead := map[int]int{} // requests with a dead token, by the number of the token that lived then
	w.tokens.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(born) >= life {
			number, born = number+1, time.Now()
			current = "token-of-life-" + strconv.Itoa(number)
		}
		left := int((life - time.Since(born)) / time.Second)
		harness.Reply(http.StatusOK, map[string]any{"access_token": current, "token_type": "bearer", "expires_in": left}).ServeHTTP(rw, nil)
	}))
	w.api.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if harness.Bearer(r.Header) != current || time.Since(born) >= life {
			dead[number]++
			_, _ = io.WriteString(rw, `{"success":false,"errors":[{"code":"602"}]}`)
		}
	}))
	w.Run(t, w.inline(options{}))
	l := w.startLoad(t, 4, 5*time.Millisecond)
	eventually(t, "five lives", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return number > lives
	})
	wantAllOK(t, l.stop())
	for life, requests := range dead {
		if requests > 2 {
			t.Errorf("life %d: %d requests with a dead token", life, requests)
		}
	}
	requests := w.tokens.Requests()
	for i := 1; i < len(requests); i++ {
		if pause := requests[i].At.Sub(requests[i-1].At); pause < 990*time.Millisecond {
			t.Errorf("token request %d came %v after the one before", i+1, pause)
		}
	}
}

func TestAnIdleConnectionMakesNoRequestsAndAWarmOneDoes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	idle := harness.NewTokenEndpoint(t, nil)
	w.tokens.RespondWith(w.tokens.Grant(time.Second))
	idle.RespondWith(idle.Grant(time.Second))
	config := w.expand(options{}, harness.Config{
		Options: strings.ReplaceAll(`http_helper {
			connection warm {
				base_url $API
				token_url $TOKENS
				client_id app
				client_secret {env.SECRET}
				warm
			}
			connection idle {
				base_url $API
				token_url $IDLE
				client_id app
				client_secret {env.SECRET}
			}
		}`, "$IDLE", idle.URL),
		Site: "http_helper idle",
	})
	w.Run(t, config)
	w.tokens.Await(t, 1) // at start, without a request
	w.api.Accept(nil)
	w.wantOK(t)
	w.tokens.Await(t, 4)
	equal(t, "token requests of the idle connection", idle.Count(), 1)

	// The background work ends with the connection.
	config.Options = strings.Replace(config.Options, "\t\t\t\twarm\n", "", 1)
	if err := w.Reload(config); err != nil {
		t.Fatal(err)
	}
	after := w.tokens.Count()
	time.Sleep(2 * time.Second)
	if got := w.tokens.Count(); got > after+1 {
		t.Errorf("%d token requests after the connection was no longer warm", got-after)
	}
}

func TestATokenFailureNeverCountsAgainstTheAPIsHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(harness.Refuse(http.StatusServiceUnavailable, "temporarily_unavailable"))
	w.Run(t, w.inline(options{directive: "fail_duration 60s\nmax_fails 1\nunhealthy_status 5xx"}))
	for range 5 {
		wantSidecarError(t, w.Get(t, "/"), http.StatusServiceUnavailable, "proxy_internal_error")
	}
	w.tokens.RespondWith(w.tokens.Grant(time.Hour))
	eventually(t, "recovery", func() bool {
		response := w.Get(t, "/")
		if strings.Contains(response.Header.Get("Proxy-Status"), "destination_unavailable") {
			t.Fatal("the API was taken down")
		}
		return response.StatusCode == http.StatusOK
	})
}

func TestLoadBalancingGoesOnWorking(t *testing.T) {
	t.Parallel()
	ca := harness.NewCA(t)
	w := newWorld(t, ca)
	w.Run(t, w.expand(options{env: []string{"SSL_CERT_FILE=" + ca.File}}, harness.Config{
		Site: "http_helper https://api.test {\ntoken_url $TOKENS\nclient_id app\nclient_secret {env.SECRET}\nto 127.0.0.1:" +
			harness.Port(t) + " " + w.api.Addr + "\nlb_policy round_robin\nlb_retries 1\n}",
	}))
	for range 5 {
		w.wantOK(t)
	}
	equal(t, "token requests", w.tokens.Count(), 1)
	equal(t, "API requests", w.api.Count(), 5)
}
