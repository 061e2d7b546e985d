package neterror

import (
	"errors"
	"fmt"
)

// ProxyStatusError is the error of a transport whose forward proxy has refused to connect to a server.
type ProxyStatusError struct {
	Status int
	Proxy  string // host and port
}

func (e ProxyStatusError) Error() string {
	return fmt.Sprintf("the forward proxy refused with status %d (%s)", e.Status, e.Proxy)
}

// DialError is the error of a dial: the dialer's, which may hide the cause, and the cause, if it is known.
type DialError struct {
	Address    string // host and port
	Err, Cause error
}

func (e *DialError) Error() string { return e.Err.Error() }

// Unwrap returns both errors.
func (e *DialError) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Cause}
}

// ErrCleartextProxy is the error of a transport that does not send a request in the clear to a forward
// proxy, which could read its token or secret.
var ErrCleartextProxy = errors.New("a request in the clear must not pass a forward proxy: use https, or except the host in NO_PROXY")

// ProxyURLError is the error of a transport whose forward proxy has no usable URL.
type ProxyURLError struct{ Err error }

func (e ProxyURLError) Error() string { return fmt.Sprintf("network_proxy url: %v", e.Err) }
