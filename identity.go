package httphelper

import (
	"context"
	"slices"
)

// identity is that of the connection's tokens. Two connections with the same one share them, and so do
// a connection before and after a reload (rules 13 and 14).
//
// Values that stay the same while a config runs count as they are; what files and helper flows yield
// may change while a token lives, so for those counts where it comes from.
func (c *activeConnection) identity() identity {
	s, t, conn := c.service, c.texts, c.config
	i := &identifier{c: c, values: c.resolver(context.Background())}
	var required []string
	if s.RequireGrantedScopes {
		required = c.required
	}
	return sumOf(
		c.requested, s.RequireGrantedScopes, required,
		i.text(t.tokenURL), i.text(t.issuer), s.authMethod(), orDefault(s.BasicEncoding, encodingForm),
		i.text(t.clientID), i.either(t.clientSecret, t.secretFile), i.either(t.clientKey, t.keyFile),
		i.text(t.keyID), conn.SigningAlg, i.text(t.audience), conn.AssertionLifetime, i.file(t.assertionFile),
		i.file(t.certificateFile), i.file(t.certificateKey), conn.DPoP != nil, i.file(t.dpop),
		i.params(), i.fields(t.tokenHeaders), i.texts(t.resources),
		orDefault(s.TokenRequestFormat, formatForm), orDefault(s.TokenRequestScopeSeparator, " "),
		orDefault(s.GrantType, defaultGrantType), orDefault(s.TokenPointer, "/access_token"),
		orDefault(s.ExpiresInPointer, "/expires_in"), s.TokenTransport, i.flowsOfTarget(),
	)
}

// flowsOfTarget are the helper flows without which there is no token request, though it does not
// carry their results. One that fails must not fail another connection's tokens.
func (i *identifier) flowsOfTarget() any {
	var digests []string
	for _, t := range i.c.textsOfTarget() {
		for _, f := range i.c.flowsOf(t) {
			digests = append(digests, f.digest)
		}
	}
	if digests == nil {
		return nil
	}
	slices.Sort(digests)
	return []any{slices.Compact(digests), i.answers()}
}

// identifier tells apart what texts stand for.
type identifier struct {
	c      *activeConnection
	values *resolver
}

// text is the value of a constant text; otherwise what it is made of.
func (i *identifier) text(t *text) any {
	if t == nil {
		return nil
	}
	if i.c.constant(*t) {
		if value, err := t.expandLines(i.values.lookup); err == nil {
			return value
		}
	}
	parts := make([]any, len(t.parts))
	for n, part := range t.parts {
		parts[n] = i.part(part)
	}
	return parts
}

// part is where a part of a text gets its value from.
func (i *identifier) part(p textPart) any {
	switch p.kind {
	case kindParam:
		answer := i.c.texts.answers[p.value]
		return i.either(&answer.value, answer.file)
	case kindConfig:
		config, _ := i.c.connector.configValue(p.value)
		if config.Flow == "" {
			value := i.c.texts.values[p.value]
			return i.text(&value)
		}
		return []any{i.c.connector.flow(config.Flow).digest, i.answers()}
	case kindFile:
		return map[string]string{"file": p.value}
	default:
		return []string{p.kind, p.value}
	}
}

// answers are those to all parameters: a helper flow may use any of them.
func (i *identifier) answers() map[string]any {
	all := make(map[string]any)
	for key, answer := range i.c.texts.answers {
		all[key] = i.either(&answer.value, answer.file)
	}
	return all
}

// either is a value, or the content of a file, which is the same as a placeholder for it.
func (i *identifier) either(value, file *text) any {
	if file == nil {
		return i.text(value)
	}
	return []any{i.file(file)}
}

// file is the file whose path a text holds.
func (i *identifier) file(path *text) any {
	if path == nil {
		return nil
	}
	return map[string]any{"file": i.text(path)}
}

func (i *identifier) params() any {
	all := make(map[string]any)
	for _, p := range i.c.texts.params {
		all[p.name] = i.texts(p.values)
	}
	return all
}

func (i *identifier) fields(fields []fieldText) any {
	all := make(map[string]any)
	for _, f := range fields {
		all[f.name] = i.text(&f.value)
	}
	return all
}

func (i *identifier) texts(texts []text) []any {
	all := make([]any, len(texts))
	for n, t := range texts {
		all[n] = i.text(&t)
	}
	return all
}
