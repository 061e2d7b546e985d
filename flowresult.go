package httphelper

import (
	"fmt"
	"sync"
	"time"
)

// flowLife is how long the result of a helper flow is used.
const flowLife = 5 * time.Minute

// flowResults remembers results of helper flows, also across reloads, by a digest of the flow and
// the answers that it was given.
var flowResults = flowMemory{results: make(map[string]flowResult)}

type flowMemory struct {
	mu      sync.Mutex
	results map[string]flowResult
}

type flowResult struct {
	value string
	until time.Time
}

func (m *flowMemory) get(key string, now time.Time) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	result, ok := m.results[key]
	return result.value, ok && now.Before(result.until)
}

func (m *flowMemory) put(key, value string, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, result := range m.results {
		if !now.Before(result.until) {
			delete(m.results, k)
		}
	}
	m.results[key] = flowResult{value: value, until: now.Add(flowLife)}
}

// flow runs a helper flow with the connection's answers, unless its last result is young enough.
func (r *resolver) flow(f *Flow) (string, error) {
	answers := make(map[string]string)
	for _, param := range r.c.connector.Parameters {
		answer, err := r.answer(param.Key)
		if err != nil {
			return "", err
		}
		answers[param.Key] = answer
	}
	key := digestOf(f.digest, answers, r.c.service.TokenTransport)
	if value, ok := flowResults.get(key, time.Now()); ok {
		return value, nil
	}
	value, err := f.flow.run(r.ctx, flowInput{
		params:        answers,
		client:        r.c.plainClient(),
		allowInsecure: r.c.service.allowsInsecure("token_url"),
	})
	if err != nil {
		return "", fmt.Errorf("flow %s: %w", f.Name, err)
	}
	flowResults.put(key, value, time.Now())
	return value, nil
}
