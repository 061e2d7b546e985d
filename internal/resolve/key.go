package resolve

import (
	"slices"

	"github.com/caddy-httphelper/caddy-httphelper/internal/placeholder"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// Key returns the key of the connection's tokens. Connections with equal keys share their tokens, and a
// connection keeps its token over a reload that does not change the key (rules 13 and 14).
//
// The key depends on the values that stay the same while a config runs. The content of files and the
// results of helper flows may change while a token is in use, so it depends on their origins instead.
func (c *Connection) Key() token.Key {
	s := &c.Spec
	k := &keyBuilder{c: c, values: c.offlineResolver()}
	var required []string
	if s.RequireGrantedScopes {
		required = s.RequiredScopes
	}
	return sumOf(
		s.RequestedScopes, s.RequireGrantedScopes, required,
		k.template(s.TokenURL), k.template(s.Issuer), s.AuthMethod, s.RawBasic, s.SendClientID,
		k.template(s.ClientID), k.valueOrFile(s.ClientSecret, s.SecretFile), k.valueOrFile(s.ClientKey, s.KeyFile),
		k.template(s.KeyID), s.SigningAlg, k.template(s.Audience), s.AssertionLifetime, k.file(s.AssertionFile),
		k.file(s.KeyCertificateFile), s.AssertionTyp, s.ClientAssertionType,
		k.file(s.CertificateFile), k.file(s.CertificateKeyFile), s.DPoP, k.file(s.DPoPKeyFile),
		k.fields(s.Params), k.fields(s.TokenHeaders), k.templates(s.Resources),
		s.RequestFormat, s.ScopeSeparator, s.GrantType, s.TokenTypes, s.TokenPointer, s.ExpiresInPointer, s.TokenTransport,
		k.flowsOfTarget(),
	)
}

// keyBuilder describes the values in a key, or their origins, as data for sumOf.
type keyBuilder struct {
	c      *Connection
	values *resolver
}

// flowsOfTarget describes the helper flows of the target. A token request runs them too and fails with
// them, though it does not carry their results, and one that fails must not fail another connection's
// tokens.
func (k *keyBuilder) flowsOfTarget() any {
	var digests []string
	for _, t := range k.c.Spec.apiTemplates() {
		for _, f := range k.c.Spec.flowsOf(t) {
			digests = append(digests, f.digest)
		}
	}
	if digests == nil {
		return nil
	}
	slices.Sort(digests)
	return []any{slices.Compact(digests), k.parameters()}
}

// template describes the value of a constant template, and the parts of any other.
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

// part describes the origin of a part of a template.
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
		return []any{config.Flow.digest, k.parameters()}
	case placeholder.File:
		return map[string]string{"file": p.Value}
	default:
		return []string{p.Kind, p.Value}
	}
}

// parameters describes all parameters, because a helper flow may use any of them.
func (k *keyBuilder) parameters() map[string]any {
	all := make(map[string]any)
	for key, v := range k.c.Spec.ParameterValues {
		all[key] = k.valueOrFile(&v.Value, v.File)
	}
	return all
}

// valueOrFile describes a value, or a file with the value. The file is described as a {file.*} placeholder
// is, because it means the same.
func (k *keyBuilder) valueOrFile(value, file *placeholder.Template) any {
	if file == nil {
		return k.template(value)
	}
	return []any{k.file(file)}
}

// file describes the file at the path in a template.
func (k *keyBuilder) file(path *placeholder.Template) any {
	if path == nil {
		return nil
	}
	return map[string]any{"file": k.template(path)}
}

func (k *keyBuilder) fields(fields []Field) any {
	all := make(map[string][]any)
	for _, f := range fields {
		all[f.Name] = append(all[f.Name], k.template(&f.Value))
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
