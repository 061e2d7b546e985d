package oauth

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// HeaderPrefix is the authentication scheme of the token, with a space.
func (t *Token) HeaderPrefix() string {
	if t.DPoP != nil {
		return "DPoP "
	}
	return "Bearer "
}

// Class tells a mistake in the configuration from an outage (rule 11).
type Class string

const (
	ClassConfiguration Class = "configuration"
	ClassOutage        Class = "outage"
)

// Error is why there is no token. Its texts name no secret.
type Error struct {
	Class      Class
	Status     int           // what the app gets: 502, 503 or 504 (rule 21)
	Code       string        // the OAuth error code, if any (RFC 6749 §5.2)
	Message    string        // what happened and what to do, in words
	RetryAfter time.Duration // what the server asked for, or what is left of the back-off
	Transient  bool          // whether a quick retry within the same attempt makes sense (rule 8)
}

func (e *Error) Error() string {
	if e.Code == "" {
		return e.Message
	}
	return e.Message + " (" + e.Code + ")"
}

// AsError finds the Error in err; anything else is an outage that it hides.
func AsError(err error) *Error {
	if te, ok := errors.AsType[*Error](err); ok {
		return te
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Error{Class: ClassOutage, Status: http.StatusGatewayTimeout, Message: "no token within token_timeout"}
	}
	return &Error{Class: ClassOutage, Status: http.StatusServiceUnavailable, Message: "fetching a token failed"}
}
