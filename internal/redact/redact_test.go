package redact

import (
	"encoding/base64"
	"net/url"
	"testing"
)

const secret = `p&ss w/rd<"0123456789`

func TestRedact(t *testing.T) {
	redactor := New([]string{secret, "", "short"})
	for name, test := range map[string]struct{ text, want string }{
		"nothing":            {"", ""},
		"no secret":          {"hello", "hello"},
		"as it is":           {"a " + secret + " b", "a " + Mark + " b"},
		"twice":              {secret + "," + secret, Mark + "," + Mark},
		"side by side":       {secret + secret, Mark},
		"in a query":         {"k=" + url.QueryEscape(secret) + "&x", "k=" + Mark + "&x"},
		"in a path":          {"/" + url.PathEscape(secret) + "?", "/" + Mark + "?"},
		"in base64":          {"Basic " + base64.StdEncoding.EncodeToString([]byte(secret)), "Basic " + Mark},
		"in JSON":            {`{"k":"p\u0026ss w/rd\u003c\"0123456789"}`, `{"k":"` + Mark + `"}`},
		"in plain JSON":      {`{"k":"p&ss w/rd<\"0123456789"}`, `{"k":"` + Mark + `"}`},
		"in JSON, slashes":   {`{"k":"p&ss w\/rd<\"0123456789"}`, `{"k":"` + Mark + `"}`},
		"a long piece":       {"x" + secret[3:3+pieceLength] + "y", "x" + Mark + "y"},
		"a piece too short":  {"x" + secret[3:2+pieceLength] + "y", "x" + secret[3:2+pieceLength] + "y"},
		"a short one":        {"a short one", "a " + Mark + " one"},
		"part of a short":    {"a shor tone", "a shor tone"},
		"beside other bytes": {"\xff" + secret + "ö", "\xff" + Mark + "ö"},
	} {
		if got := redactor.Redact(test.text); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestNoSecrets(t *testing.T) {
	if got := New(nil).Redact("all of it"); got != "all of it" {
		t.Errorf("%q", got)
	}
}
