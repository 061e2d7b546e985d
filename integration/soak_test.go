package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"testing"
	"time"
)

// usage is what a process may leak.
type usage struct {
	goroutines, fds int
	memory          int64
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d file descriptors, %d MiB", u.goroutines, u.fds, u.memory>>20)
}

// resting waits until the sidecar has closed what the load left open, and measures it.
func (w *world) resting(t *testing.T) usage {
	t.Helper()
	w.Client.CloseIdleConnections()
	var u usage
	for range 20 {
		last := u
		u = usage{goroutines: w.Goroutines(t), fds: w.FDs(t)}
		if u == last {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	u.memory, _ = w.ResidentMemory(t)
	return u
}

// soakTime is how long the soak lasts: SOAK, as 5m, or else a time that suits every run.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("SOAK")
	if text == "" {
		return 20 * time.Second
	}
	duration, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("reading SOAK: %v", err)
	}
	return duration
}

// TestSoak has short-lived tokens, random faults, rejections and reloads for a while. Nothing may
// grow, and every response that is not the API's must be one that the faults explain.
func TestSoak(t *testing.T) {
	w := newWorld(t, nil)
	w.reloads = true
	wire := w.cut(t)
	w.tokens.RespondWith(w.tokens.Grant(2 * time.Second))
	const connection = "token_timeout 1s"
	w.Run(t, w.named(generation(options{connection: connection}, 0)))

	reloads := 0
	reload := func() {
		reloads++
		if err := w.Reload(w.named(generation(options{connection: connection}, reloads))); err != nil {
			t.Fatal(err)
		}
	}
	disturb := []func(){
		reload,
		w.tokens.Revoke,
		func() {
			if w.Reload(w.named(options{connection: "scopes nope"})) == nil {
				t.Error("a broken configuration was loaded")
			}
		},
	}
	for _, f := range faults() {
		disturb = append(disturb, func() {
			f.begin(t, wire)
			time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
			f.fix(t, wire)
		})
	}

	// What the first rounds allocate permanently is no growth.
	soak := func(duration time.Duration) {
		l := w.startLoad(t, 8, 5*time.Millisecond)
		for began := time.Now(); time.Since(began) < duration; {
			disturb[rand.IntN(len(disturb))]()
			time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
		}
		counts := map[int]int{}
		for _, o := range l.stop() {
			counts[o.status]++
			switch o.status {
			case http.StatusOK, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			case http.StatusUnauthorized: // the API had just revoked the token, and no newer one could be had
			default:
				t.Fatalf("unexplained: %v", o)
			}
		}
		t.Logf("responses by status: %v", counts)
		eventually(t, "recovery", func() bool { return w.try("/").status == http.StatusOK })
	}
	total := soakTime(t)
	soak(total / 4)
	reload()
	before := w.resting(t)
	soak(total * 3 / 4)
	reload()
	after := w.resting(t)

	t.Logf("%d reloads; before: %v; after: %v", reloads, before, after)
	if after.goroutines > before.goroutines+5 {
		t.Errorf("goroutines grew from %d to %d", before.goroutines, after.goroutines)
	}
	if after.fds > before.fds+5 {
		t.Errorf("file descriptors grew from %d to %d", before.fds, after.fds)
	}
	if after.memory > before.memory*3/2+(32<<20) {
		t.Errorf("memory grew from %d to %d MiB", before.memory>>20, after.memory>>20)
	}
	w.wantOK(t)
}
