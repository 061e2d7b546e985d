package integration

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// wire is the network between the sidecar and the token endpoint, with its faults.
type wire struct{ proxy *toxiproxy.Proxy }

// cut puts a wire between the world's sidecar and its token endpoint.
func (w *world) cut(t testing.TB) *wire {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	address, err := url.Parse(w.tokens.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := toxiproxy.NewProxy(server, "tokens", "127.0.0.1:0", address.Host)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	address.Host = proxy.Listen
	w.tokens.URL = address.String()
	return &wire{proxy}
}

// fault breaks the wire until fix is called, also for open connections.
type fault struct {
	name       string
	begin, fix func(t testing.TB, w *wire)
	retries    bool // whether an attempt is made of several requests
	status     int  // of requests without a token
}

// toxic is a fault of toxiproxy's.
func toxic(toxicType, stream, attributes string, retries bool, status int) fault {
	return fault{
		name: toxicType, retries: retries, status: status,
		begin: func(t testing.TB, w *wire) {
			t.Helper()
			text := fmt.Sprintf(`{"name":"fault","type":%q,"stream":%q,"toxicity":1,"attributes":{%s}}`, toxicType, stream, attributes)
			if _, err := w.proxy.Toxics.AddToxicJson(strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
		},
		fix: func(t testing.TB, w *wire) {
			t.Helper()
			if err := w.proxy.Toxics.RemoveToxic(context.Background(), "fault"); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// down is a token endpoint that refuses connections.
func down() fault {
	return fault{
		name: "down", retries: true, status: http.StatusServiceUnavailable,
		begin: func(_ testing.TB, w *wire) { w.proxy.Stop() },
		fix: func(t testing.TB, w *wire) {
			t.Helper()
			if err := w.proxy.Start(); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func faults() []fault {
	return []fault{
		down(),
		toxic("latency", "downstream", `"latency":3000`, false, http.StatusGatewayTimeout),
		toxic("timeout", "upstream", `"timeout":0`, false, http.StatusGatewayTimeout),
		toxic("reset_peer", "downstream", `"timeout":0`, true, http.StatusServiceUnavailable),
		toxic("slow_close", "downstream", `"delay":500`, false, 0),
		toxic("limit_data", "downstream", `"bytes":120`, true, http.StatusServiceUnavailable),
	}
}

// TestFaultsOfTheTokenEndpoint breaks the network to the token endpoint while requests of every
// authentication method run, for longer than tokens live. Requests fail only while no token is alive,
// the token endpoint gets no more requests than the back-off allows, and afterwards everything
// recovers without help. No assertion and no proof is used twice.
func TestFaultsOfTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	const (
		lifetime = 3 * time.Second
		lasting  = 6 * time.Second
	)
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newMethodsWorld(t)
			wire := w.cut(t)
			w.tokens.RespondWith(w.grant(lifetime))
			w.Run(t, w.config("token_timeout 2s"))
			loads := make(map[*clientMethod]*load)
			for _, m := range w.methods {
				wantStatus(t, w.Get(t, "/"+m.name+"/x"), http.StatusOK)
				loads[m] = w.startLoadOf(t, "/"+m.name+"/x", 1, 50*time.Millisecond)
			}

			before := w.countEach()
			began := time.Now()
			f.begin(t, wire)
			time.Sleep(lasting)
			after := w.countEach()
			f.fix(t, wire)
			fixed := time.Now()
			recovered := w.awaitRecovery(t, fixed)
			time.Sleep(lifetime / 2)
			for m, l := range loads {
				t.Run(m.name, func(t *testing.T) {
					f.check(t, l.stop(), began, recovered[m], lifetime)
					f.checkCount(t, after[m]-before[m])
					// The back-off may have grown to 4s, a fifth more at most, and one more try may fail at once.
					if took := recovered[m].Sub(fixed); took > 8*time.Second {
						t.Errorf("recovered %v after the fault ended", took)
					}
				})
			}
			w.wantProofs(t)
		})
	}
}

// countEach counts the token requests of each method.
func (w *methodsWorld) countEach() map[*clientMethod]int {
	counts := make(map[*clientMethod]int)
	for _, m := range w.methods {
		counts[m] = len(w.requestsOf(m))
	}
	return counts
}

// awaitRecovery waits until a request of each method that began after the fault succeeds, and
// returns when that was.
func (w *methodsWorld) awaitRecovery(t *testing.T, fixed time.Time) map[*clientMethod]time.Time {
	t.Helper()
	recovered := make(map[*clientMethod]time.Time)
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, m := range w.methods {
		all.Go(func() {
			if !soon(func() bool {
				o := w.try("/" + m.name + "/x")
				return o.status == http.StatusOK && o.began.After(fixed)
			}) {
				t.Errorf("%s does not recover", m.name)
			}
			mu.Lock()
			defer mu.Unlock()
			recovered[m] = time.Now()
		})
	}
	all.Wait()
	return recovered
}

// checkCount wants no more token requests during the fault than the back-off allows. A slow close
// breaks nothing. Otherwise attempts begin when the refresh is due and then 1s, 2s and 4s apart, a fifth
// less at most; a request may be under way when the fault begins.
func (f fault) checkCount(t *testing.T, count int) {
	t.Helper()
	attempts := 5
	if f.status == 0 {
		attempts = 8
	}
	if f.retries {
		attempts *= 3
	}
	if count > attempts+1 {
		t.Errorf("%d token requests while it failed", count)
	}
}

// check wants failures only while no token can have been alive, and only of the right kind.
func (f fault) check(t *testing.T, outcomes []outcome, began, recovered time.Time, lifetime time.Duration) {
	t.Helper()
	failures := 0
	for _, o := range outcomes {
		if o.status == http.StatusOK {
			continue
		}
		failures++
		switch {
		case f.status == 0, o.began.Before(began), o.began.After(recovered):
			t.Fatalf("a request failed outside the outage: %v", o)
		case o.status != f.status && o.status != http.StatusServiceUnavailable:
			t.Fatalf("%v, want %d", o, f.status)
		}
	}
	if f.status == 0 {
		return
	}
	if failures == 0 {
		t.Error("no request failed although no token was alive")
	}
	// The current token was at most refresh-due when the fault began, so a fifth of its lifetime was left,
	// less the margin of a tenth in which it is not sent.
	for _, o := range outcomes {
		if o.status != http.StatusOK && o.ended.Sub(began) < lifetime/20 {
			t.Fatalf("a request failed %v after the fault began", o.ended.Sub(began))
		}
	}
}

// BenchmarkLatencyAcrossRefreshes reports the distribution of latency, with tokens that are replaced
// every two seconds by a token endpoint that takes half a second, and with one that lasts.
func BenchmarkLatencyAcrossRefreshes(b *testing.B) {
	for name, lifetime := range map[string]time.Duration{"refreshing": 4 * time.Second, "lasting": time.Hour} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, nil)
			w.api.Accept(nil)
			w.tokens.RespondWith(harness.Slow(500*time.Millisecond, w.tokens.Grant(lifetime)))
			w.Run(b, w.inline(options{connection: "refresh_before 2s"}))
			w.wantOK(b)
			latencies := make([]time.Duration, 0, b.N)
			for b.Loop() {
				o := w.try("/")
				if o.status != http.StatusOK {
					b.Fatal(o)
				}
				latencies = append(latencies, o.ended.Sub(o.began))
			}
			reportPercentiles(b, latencies)
			b.ReportMetric(float64(w.tokens.Count()), "token-requests")
		})
	}
}
