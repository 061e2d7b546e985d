package forward

import "testing"

// TestQueryIsKeptBesideAPIQuery exactly as the app wrote it.
func TestQueryIsKeptBesideAPIQuery(t *testing.T) {
	for raw, want := range map[string]string{
		"":              "k=v",
		"a=1&&b=2&":     "a=1&&b=2&&k=v",
		"k=x&a=%20&K=1": "a=%20&K=1&k=v",
		"%6b=x":         "k=v",
	} {
		if got := withQuery(raw, []Field{{"k", "v"}}); got != want {
			t.Errorf("%q became %q, want %q", raw, got, want)
		}
	}
}
