package redact

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
)

const (
	// Mark stands where a secret stood.
	Mark = "[redacted]"

	// MinLength is how many bytes a value must have to be taken for a secret, and a part of one to be
	// worth hiding.
	MinLength = 8

	// pieceLength is how much of a long secret gives it away: so much of it in a row is taken out.
	pieceLength = 16
)

// Redactor takes known secrets out of a text.
type Redactor struct {
	pieces map[int]map[string]bool // by length
}

// New knows the secrets also in the forms in which a server that quotes its request may
// write them.
func New(secrets []string) *Redactor {
	r := &Redactor{pieces: make(map[int]map[string]bool)}
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
	quoted, _ := json.Marshal(secret) // a string always has a JSON form
	escaped := string(quoted[1 : len(quoted)-1])
	plain := plainJSON.Replace(escaped)
	return []string{
		secret, url.QueryEscape(secret), url.PathEscape(secret),
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.URLEncoding.EncodeToString([]byte(secret)),
		escaped, strings.ReplaceAll(escaped, "/", `\/`), plain, strings.ReplaceAll(plain, "/", `\/`),
	}
}

func (r *Redactor) add(secret string) {
	n := min(len(secret), pieceLength)
	if r.pieces[n] == nil {
		r.pieces[n] = make(map[string]bool)
	}
	for i := 0; i+n <= len(secret); i++ {
		r.pieces[n][secret[i:i+n]] = true
	}
}

// Redact replaces all that belongs to a secret.
func (r *Redactor) Redact(text string) string {
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
			b.WriteString(Mark)
		}
	}
	return b.String()
}
