package integration

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// outcome is what became of one request.
type outcome struct {
	began, ended time.Time
	status       int // 0 when there was no response
	err          error
}

func (o outcome) String() string {
	return fmt.Sprintf("status %d after %v: %v", o.status, o.ended.Sub(o.began).Round(time.Millisecond), o.err)
}

// load is a steady stream of requests.
type load struct {
	cancel   context.CancelFunc
	workers  sync.WaitGroup
	mu       sync.Mutex
	outcomes []outcome
}

// startLoad has workers send requests, each one every so often, until the load is stopped.
func (w *world) startLoad(t testing.TB, workers int, every time.Duration) *load {
	t.Helper()
	return w.startLoadOf(t, "/load", workers, every)
}

// startLoadOf is startLoad with requests for a path.
func (w *world) startLoadOf(t testing.TB, path string, workers int, every time.Duration) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	t.Cleanup(func() { l.stop() })
	for range workers {
		l.workers.Go(func() {
			ticker := time.NewTicker(every)
			defer ticker.Stop()
			for ctx.Err() == nil {
				l.add(w.try(path))
				select {
				case <-ticker.C:
				case <-ctx.Done():
				}
			}
		})
	}
	return l
}

// try makes one request; a failure is an outcome, not the end of the test.
func (w *world) try(path string) outcome {
	o := outcome{began: time.Now()}
	for attempt := 0; ; attempt++ {
		req, err := http.NewRequest(http.MethodGet, w.URL+path, nil)
		if err != nil {
			o.err = err
			return o
		}
		response, err := w.Do(req)
		o.ended, o.err = time.Now(), err
		if err == nil {
			o.status = response.StatusCode
		}
		if err == nil || !w.reloads || attempt == 3 {
			return o
		}
	}
}

func (l *load) add(o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outcomes = append(l.outcomes, o)
}

// stop ends the load and returns what became of its requests.
func (l *load) stop() []outcome {
	l.cancel()
	l.workers.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.outcomes
}

// wantAllOK checks that every request got the API's response.
func wantAllOK(t testing.TB, outcomes []outcome) {
	t.Helper()
	failed := 0
	for _, o := range outcomes {
		if o.status != http.StatusOK {
			if failed++; failed <= 5 {
				t.Errorf("a request failed: %v", o)
			}
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d requests failed", failed, len(outcomes))
	}
	if len(outcomes) == 0 {
		t.Error("there was no load")
	}
}

// eventually checks a condition until it is met.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	if !soon(holds) {
		t.Fatalf("never: %s", what)
	}
}

// soon checks a condition until it is met or harness.Timeout is over. Any goroutine may call it.
func soon(holds func() bool) bool {
	deadline := time.Now().Add(harness.Timeout)
	for !holds() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

// reportPercentiles adds the distribution of latency to a benchmark's result.
func reportPercentiles(b *testing.B, latencies []time.Duration) {
	b.Helper()
	slices.Sort(latencies)
	for name, share := range map[string]float64{"p50-µs": .5, "p99-µs": .99, "p99.9-µs": .999, "max-µs": 1} {
		at := min(int(share*float64(len(latencies))), len(latencies)-1)
		b.ReportMetric(float64(latencies[at].Microseconds()), name)
	}
}
