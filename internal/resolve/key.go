package resolve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"

	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// TokenKey identifies the connection's tokens. Two connections with the same key share them, and so do
// a connection before and after a reload (rules 13 and 14).
//
// Values that stay the same while a config runs count as they are; the content of files and the
// results of helper flows may change while a token lives, so for those counts where they come from.
func (c *Connection) TokenKey() token.Key {
	s := c.Spec
	k := &keyBuilder{c: c, values: c.offlineResolver()}
	var required []string
	if s.RequireGrantedScopes {
		required = s.RequiredScopes
	}
	return sumOf(
		s.RequestedScopes, s.RequireGrantedScopes, required,
		k.template(s.TokenURL), k.template(s.Issuer), s.AuthMethod, s.RawBasic,
		k.template(s.ClientID), k.valueOrFile(s.ClientSecret, s.SecretFile), k.valueOrFile(s.ClientKey, s.KeyFile),
		k.template(s.KeyID), s.SigningAlg, k.template(s.Audience), s.AssertionLifetime, k.file(s.AssertionFile),
		k.file(s.CertificateFile), k.file(s.CertificateKeyFile), s.DPoP, k.file(s.DPoPKeyFile),
		k.params(), k.fields(s.TokenHeaders), k.templates(s.Resources),
		s.RequestFormat, s.ScopeSeparator, s.GrantType, s.TokenPointer, s.ExpiresInPointer, s.TokenTransport,
		k.flowsOfTarget(),
	)
}

// keyBuilder describes where values come from.
type keyBuilder struct {
	c      *Connection
	values *resolver
}

// flowsOfTarget are the helper flows without which there is no token request, though it does not
// carry their results. One that fails must not fail another connection's tokens.
func (k *keyBuilder) flowsOfTarget() any {
	var digests []string
	for _, t := range k.c.Spec.apiTemplates() {
		for _, f := range k.c.Spec.flowsOf(t) {
			digests = append(digests, f.Digest)
		}
	}
	if digests == nil {
		return nil
	}
	slices.Sort(digests)
	return []any{slices.Compact(digests), k.parameters()}
}

// template is the value of a constant template; of others what they are made of.
func (k *keyBuilder) template(t *placeholder.Template) any {
	if t == nil {
		return nil
	}
	if k.c.Spec.constant(*t) {
		if value, err := t.ExpandLines(k.values.values); err == nil {
			return value
		}
	}
	parts := make([]any, len(t.Parts))
	for n, part := range t.Parts {
		parts[n] = k.part(part)
	}
	return parts
}

// part describes where a part of a template gets its value from.
func (k *keyBuilder) part(p placeholder.Part) any {
	switch p.Kind {
	case placeholder.Param:
		v := k.c.Spec.ParameterValues[p.Value]
		return k.valueOrFile(&v.Value, v.File)
	case placeholder.Config:
		config := k.c.Spec.configValue(p.Value)
		if config.Flow == nil {
			return k.template(&config.Value)
		}
		return []any{config.Flow.Digest, k.parameters()}
	case placeholder.File:
		return map[string]string{"file": p.Value}
	default:
		return []string{p.Kind, p.Value}
	}
}

// parameters describes all parameters: a helper flow may use any of them.
func (k *keyBuilder) parameters() map[string]any {
	all := make(map[string]any)
	for key, v := range k.c.Spec.ParameterValues {
		all[key] = k.valueOrFile(&v.Value, v.File)
	}
	return all
}

// valueOrFile describes a value, or the content of a file, which is the same as a placeholder for it.
func (k *keyBuilder) valueOrFile(value, file *placeholder.Template) any {
	if file == nil {
		return k.template(value)
	}
	return []any{k.file(file)}
}

// file describes the file whose path a template gives.
func (k *keyBuilder) file(path *placeholder.Template) any {
	if path == nil {
		return nil
	}
	return map[string]any{"file": k.template(path)}
}

func (k *keyBuilder) params() any {
	all := make(map[string]any)
	for _, p := range k.c.Spec.Params {
		all[p.Name] = k.templates(p.Values)
	}
	return all
}

func (k *keyBuilder) fields(fields []Field) any {
	all := make(map[string]any)
	for _, f := range fields {
		all[f.Name] = k.template(&f.Value)
	}
	return all
}

func (k *keyBuilder) templates(templates []placeholder.Template) []any {
	all := make([]any, len(templates))
	for n, t := range templates {
		all[n] = k.template(&t)
	}
	return all
}

// fingerprint is a digest of the credentials and parameter values, and of what else goes into a token
// request, as they are now.
func (r *resolver) fingerprint() string {
	values, err := r.fingerprintValues()
	if err != nil {
		return "unreadable: " + err.Error()
	}
	return digestOf(values...)
}

func (r *resolver) fingerprintValues() ([]any, error) {
	m, err := r.credentials()
	errs := []error{err}
	proofKey, certificateDigest := "", ""
	if r.spec.DPoPKeyFile != nil {
		key, err := r.dpopKey()
		errs = append(errs, err)
		if err == nil {
			proofKey = key.Thumbprint
		}
	}
	_, err = r.allParameters()
	errs = append(errs, err)
	certificate, err := r.certificate()
	errs = append(errs, err)
	if certificate != nil {
		certificateDigest = Digest(bytes.Join(certificate.Certificate, nil))
	}
	return append([]any{m.ClientID, m.Secret, string(m.Key), m.Assertion, proofKey, certificateDigest, r.parameters}, r.otherInputs()...), errors.Join(errs...)
}

// otherInputs are what goes into a token request besides credentials and parameters: an API key in a
// header may be wrong too. Results of helper flows are left out, because they need a request; what
// cannot be read is a value too, until it can.
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
	for _, param := range s.Params {
		add(param.Values...)
	}
	add(valuesOf(s.TokenHeaders)...)
	add(s.Resources...)
	return values
}

// digestOf is a digest of values, which may be secret.
func digestOf(values ...any) string {
	sum := sumOf(values...)
	return hex.EncodeToString(sum[:])
}

func sumOf(values ...any) [sha256.Size]byte {
	encoded, err := json.Marshal(values)
	if err != nil {
		panic(err) // plain data only
	}
	return sha256.Sum256(encoded)
}

func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
