package httphelper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// flowLife is how long the result of a helper flow is used.
const flowLife = 5 * time.Minute

// flowResults remembers results of helper flows, also across reloads, by a digest of the flow and
// the answers that it was given.
var flowResults = flowMemory{now: time.Now, results: make(map[string]flowResult)}

type flowMemory struct {
	mu      sync.Mutex
	now     func() time.Time
	results map[string]flowResult
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

// flow is the result of a helper flow. One that has failed is not asked again for another value.
func (r *resolver) flow(f *Flow) (string, error) {
	if failed := r.failedFlows[f]; failed != nil {
		return "", failed
	}
	value, err := r.runFlow(f)
	if err != nil {
		r.failedFlows[f] = err
	}
	return value, err
}

// runFlow runs a helper flow with the connection's answers, unless its last result is young enough.
func (r *resolver) runFlow(f *Flow) (string, error) {
	answers, err := r.allAnswers()
	if err != nil {
		return "", err
	}
	key := r.flowKey(f, answers)
	if value, ok := flowResults.get(key); ok {
		return value, nil
	}
	value, err := f.flow.run(r.ctx, flowInput{
		params:        answers,
		client:        r.c.plainClient(),
		allowInsecure: r.c.service.allowsInsecure("token_url"),
	})
	if failed, ok := errors.AsType[*tokenError](err); ok {
		named := *failed
		named.message = "flow " + f.Name + ": " + failed.message
		return "", &named
	}
	if err != nil {
		return "", fmt.Errorf("flow %s: %w", f.Name, err)
	}
	flowResults.put(key, value)
	return value, nil
}

// flowKey tells results of flows apart.
func (r *resolver) flowKey(f *Flow, answers map[string]string) string {
	return digestOf(f.digest, answers, r.c.service.TokenTransport)
}

// allAnswers are the connection's answers to all parameters, by key.
func (r *resolver) allAnswers() (map[string]string, error) {
	answers := make(map[string]string)
	for _, param := range r.c.connector.Parameters {
		answer, err := r.answer(param.Key)
		if err != nil {
			return nil, err
		}
		answers[param.Key] = answer
	}
	return answers, nil
}

// unusable is the error of a text with a value that cannot stand there. It names the flows that are
// in it. Their results are forgotten, so that the next try asks again.
func (r *resolver) unusable(t text, err error) error {
	_, failed := errors.AsType[*tokenError](err)
	if failed || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err // the value is not there at all
	}
	for _, f := range r.c.flowsOf(t) {
		err = fmt.Errorf("%w; see flow %s", err, f.Name)
		if answers, unknown := r.allAnswers(); unknown == nil {
			flowResults.forget(r.flowKey(f, answers))
		}
	}
	return err
}
