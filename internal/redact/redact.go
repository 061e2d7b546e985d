// Package redact removes known secrets from texts that people get to see, such as the response of a
// server that quotes its request. It knows the secrets that it is given, and nothing of their use.
package redact

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"strings"
)

const (
	// Mark replaces a secret.
	Mark = "[redacted]"

	// MinLength is the number of bytes from which on a value counts as a secret, and a part of one is
	// worth hiding.
	MinLength = 8

	// pieceLength is the number of consecutive bytes of a longer secret that are removed: fewer do not
	// give it away.
	pieceLength = 16
)

// Redactor removes known secrets from texts. It is safe for concurrent use.
type Redactor struct {
	pieces map[int]map[string]bool // pieces of the secrets, by their length
}

// New returns a Redactor for the secrets, which it also finds in the encodings that a server may use
// when it quotes its request. Empty secrets are ignored.
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

// plainJSON replaces the escapes that encoding/json writes and most other encoders do not.
var plainJSON = strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">")

// formsOf returns a secret in all encodings: as it is, and for URLs, Basic authentication and JSON.
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

// add adds all pieces of a secret; a short secret is one piece.
func (r *Redactor) add(secret string) {
	n := min(len(secret), pieceLength)
	if r.pieces[n] == nil {
		r.pieces[n] = make(map[string]bool)
	}
	for i := 0; i+n <= len(secret); i++ {
		r.pieces[n][secret[i:i+n]] = true
	}
}

// Redact returns text with Mark instead of everything that belongs to a secret. It returns text
// unchanged if there is no such thing.
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
