package forward

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// announcedError is an error whose fields are in the header of the response that an error route may still
// write.
type announcedError struct {
	error
	header         http.Header
	before, fields http.Header // what header had of errorFields before and has now
}

// errorFields are the fields that an error may set.
var errorFields = []string{"Cache-Control", "Proxy-Status", "Retry-After", "Allow", "Connection"}

// announce sets the fields of the error in the header of the response to r, and returns cause with what
// it takes to withdraw them.
func (e *Error) announce(header http.Header, r *http.Request, cause error) error {
	announced := &announcedError{error: cause, header: header, before: only(header, errorFields)}
	e.setHeader(header)
	closeUnread(header, "Connection", r)
	announced.fields = only(header, errorFields)
	return announced
}

// Unwrap returns the error without its fields.
func (e *announcedError) Unwrap() error { return e.error }

// withdraw takes the fields of an Error out of the response when the request is served after all,
// because an error route leads to another connection. ctx is the request's.
func withdraw(ctx context.Context) {
	err, _ := ctx.Value(caddyhttp.ErrorCtxKey).(error)
	announced, ok := errors.AsType[*announcedError](err)
	if !ok {
		return
	}
	for field, values := range announced.fields {
		if !slices.Equal(announced.header[field], values) {
			continue // the error route has set it
		}
		if before, ok := announced.before[field]; ok {
			announced.header[field] = before
		} else {
			delete(announced.header, field)
		}
	}
}

// only returns a copy of some fields of a header.
func only(header http.Header, fields []string) http.Header {
	some := make(http.Header)
	for _, field := range fields {
		if values, ok := header[field]; ok {
			some[field] = slices.Clone(values)
		}
	}
	return some
}
