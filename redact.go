package httphelper

import (
	"encoding/base64"
	"net/url"
	"strings"
)

const (
	// redacted stands where a secret stood.
	redacted = "[redacted]"

	// minSentKey is how long a value in a header or query must be to be taken for a secret.
	minSentKey = 8

	// maxPiece is how much of a long secret gives it away: so much of it in a row is taken out.
	maxPiece = 16
)

// secrets are the connection's credentials, password parameters and password config values, as far
// as they can be read without asking anybody.
func (c *activeConnection) secrets() []string {
	r := c.resolver(canceled)
	_, _ = r.material()
	if c.connector == nil {
		return r.secrets
	}
	for _, p := range c.connector.Parameters {
		_, _ = r.answer(p.Key)
	}
	for _, v := range c.connector.ConfigValues {
		_, _ = r.configValue(v.Key)
	}
	return r.secrets
}

// knownSecrets are all that must not be seen in what a server says: the connection's secrets, its
// token, and what may be a key in a header or query.
func (c *activeConnection) knownSecrets() []string {
	secrets := c.secrets()
	for _, value := range c.resolver(canceled).keysSent() {
		if len(value) >= minSentKey {
			secrets = append(secrets, value)
		}
	}
	if token := c.source.peek(); token != nil {
		secrets = append(secrets, token.value)
	}
	return secrets
}

// keysSent are the values that requests carry in places where API keys stand.
func (r *resolver) keysSent() []string {
	var values []string
	t := r.c.texts
	for _, texts := range [][]fieldText{t.tokenHeaders, t.apiHeaders, t.apiQuery} {
		for _, field := range texts {
			if value, err := field.value.expand(r.lookup); err == nil {
				values = append(values, value)
			}
		}
	}
	if u, err := r.url("token_url", t.tokenURL); err == nil && u != nil {
		for _, query := range u.Query() {
			values = append(values, query...)
		}
	}
	return values
}

// redactor takes known secrets out of a text.
type redactor struct {
	pieces map[int]map[string]bool // by length
}

// newRedactor knows the secrets also in the forms in which a server that quotes its request may
// write them.
func newRedactor(secrets []string) *redactor {
	r := &redactor{pieces: make(map[int]map[string]bool)}
	for _, secret := range secrets {
		if secret == "" {
			continue
		}
		for _, form := range formsOf(secret) {
			r.add(form)
		}
	}
	return r
}

// plainJSON undoes what only some servers escape.
var plainJSON = strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">")

func formsOf(secret string) []string {
	escaped := escapeJSON(secret)
	plain := plainJSON.Replace(escaped)
	return []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret),
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.URLEncoding.EncodeToString([]byte(secret)),
		escaped, strings.ReplaceAll(escaped, "/", `\/`), plain, strings.ReplaceAll(plain, "/", `\/`),
	}
}

func (r *redactor) add(secret string) {
	n := min(len(secret), maxPiece)
	if r.pieces[n] == nil {
		r.pieces[n] = make(map[string]bool)
	}
	for i := 0; i+n <= len(secret); i++ {
		r.pieces[n][secret[i:i+n]] = true
	}
}

// redact replaces all that belongs to a secret.
func (r *redactor) redact(text string) string {
	secret := make([]bool, len(text))
	for n, pieces := range r.pieces {
		for i := 0; i+n <= len(text); i++ {
			if pieces[text[i:i+n]] {
				for j := i; j < i+n; j++ {
					secret[j] = true
				}
			}
		}
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !secret[i]:
			b.WriteByte(text[i])
		case i == 0 || !secret[i-1]:
			b.WriteString(redacted)
		}
	}
	return b.String()
}
