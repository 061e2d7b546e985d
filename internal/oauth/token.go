package oauth

import (
	"crypto/tls"
	"time"
)

// Types of tokens. Those that are bound to a key have another one than all others.
const (
	typeBearer = "Bearer"
	typeDPoP   = "DPoP"
)

// Token is an access token as a token endpoint granted it. It is immutable.
type Token struct {
	Value string // a secret

	Sent     time.Time     // when the token request was sent; with a monotonic reading
	Lifetime time.Duration // counted from Sent, clamped (rule 5)

	HasExpiresIn bool          // whether Lifetime is what the response says, not a default
	Ending       bool          // the response says that nothing is left of its life; Lifetime is the shortest one
	Default      time.Duration // the lifetime if the server means nothing by that

	Granted []string // the scopes that the response lists; nil: it lists none
	Missing []string // requested scopes that are not in Granted, if there is such a list

	Certificate *tls.Certificate // the client certificate that the token is bound to (RFC 8705); nil: none
	DPoP        *DPoPKey         // the key that the token is bound to (RFC 9449); nil: none

	RequestSecrets []string // the secrets as they were in the token request

	Status int // of the response that granted it; 0: another replica got it
}

// HeaderPrefix returns the token's authentication scheme and a space, as in an Authorization field.
func (t *Token) HeaderPrefix() string {
	if t.DPoP != nil {
		return typeDPoP + " "
	}
	return typeBearer + " "
}
