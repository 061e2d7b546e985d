package oauth

import (
	"crypto/tls"
	"time"
)

// Token is one access token as a token endpoint granted it. It does not change.
type Token struct {
	Value string // a secret
	Type  string // "Bearer" or "DPoP"

	Sent     time.Time     // when the request for it was sent; with a monotonic reading
	Lifetime time.Duration // from sent on: already clamped (rule 5)

	HasExpiresIn bool     // whether the server said how long it lives
	Granted      []string // scopes in the response; nil when it lists none
	Missing      []string // requested scopes that the response's list lacks

	Certificate *tls.Certificate // the client certificate that it is bound to (RFC 8705); nil: none
	DPoP        *DPoPKey         // the key that it is bound to (RFC 9449); nil: none
}
