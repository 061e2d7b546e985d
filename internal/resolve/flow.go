package resolve

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// flow returns the result of a helper flow. A flow that has failed is not run again in the same pass.
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

// runFlow runs a helper flow with the connection's parameters, or returns its last result if that is
// recent.
func (r *resolver) runFlow(f *Flow) (string, error) {
	parameters, err := r.allParameters()
	if err != nil {
		return "", err
	}
	key := r.flowKey(f)
	if value, ok := flows.Results.Get(key); ok {
		return value, nil
	}
	value, err := f.flow.Run(r.ctx, flows.Input{
		Params:        parameters,
		Client:        r.c.Client(nil),
		AllowInsecure: r.spec.InsecureURLs.Token,
	})
	if failed, ok := errors.AsType[*oauth.Error](err); ok {
		named := *failed
		named.Message = "flow " + f.name + ": " + failed.Message
		return "", &named
	}
	if err != nil {
		return "", fmt.Errorf("flow %s: %w", f.name, err)
	}
	flows.Results.Put(key, value)
	return value, nil
}

// flowKey identifies the result of a flow with the connection's parameters.
func (r *resolver) flowKey(f *Flow) string {
	return digestOf(f.digest, r.parameters, r.spec.TokenTransport)
}

// unusable returns the error of a template whose value is not valid where it is used. It adds the flows
// in the template to the error and forgets their results, so that the next pass runs them again.
func (r *resolver) unusable(t placeholder.Template, err error) error {
	_, failed := errors.AsType[*oauth.Error](err)
	if failed || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err // there is no value at all
	}
	for _, f := range r.spec.flowsOf(t) {
		err = fmt.Errorf("%w; see flow %s", err, f.name)
		if _, unknown := r.allParameters(); unknown == nil {
			flows.Results.Forget(r.flowKey(f))
		}
	}
	return err
}
