package flows

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// Flow is a helper flow: it computes a config value from a connection's answers. Guest modules in
// the namespace `http_helper.flows` implement it.
type Flow interface {
	// Check tells at load whether the flow may run, as far as it is known.
	Check(allowInsecure bool) error

	// Parameters are the keys of the parameters that it uses.
	Parameters() []string

	// Run computes the value. The error is a *oauth.Error whose message begins in the middle of a
	// sentence about the flow, or ctx's.
	Run(ctx context.Context, in Input) (string, error)
}

// Input is what a flow works with: nothing of the connection's own authentication.
type Input struct {
	Params        map[string]string // the connection's answers, by key
	Client        *http.Client      // the token endpoint's: follows no redirects
	AllowInsecure bool              // whether the token endpoint may be called in the clear
}

// parameter finds the answer to a parameter.
func (in Input) parameter(_, key string) (string, error) {
	value, ok := in.Params[key]
	if !ok {
		return "", fmt.Errorf("there is no parameter %s", key)
	}
	if strings.ContainsFunc(value, unicode.IsControl) {
		return "", fmt.Errorf("the parameter %s contains a control character", key)
	}
	return value, nil
}

// anyParameter stands for every answer while there are none yet.
var anyParameter = placeholder.NewValues(func(_, _ string) (string, error) { return "x", nil })

// checkResult refuses what cannot be used anywhere.
func checkResult(value string) (string, error) {
	switch {
	case value == "":
		return "", errors.New("the result is empty")
	case strings.ContainsFunc(value, unicode.IsControl):
		return "", errors.New("the result contains a control character")
	}
	return value, nil
}
