package resolve

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
)

// fingerprint returns a digest of the credentials, the parameters and the other values of a token
// request.
func (r *resolver) fingerprint() string {
	values, err := r.fingerprintValues()
	if err != nil {
		return "unreadable: " + err.Error()
	}
	return digestOf(values...)
}

// fingerprintValues returns the values in the fingerprint. A DPoP key that was made at start is none of
// them: it cannot be wrong.
func (r *resolver) fingerprintValues() ([]any, error) {
	creds, err := r.credentials()
	var shown oauth.Request
	keysErr := r.keys(&shown)
	_, parameterErr := r.allParameters()
	values := []any{creds.ClientID, creds.Secret, string(creds.Key), creds.CertificateThumbprint, creds.Assertion, r.parameters}
	if r.spec.DPoPKeyFile != nil && shown.DPoP != nil {
		values = append(values, "dpop", shown.DPoP.Thumbprint)
	}
	if shown.Certificate != nil {
		values = append(values, "certificate", shown.Certificate.Certificate)
	}
	return append(values, r.otherInputs()...), errors.Join(err, keysErr, parameterErr)
}

// otherInputs returns the values of a token request besides credentials and parameters: an API key in a
// header may be wrong too. It leaves out the results of helper flows, which may need a request. That a
// value cannot be read is an input too.
func (r *resolver) otherInputs() []any {
	s := r.spec
	var values []any
	add := func(templates ...placeholder.Template) {
		for _, t := range templates {
			if !s.dependsOnFlow(t) {
				value, err := t.Expand(r.values)
				values = append(values, value, err != nil)
			}
		}
	}
	for _, optional := range []*placeholder.Template{s.TokenURL, s.Issuer, s.KeyID, s.Audience} {
		if optional != nil {
			add(*optional)
		}
	}
	add(valuesOf(s.Params)...)
	add(valuesOf(s.TokenHeaders)...)
	add(s.Resources...)
	return values
}

// digestOf returns a digest of values, which may be secret.
func digestOf(values ...any) string { return fmt.Sprintf("%x", sumOf(values...)) }

// sumOf returns the SHA-256 of values in JSON.
func sumOf(values ...any) [sha256.Size]byte {
	encoded, err := json.Marshal(values)
	if err != nil {
		panic(err) // plain data only
	}
	return sha256.Sum256(encoded)
}
