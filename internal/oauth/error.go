package oauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Class says who can correct an error.
type Class string

const (
	ClassConfiguration Class = "configuration" // people: something is configured wrongly, here or at the server
	ClassOutage        Class = "outage"        // nobody here: it ends when the network or the server works again
)

// Error is the reason why there is no token. Its texts contain no secret.
//
// Class, Status and Transient say what follows from it. A configuration error has status 502, is never
// transient, and is logged and shown as something that people must act on. An outage has
// status 503, or 504 when token_timeout has passed, which is not transient either: no time is left.
// Transient outages are those that often pass at once, a broken connection or a 5xx response without
// Retry-After: for these alone the request is retried within the same attempt, after short pauses
// (rule 8). What is not transient, or fails again, ends the attempt; then the back-off of rule 11
// decides about the next one, and until then requests of the app fail with Status and RetryAfter
// (rule 21).
type Error struct {
	Class      Class
	Status     int           // of the response to the app: 502, 503 or 504
	Code       string        // the OAuth error code (RFC 6749 §5.2); "": none, or none that may be shown
	Message    string        // what happened and what to do about it
	RetryAfter time.Duration // what the server requested, or the rest of the back-off; 0: none
	Transient  bool          // whether to retry within the same attempt
	Responded  bool          // a response says so; otherwise the cause may be the network on this side
	Presumed   bool          // a configuration error by the status of a response alone; see AfterSuccess

	ServerStatus int // of the token endpoint's response; 0: none
}

// AfterSuccess returns what the error means for a client that has had a token with the same credentials. A
// presumed configuration error is an outage then: the server has changed, not the configuration (rule
// 11).
func (e *Error) AfterSuccess() *Error {
	if !e.Presumed {
		return e
	}
	outage := OutageErrorf("%s; it worked before with the same credentials", e.Message)
	outage.Code, outage.RetryAfter, outage.Responded = e.Code, e.RetryAfter, e.Responded
	outage.ServerStatus = e.ServerStatus
	return outage
}

// Error implements error.
func (e *Error) Error() string {
	if e.Code == "" {
		return e.Message
	}
	return e.Message + " (" + e.Code + ")"
}

// ConfigurationErrorf returns an error of ClassConfiguration.
func ConfigurationErrorf(format string, args ...any) *Error {
	return &Error{Class: ClassConfiguration, Status: http.StatusBadGateway, Message: fmt.Sprintf(format, args...)}
}

// OutageErrorf returns an error of ClassOutage that is not transient.
func OutageErrorf(format string, args ...any) *Error {
	return &Error{Class: ClassOutage, Status: http.StatusServiceUnavailable, Message: fmt.Sprintf(format, args...)}
}

// AsError returns the Error in err. Any other error is an outage, whose text is not shown.
func AsError(err error) *Error {
	if te, ok := errors.AsType[*Error](err); ok {
		return te
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &Error{Class: ClassOutage, Status: http.StatusGatewayTimeout, Message: "no token within token_timeout"}
	}
	return OutageErrorf("fetching a token failed")
}
