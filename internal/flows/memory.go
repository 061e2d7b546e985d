package flows

import (
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
)

// ResultLifetime is how long the result of a helper flow is used.
const ResultLifetime = 5 * time.Minute

// Results remembers results of helper flows, also across reloads, by a digest of the flow and
// the parameters that it was given.
var Results = NewFlowMemory(time.Now)

// memory remembers results until they are too old. It is safe for concurrent use.
type memory struct {
	mu      sync.Mutex
	now     func() time.Time
	results map[string]result
}

func NewFlowMemory(now func() time.Time) *memory {
	return &memory{now: now, results: make(map[string]result)}
}

type result struct {
	value string
	at    time.Time
}

// live tells whether the result may still be used.
func (r result) live(now time.Time) bool { return clock.Elapsed(r.at, now) < ResultLifetime }

func (m *memory) Get(key string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	result, ok := m.results[key]
	return result.value, ok && result.live(m.now())
}

func (m *memory) Put(key, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for k, result := range m.results {
		if !result.live(now) {
			delete(m.results, k)
		}
	}
	m.results[key] = result{value: value, at: now}
}

func (m *memory) Forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.results, key)
}
