package token

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/token/tokentest"
)

const (
	weekSize     = 200              // replicas
	requestEvery = 2 * time.Minute  // at each of them
	tick         = 5 * time.Second  // the step of the simulation
	deployHour   = 10               // on working days each replica restarts once in the minutes after it
	deployTakes  = 10 * time.Minute // and those are so many
	randomAnHour = 5                // restarts
)

// days is how many days of the week are simulated. All seven take half a minute with the race detector.
var days = flag.Int("days", 2, "how many days of its week to simulate a fleet, from Monday on")

// TestWeekOfAFleet simulates a large fleet that is deployed and restarted a lot, with and without sharing. It
// prints how many token requests that takes.
func TestWeekOfAFleet(t *testing.T) {
	table := []string{"| a token lives | sharing | token requests an hour | in the busiest hour | in all |", "| --: | --- | --: | --: | --: |"}
	for _, life := range []time.Duration{time.Hour, 24 * time.Hour} {
		for _, shares := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				calls, hours := simulateWeek(t, life, shares)
				total, busiest := len(calls), busiestHour(calls)
				table = append(table, fmt.Sprintf("| %.0f h | %s | %.2f | %d | %d |",
					life.Hours(), map[bool]string{false: "no", true: "yes"}[shares], float64(total)/hours, busiest, total))
				lives := int(hours / life.Hours())
				if shares && (total > lives*3/2+3 || busiest > 3) {
					t.Errorf("%d token requests in %d lives of %v, %d of them in one hour", total, lives, life, busiest)
				}
				if !shares && (total < lives*weekSize || busiest < weekSize) {
					t.Errorf("only %d token requests in %d lives of %v without sharing, %d of them in one hour", total, lives, life, busiest)
				}
			})
		}
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

// simulateWeek returns when the token requests of a fleet began, and how many hours were simulated.
func simulateWeek(t *testing.T, life time.Duration, shares bool) (calls []time.Time, hours float64) {
	for time.Now().Weekday() != time.Monday {
		time.Sleep(time.Hour)
	}
	w := newWeek(t, life, shares)
	start := time.Now()
	end := start.AddDate(0, 0, *days)
	for time.Now().Before(end) {
		w.tick(t)
		time.Sleep(tick)
	}
	if w.restarts < min(*days, 5)*weekSize+*days*24*randomAnHour {
		t.Errorf("only %d restarts", w.restarts)
	}
	for _, r := range w.replicas {
		r.stop()
	}
	time.Sleep(time.Minute) // what still runs ends
	synctest.Wait()
	return w.endpoint.Calls, end.Sub(start).Hours()
}

// week is a fleet in its week.
type week struct {
	endpoint *tokentest.Fetcher
	storage  *storage
	replicas []*replica
	due      map[time.Time][]int // which replicas restart, by tick
	restarts int
}

func newWeek(t *testing.T, life time.Duration, shares bool) *week {
	w := &week{endpoint: newEndpoint(), storage: newStorage(), due: make(map[time.Time][]int)}
	w.endpoint.Respond, w.endpoint.Takes = grants(life), 200*time.Millisecond
	if !shares {
		w.endpoint.Identity = nil
	}
	for range weekSize {
		w.replicas = append(w.replicas, w.start(t))
	}
	return w
}

func (w *week) start(t *testing.T) *replica {
	return newReplica(t, w.storage, w.endpoint, func(r *replica) {
		r.slot.load, r.slot.store = takes(5*time.Millisecond), takes(5*time.Millisecond)
	})
}

// tick is one step of the week: some replicas restart, and some get their request.
func (w *week) tick(t *testing.T) {
	now := time.Now().Round(0)
	if now.Truncate(time.Hour).Equal(now) {
		w.plan(now)
	}
	for _, i := range w.due[now] {
		w.replicas[i].stop()
		w.replicas[i] = w.start(t)
		w.restarts++
	}
	delete(w.due, now)
	every := int(requestEvery / tick)
	for i := int(now.Unix()/int64(tick.Seconds())) % every; i < len(w.replicas); i += every {
		if r := w.replicas[i]; r.TryToken(t.Context()) == nil {
			go w.await(t, r)
		}
	}
}

// await makes a request that has no token yet.
func (w *week) await(t *testing.T, r *replica) {
	began := time.Now()
	if _, err := r.Token(t.Context()); err != nil {
		t.Errorf("no token: %v", err)
	}
	if waited := time.Since(began); waited > 2*time.Second {
		t.Errorf("waited %v for a token", waited)
	}
}

// plan chooses the restarts of the hour that begins now.
func (w *week) plan(hour time.Time) {
	restart := func(i int, within time.Duration) {
		at := hour.Add(rand.N(within/tick) * tick) //nolint:gosec // nobody gains from guessing it
		w.due[at] = append(w.due[at], i)
	}
	for range randomAnHour {
		restart(rand.N(weekSize), time.Hour) //nolint:gosec // as above
	}
	if day := hour.Weekday(); hour.Hour() == deployHour && day != time.Saturday && day != time.Sunday {
		for i := range w.replicas {
			restart(i, deployTakes)
		}
	}
}

// busiestHour returns the largest number of calls within one hour of the clock.
func busiestHour(calls []time.Time) int {
	hours := make(map[time.Time]int)
	busiest := 0
	for _, at := range calls {
		hour := at.Truncate(time.Hour)
		hours[hour]++
		busiest = max(busiest, hours[hour])
	}
	return busiest
}
