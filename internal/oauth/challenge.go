package oauth

import (
	"net/http"
	"regexp"
	"slices"
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
	return hasChallenge(header, "insufficient_scope", "bearer", "dpop")
}

// NeedsNonce reports whether a response rejects the DPoP proof because it lacks the server's nonce (RFC
// 9449 §9), and not the token that was sent with it.
func NeedsNonce(res *http.Response, token *Token) bool {
	return res.StatusCode == http.StatusUnauthorized && token != nil && token.DPoP != nil && hasChallenge(res.Header, useDPoPNonce, "dpop")
}

// hasChallenge reports whether a header has a challenge with an error code and one of the schemes.
func hasChallenge(header http.Header, code string, schemes ...string) bool {
	return slices.ContainsFunc(ParseChallenges(header.Values("WWW-Authenticate")), func(c Challenge) bool {
		return c.Params["error"] == code && slices.Contains(schemes, c.Scheme)
	})
}

var (
	// challengePart matches the scheme of a challenge: a word; or one of its parameters: a word, an equals
	// sign, and a quoted string, which may lack its end, or a word. The groups are the first word, the
	// equals sign, what is in the quotes, and the second word.
	challengePart = regexp.MustCompile(`(?s)([^ \t,="]+)(?:[ \t]*(=)[ \t]*(?:"((?:[^"\\]|\\.|\\$)*)"?|([^ \t,="]*)))?`)

	quotedPair = regexp.MustCompile(`(?s)\\(.)`)
)

// ParseChallenges returns the challenges in the field's values. It skips what is malformed.
func ParseChallenges(values []string) []Challenge {
	var all []Challenge
	for _, value := range values {
		before := len(all)
		for _, part := range challengePart.FindAllStringSubmatch(value, -1) {
			name := strings.ToLower(part[1])
			switch {
			case part[2] == "":
				all = append(all, Challenge{Scheme: name, Params: make(map[string]string)})
			case len(all) > before:
				all[len(all)-1].Params[name] = quotedPair.ReplaceAllString(part[3], "$1") + part[4]
			}
		}
	}
	return all
}
