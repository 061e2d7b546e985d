package oauth

import (
	"net/http"
	"strings"
)

// challenge is one challenge of a WWW-Authenticate field (RFC 9110 §11.6.1).
type challenge struct {
	scheme string            // lower case
	Params map[string]string // names in lower case
}

// InsufficientScope tells whether a 401 rejects the request's scope and not its token (RFC 6750
// §3.1): another token would not help.
func InsufficientScope(header http.Header) bool {
	for _, c := range ParseChallenges(header.Values("WWW-Authenticate")) {
		if (c.scheme == "bearer" || c.scheme == "dpop") && c.Params["error"] == "insufficient_scope" {
			return true
		}
	}
	return false
}

// NeedsNonce tells whether a 401 is about the nonce in the proof that the token came with (RFC 9449
// §9), and not about the token.
func NeedsNonce(res *http.Response, token *Token) bool {
	if res.StatusCode != http.StatusUnauthorized || token == nil || token.DPoP == nil {
		return false
	}
	for _, c := range ParseChallenges(res.Header.Values("WWW-Authenticate")) {
		if c.scheme == "dpop" && c.Params["error"] == useDPoPNonce {
			return true
		}
	}
	return false
}

// ParseChallenges reads what it can of the field's values; what is malformed is passed over.
func ParseChallenges(values []string) []challenge {
	var all []challenge
	for _, value := range values {
		p := challengeParser{rest: value}
		all = append(all, p.challenges()...)
	}
	return all
}

type challengeParser struct{ rest string }

func (p *challengeParser) challenges() []challenge {
	var all []challenge
	for {
		p.skip(" \t,")
		word := p.token()
		if word == "" {
			if p.rest == "" {
				return all
			}
			p.rest = p.rest[1:]
			continue
		}
		if value, ok := p.value(); ok {
			if len(all) > 0 {
				all[len(all)-1].Params[strings.ToLower(word)] = value
			}
			continue
		}
		all = append(all, challenge{scheme: strings.ToLower(word), Params: make(map[string]string)})
	}
}

// value reads `=` and a token or quoted string. A token68, which ends in `=`, is none.
func (p *challengeParser) value() (string, bool) {
	rest := strings.TrimLeft(p.rest, " \t")
	if !strings.HasPrefix(rest, "=") {
		return "", false
	}
	p.rest = strings.TrimLeft(rest[1:], " \t")
	if strings.HasPrefix(p.rest, `"`) {
		return p.quoted(), true
	}
	return p.token(), true
}

func (p *challengeParser) quoted() string {
	var text strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; {
		case c == '"':
			p.rest = p.rest[i+1:]
			return text.String()
		case c == '\\' && i+1 < len(p.rest):
			i++
			text.WriteByte(p.rest[i])
		default:
			text.WriteByte(c)
		}
	}
	p.rest = ""
	return text.String()
}

func (p *challengeParser) token() string {
	end := strings.IndexAny(p.rest, " \t,=\"")
	if end < 0 {
		end = len(p.rest)
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word
}

func (p *challengeParser) skip(chars string) { p.rest = strings.TrimLeft(p.rest, chars) }
