package flows

import (
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
)

// ResultLifetime is how long the result of a helper flow is used.
const ResultLifetime = 5 * time.Minute

// Results are the results of all configs, so that they survive reloads. The key is a digest of the flow
// and everything that its result depends on.
var Results = NewMemory(time.Now)

// Memory remembers results of helper flows for ResultLifetime. It is safe for concurrent use.
type Memory struct {
	now func() time.Time

	mu      sync.Mutex
	results map[string]result
}

type result struct {
	value string
	at    time.Time
}

// NewMemory returns an empty memory with a clock.
func NewMemory(now func() time.Time) *Memory {
	return &Memory{now: now, results: make(map[string]result)}
}

// Get returns the result with a key, unless there is none or it is too old.
func (m *Memory) Get(key string) (value string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.results[key]
	return r.value, ok && r.fresh(m.now())
}

// Put remembers a result. It also deletes those that are too old.
func (m *Memory) Put(key, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for k, r := range m.results {
		if !r.fresh(now) {
			delete(m.results, k)
		}
	}
	m.results[key] = result{value: value, at: now}
}

// Forget deletes a result, because it has turned out to be unusable.
func (m *Memory) Forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.results, key)
}

// fresh reports whether the result may still be used.
func (r result) fresh(now time.Time) bool { return clock.Elapsed(r.at, now) < ResultLifetime }
