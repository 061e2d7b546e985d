package oauth

import (
	"net/http"
	"strings"
)

// Challenge is one challenge of a WWW-Authenticate field (RFC 9110 §11.6.1).
type Challenge struct {
	Scheme string            // in lower case
	Params map[string]string // names in lower case
}

// InsufficientScope reports whether a 401 response with this header rejects the scopes of the token and
// not the token itself (RFC 6750 §3.1), so that another token is of no use.
func InsufficientScope(header http.Header) bool {
	for _, c := range ParseChallenges(header.Values("WWW-Authenticate")) {
		if (c.Scheme == "bearer" || c.Scheme == "dpop") && c.Params["error"] == "insufficient_scope" {
			return true
		}
	}
	return false
}

// NeedsNonce reports whether a response rejects the DPoP proof because it lacks the server's nonce (RFC
// 9449 §9), and not the token that was sent with it.
func NeedsNonce(res *http.Response, token *Token) bool {
	if res.StatusCode != http.StatusUnauthorized || token == nil || token.DPoP == nil {
		return false
	}
	for _, c := range ParseChallenges(res.Header.Values("WWW-Authenticate")) {
		if c.Scheme == "dpop" && c.Params["error"] == useDPoPNonce {
			return true
		}
	}
	return false
}

// ParseChallenges returns the challenges in the field's values. It skips what is malformed.
func ParseChallenges(values []string) []Challenge {
	var all []Challenge
	for _, value := range values {
		p := challengeParser{rest: value}
		all = append(all, p.challenges()...)
	}
	return all
}

type challengeParser struct{ rest string }

func (p *challengeParser) challenges() []Challenge {
	var all []Challenge
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
		all = append(all, Challenge{Scheme: strings.ToLower(word), Params: make(map[string]string)})
	}
}

// value returns the value of a parameter, a token or quoted string after an equals sign. It reports
// false without one: then the word before is a scheme.
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
