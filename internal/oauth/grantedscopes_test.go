package oauth

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestVeryManyScopesAreReadQuickly(t *testing.T) {
	var text strings.Builder
	for i := 0; text.Len() < MaxResponseBytes-100; i++ {
		fmt.Fprintf(&text, "%x ", i)
	}
	r := &Request{Secrets: []string{strings.Repeat("secret", 300)}}
	started := time.Now()
	parsed := response{root: map[string]any{"scope": text.String()}}
	if got := len(r.grantedScopes(parsed)); got < 150_000 {
		t.Errorf("%d scopes", got)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}
