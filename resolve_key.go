package httphelper

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
)

// tokenKey identifies the connection's tokens. Two connections with the same key share them, and so do
// a connection before and after a reload (rules 13 and 14).
//
// Values that stay the same while a config runs count as they are; the content of files and the
// results of helper flows may change while a token lives, so for those counts where they come from.
func (c *resolvedConnection) tokenKey() tokenKey {
	s := c.spec
	k := &keyBuilder{c: c, values: c.offlineResolver()}
	var required []string
	if s.requireGrantedScopes {
		required = s.requiredScopes
	}
	return sumOf(
		s.requestedScopes, s.requireGrantedScopes, required,
		k.template(s.tokenURL), k.template(s.issuer), s.authMethod, s.rawBasic,
		k.template(s.clientID), k.valueOrFile(s.clientSecret, s.secretFile), k.valueOrFile(s.clientKey, s.keyFile),
		k.template(s.keyID), s.signingAlg, k.template(s.audience), s.assertionLifetime, k.file(s.assertionFile),
		k.file(s.certificateFile), k.file(s.certificateKeyFile), s.dpop, k.file(s.dpopKeyFile),
		k.params(), k.fields(s.tokenHeaders), k.templates(s.resources),
		s.requestFormat, s.scopeSeparator, s.grantType, s.tokenPointer, s.expiresInPointer, s.tokenTransport,
		k.flowsOfTarget(),
	)
}

// keyBuilder describes where values come from.
type keyBuilder struct {
	c      *resolvedConnection
	values *resolver
}

// flowsOfTarget are the helper flows without which there is no token request, though it does not
// carry their results. One that fails must not fail another connection's tokens.
func (k *keyBuilder) flowsOfTarget() any {
	var digests []string
	for _, t := range k.c.spec.apiTemplates() {
		for _, f := range k.c.spec.flowsOf(t) {
			digests = append(digests, f.digest)
		}
	}
	if digests == nil {
		return nil
	}
	slices.Sort(digests)
	return []any{slices.Compact(digests), k.parameters()}
}

// template is the value of a constant template; of others what they are made of.
func (k *keyBuilder) template(t *text) any {
	if t == nil {
		return nil
	}
	if k.c.spec.constant(*t) {
		if value, err := t.expandLines(k.values.values); err == nil {
			return value
		}
	}
	parts := make([]any, len(t.parts))
	for n, part := range t.parts {
		parts[n] = k.part(part)
	}
	return parts
}

// part describes where a part of a template gets its value from.
func (k *keyBuilder) part(p textPart) any {
	switch p.kind {
	case kindParam:
		v := k.c.spec.parameterValues[p.value]
		return k.valueOrFile(&v.value, v.file)
	case kindConfig:
		config := k.c.spec.configValue(p.value)
		if config.flow == nil {
			return k.template(&config.value)
		}
		return []any{config.flow.digest, k.parameters()}
	case kindFile:
		return map[string]string{"file": p.value}
	default:
		return []string{p.kind, p.value}
	}
}

// parameters describes all parameters: a helper flow may use any of them.
func (k *keyBuilder) parameters() map[string]any {
	all := make(map[string]any)
	for key, v := range k.c.spec.parameterValues {
		all[key] = k.valueOrFile(&v.value, v.file)
	}
	return all
}

// valueOrFile describes a value, or the content of a file, which is the same as a placeholder for it.
func (k *keyBuilder) valueOrFile(value, file *text) any {
	if file == nil {
		return k.template(value)
	}
	return []any{k.file(file)}
}

// file describes the file whose path a template gives.
func (k *keyBuilder) file(path *text) any {
	if path == nil {
		return nil
	}
	return map[string]any{"file": k.template(path)}
}

func (k *keyBuilder) params() any {
	all := make(map[string]any)
	for _, p := range k.c.spec.params {
		all[p.name] = k.templates(p.values)
	}
	return all
}

func (k *keyBuilder) fields(fields []fieldSpec) any {
	all := make(map[string]any)
	for _, f := range fields {
		all[f.name] = k.template(&f.value)
	}
	return all
}

func (k *keyBuilder) templates(templates []text) []any {
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
	if r.spec.dpopKeyFile != nil {
		key, err := r.dpopKey()
		errs = append(errs, err)
		if err == nil {
			proofKey = key.thumbprint
		}
	}
	_, err = r.allParameters()
	errs = append(errs, err)
	certificate, err := r.certificate()
	errs = append(errs, err)
	if certificate != nil {
		certificateDigest = digest(bytes.Join(certificate.Certificate, nil))
	}
	return append([]any{m.clientID, m.secret, string(m.key), m.assertion, proofKey, certificateDigest, r.parameters}, r.otherInputs()...), errors.Join(errs...)
}

// otherInputs are what goes into a token request besides credentials and parameters: an API key in a
// header may be wrong too. Results of helper flows are left out, because they need a request; what
// cannot be read is a value too, until it can.
func (r *resolver) otherInputs() []any {
	s := r.spec
	var values []any
	add := func(templates ...text) {
		for _, t := range templates {
			if !s.dependsOnFlow(t) {
				value, err := t.expand(r.values)
				values = append(values, value, err != nil)
			}
		}
	}
	for _, optional := range []*text{s.tokenURL, s.issuer, s.keyID, s.audience} {
		if optional != nil {
			add(*optional)
		}
	}
	for _, param := range s.params {
		add(param.values...)
	}
	add(valuesOf(s.tokenHeaders)...)
	add(s.resources...)
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

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
