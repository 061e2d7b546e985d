package httphelper

import (
	"sync"
	"time"
)

// flowLife is how long the result of a helper flow is used.
const flowLife = 5 * time.Minute

// flowResults remembers results of helper flows, also across reloads, by a digest of the flow and
// the parameters that it was given.
var flowResults = newFlowMemory(time.Now)

// flowMemory remembers results until they are too old. It is safe for concurrent use.
type flowMemory struct {
	mu      sync.Mutex
	now     func() time.Time
	results map[string]flowResult
}

func newFlowMemory(now func() time.Time) *flowMemory {
	return &flowMemory{now: now, results: make(map[string]flowResult)}
}

type flowResult struct {
	value string
	at    time.Time
}

// live tells whether the result may still be used.
func (r flowResult) live(now time.Time) bool { return elapsed(r.at, now) < flowLife }

func (m *flowMemory) get(key string) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	result, ok := m.results[key]
	return result.value, ok && result.live(m.now())
}

func (m *flowMemory) put(key, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for k, result := range m.results {
		if !result.live(now) {
			delete(m.results, k)
		}
	}
	m.results[key] = flowResult{value: value, at: now}
}

func (m *flowMemory) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.results, key)
}
