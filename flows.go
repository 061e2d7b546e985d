package httphelper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"
)

// flow is a helper flow: it computes a config value from a connection's answers. Guest modules in
// the namespace `http_helper.flows` implement it.
type flow interface {
	// check tells at load whether the flow may run, as far as it is known.
	check(allowInsecure bool) error

	// parameters are the keys of the parameters that it uses.
	parameters() []string

	// run computes the value. The error is a *tokenError whose message begins in the middle of a
	// sentence about the flow, or ctx's.
	run(ctx context.Context, in flowInput) (string, error)
}

// flowInput is what a flow works with: nothing of the connection's own authentication.
type flowInput struct {
	params        map[string]string // the connection's answers, by key
	client        *http.Client      // the token endpoint's: follows no redirects
	allowInsecure bool              // whether the token endpoint may be called in the clear
}

// parameter finds the answer to a parameter.
func (in flowInput) parameter(_, key string) (string, error) {
	value, ok := in.params[key]
	if !ok {
		return "", fmt.Errorf("there is no parameter %s", key)
	}
	if strings.ContainsFunc(value, unicode.IsControl) {
		return "", fmt.Errorf("the parameter %s contains a control character", key)
	}
	return value, nil
}

// anyParameter stands for every answer while there are none yet.
var anyParameter = lookupValues(func(_, _ string) (string, error) { return "x", nil })

// checkFlowResult refuses what cannot be used anywhere.
func checkFlowResult(value string) (string, error) {
	switch {
	case value == "":
		return "", errors.New("the result is empty")
	case strings.ContainsFunc(value, unicode.IsControl):
		return "", errors.New("the result contains a control character")
	}
	return value, nil
}
