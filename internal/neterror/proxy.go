package neterror

import (
	"errors"
	"fmt"
)

// ProxyStatusError is the status code with which a forward proxy refused to connect to a server.
type ProxyStatusError int

func (e ProxyStatusError) Error() string {
	return fmt.Sprintf("the forward proxy refused with status %d", int(e))
}

// ErrCleartextProxy is the error of a transport that does not send a request in the clear to a forward
// proxy, which could read its token or secret.
var ErrCleartextProxy = errors.New("a request in the clear must not pass a forward proxy: use https, or except the host in NO_PROXY")

// ProxyURLError is the error of a transport whose forward proxy has no usable URL.
type ProxyURLError struct{ Err error }

func (e ProxyURLError) Error() string { return fmt.Sprintf("network_proxy url: %v", e.Err) }
