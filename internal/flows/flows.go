// Package flows has the helper flows: guest modules that compute a config value from a connection's
// parameters, such as the shard of a tenant. A flow never sees the connection's credentials or token.
// When flows run is decided elsewhere; this package remembers their results.
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

// Flow is a helper flow. Guest modules in the namespace `http_helper.flows` implement it.
type Flow interface {
	// Check reports at load why the flow must not run, as far as that is known then.
	Check(allowInsecure bool) error

	// Parameters returns the keys of the parameters that the flow uses.
	Parameters() []string

	// Run computes the value. The error is ctx's or an *oauth.Error, whose message continues a
	// sentence that begins with the flow's name.
	Run(ctx context.Context, in Input) (string, error)
}

// Input is what a flow works with.
type Input struct {
	Params        map[string]string // the connection's parameter values, by key
	Client        *http.Client      // the one for the token endpoint; follows no redirects
	AllowInsecure bool              // whether a flow may call http URLs of other hosts than loopback
}

// lookup is a placeholder lookup of parameter values.
func (in Input) lookup(_, key string) (string, error) {
	value, ok := in.Params[key]
	if !ok {
		return "", fmt.Errorf("there is no parameter %s", key)
	}
	if strings.ContainsFunc(value, unicode.IsControl) {
		return "", fmt.Errorf("the parameter %s contains a control character", key)
	}
	return value, nil
}

// anyParameter has a value for every parameter, for checks before the values are known.
var anyParameter = &placeholder.Values{Lookup: func(_, _ string) (string, error) { return "x", nil }}

// checkResult refuses a result that is of no use anywhere.
func checkResult(value string) (string, error) {
	switch {
	case value == "":
		return "", errors.New("the result is empty")
	case strings.ContainsFunc(value, unicode.IsControl):
		return "", errors.New("the result contains a control character")
	}
	return value, nil
}
