package oauth

import (
	"net/http"
	"testing"
)

func TestInsufficientScope(t *testing.T) {
	for value, want := range map[string]bool{
		`Bearer error="insufficient_scope"`:                              true,
		`bearer realm="a, b", error=insufficient_scope, scope="x"`:       true,
		`Basic realm="x", Bearer realm="y", error="insufficient_scope"`:  true,
		`Bearer realm="say \"error=\\insufficient_scope\""`:              false,
		`Bearer error="invalid_token"`:                                   false,
		`Basic realm="x", error="insufficient_scope"`:                    false,
		`Bearer error="invalid_token", Basic error="insufficient_scope"`: false,
		`Negotiate abc==, Bearer error = "insufficient_scope"`:           true,
		`DPoP error="insufficient_scope"`:                                true,
		`Bearer realm="unterminated, error="insufficient_scope`:          false,
		``:                                      false,
		`Bearer`:                                false,
		`Bearer scope="insufficient_scope"`:     false,
		`Bearer error="insufficient_scope_not"`: false,
		`Bearer error_description="error=insufficient_scope", realm="r"`: false,
		`,,, Bearer ,, error="insufficient_scope"`:                       true,
	} {
		header := http.Header{"Www-Authenticate": {value}}
		if got := InsufficientScope(header); got != want {
			t.Errorf("%s: got %v, want %v", value, got, want)
		}
	}
}

func FuzzChallenges(f *testing.F) {
	f.Add(`Bearer realm="a", error="insufficient_scope", Basic x==`)
	f.Add(`"\`)
	f.Fuzz(func(t *testing.T, value string) {
		for _, c := range ParseChallenges([]string{value}) {
			if c.Scheme == "" {
				t.Errorf("a challenge without a scheme from %q", value)
			}
		}
	})
}
