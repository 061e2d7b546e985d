package httphelper

import (
	"context"
	"errors"
	"fmt"
)

// flow is the result of a helper flow. One that has failed is not run again for another value of the
// same pass.
func (r *resolver) flow(f *flowSpec) (string, error) {
	if failed := r.failedFlows[f]; failed != nil {
		return "", failed
	}
	value, err := r.runFlow(f)
	if err != nil {
		r.failedFlows[f] = err
	}
	return value, err
}

// runFlow runs a helper flow with the connection's parameters, unless its last result is recent.
func (r *resolver) runFlow(f *flowSpec) (string, error) {
	parameters, err := r.allParameters()
	if err != nil {
		return "", err
	}
	key := r.flowKey(f)
	if value, ok := flowResults.get(key); ok {
		return value, nil
	}
	value, err := f.flow.run(r.ctx, flowInput{
		params:        parameters,
		client:        r.c.clients.client(nil),
		allowInsecure: r.spec.insecureURLs.token,
	})
	if failed, ok := errors.AsType[*tokenError](err); ok {
		named := *failed
		named.message = "flow " + f.name + ": " + failed.message
		return "", &named
	}
	if err != nil {
		return "", fmt.Errorf("flow %s: %w", f.name, err)
	}
	flowResults.put(key, value)
	return value, nil
}

// flowKey identifies the result of a flow with the connection's parameters.
func (r *resolver) flowKey(f *flowSpec) string {
	return digestOf(f.digest, r.parameters, r.spec.tokenTransport)
}

// unusable is the error of a template with a value that its place does not allow. It names the flows
// in it, and has their results forgotten, so that the next pass runs them again.
func (r *resolver) unusable(t text, err error) error {
	_, failed := errors.AsType[*tokenError](err)
	if failed || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err // there is no value at all
	}
	for _, f := range r.spec.flowsOf(t) {
		err = fmt.Errorf("%w; see flow %s", err, f.name)
		if _, unknown := r.allParameters(); unknown == nil {
			flowResults.forget(r.flowKey(f))
		}
	}
	return err
}
