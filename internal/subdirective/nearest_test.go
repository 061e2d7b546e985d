package subdirective

import "testing"

func TestNearest(t *testing.T) {
	options := []string{"base_url", "client_id", "client_secret", "client_secret_file", "issuer", "scope", "scopes", "token_url", "token_timeout", "ping"}
	for word, want := range map[string]string{
		"token_uri": "token_url", "tokenurl": "token_url", "Token_URL": "token_url", "client-id": "client_id", "clientid": "client_id",
		"client_secert": "client_secret", "cleint_id": "client_id", "scpes": "scopes", "scop": "scope", "pnig": "ping",
		"client_secretfile": "client_secret_file",
		// Too far from each of them.
		"hunter2": "", "x": "", "": "", "password": "", "grant": "", "token": "",
	} {
		if got := Nearest(word, options); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
	if got := Nearest("a", []string{"b", "c"}); got != "" {
		t.Errorf("another letter is %q", got)
	}
}
