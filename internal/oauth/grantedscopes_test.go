package oauth

import (
	"fmt"
	"strings"
	"testing"
)

// veryManyScopes returns a request, and the largest response that lists scopes.
func veryManyScopes() (*Request, response) {
	var text strings.Builder
	for i := 0; text.Len() < MaxResponseBytes-100; i++ {
		fmt.Fprintf(&text, "%x ", i)
	}
	return &Request{Secrets: []string{strings.Repeat("secret", 300)}}, response{root: map[string]any{"scope": text.String()}}
}

func TestVeryManyScopesAreRead(t *testing.T) {
	r, parsed := veryManyScopes()
	if got := len(r.grantedScopes(parsed)); got < 150_000 {
		t.Errorf("%d scopes", got)
	}
}

func BenchmarkVeryManyScopes(b *testing.B) {
	r, parsed := veryManyScopes()
	for b.Loop() {
		r.grantedScopes(parsed)
	}
}
