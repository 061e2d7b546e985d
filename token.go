package httphelper

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"time"
)

// grantedToken is one access token as a token endpoint granted it. It does not change.
type grantedToken struct {
	value string // a secret
	kind  string // "Bearer" or "DPoP"

	sent     time.Time     // when the request for it was sent; with a monotonic reading
	lifetime time.Duration // from sent on: already clamped (rule 5)

	hasExpiresIn bool     // whether the server said how long it lives
	granted      []string // scopes in the response; nil when it lists none
	missing      []string // requested scopes that the response's list lacks

	certificate *tls.Certificate // the client certificate that it is bound to (RFC 8705); nil: none
	key         *dpopKey         // the key that it is bound to (RFC 9449); nil: none
}

// prefix is the authentication scheme of the token, with a space.
func (t *grantedToken) prefix() string {
	if t.key != nil {
		return "DPoP "
	}
	return "Bearer "
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
