package httphelper

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"time"
)

// grantedToken is one access token as a token endpoint granted it. It does not change.
type grantedToken struct {
	// What each request needs, close together.
	sent        time.Time        // when the request for it was sent; with a monotonic reading
	certificate *tls.Certificate // the client certificate that it is bound to (RFC 8705); nil: none
	key         *dpopKey         // the key that it is bound to (RFC 9449); nil: none
	usual       [1]string        // its kind, a space and the value: what a header with it usually says

	value   string        // the token itself, which is the end of usual: a secret
	kind    string        // "Bearer" or "DPoP"
	life    time.Duration // from sent on: already clamped (rule 5)
	dated   bool          // whether the server said how long it lives
	granted []string      // scopes in the answer; nil when it lists none
	missing []string      // requested scopes that the answer's list lacks
}

// set gives a token its kind and value.
func (t *grantedToken) set(kind, value string) {
	t.kind, t.usual[0] = kind, kind+" "+value
	t.value = t.usual[0][len(kind)+1:]
}

// usuallyBehind tells whether a prefix is the usual one of the token.
func (t *grantedToken) usuallyBehind(prefix string) bool {
	return len(prefix) == len(t.kind)+1 && strings.HasPrefix(t.usual[0], prefix)
}

// failureClass tells a mistake in the configuration from an outage (rule 11).
type failureClass string

const (
	classConfiguration failureClass = "configuration"
	classOutage        failureClass = "outage"
)

// tokenError is why there is no token. Its texts name no secret.
type tokenError struct {
	class      failureClass
	status     int           // what the app gets: 502, 503 or 504 (rule 21)
	code       string        // the OAuth error code, if any (RFC 6749 §5.2)
	message    string        // what happened and what to do, in words
	retryAfter time.Duration // what the server asked for, or what is left of the back-off
	transient  bool          // whether a quick retry within the same attempt makes sense (rule 8)
}

func (e *tokenError) Error() string {
	if e.code == "" {
		return e.message
	}
	return e.message + " (" + e.code + ")"
}

// asTokenError finds the tokenError in err; anything else is an outage that it hides.
func asTokenError(err error) *tokenError {
	if te, ok := errors.AsType[*tokenError](err); ok {
		return te
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &tokenError{class: classOutage, status: http.StatusGatewayTimeout, message: "no token within token_timeout"}
	}
	return &tokenError{class: classOutage, status: http.StatusServiceUnavailable, message: "fetching a token failed"}
}

// tokenFetcher makes one token request, without retries. Implementations live as long as the
// config that made them, a token source lives longer.
type tokenFetcher interface {
	// fetch makes one token request with the credentials as they are now. The error is a
	// *tokenError, or ctx's.
	fetch(ctx context.Context) (*grantedToken, error)

	// fingerprint is a digest of the credentials as they are now; an unreadable one is an error.
	fingerprint() (string, error)
}
