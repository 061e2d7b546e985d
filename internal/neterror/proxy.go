package neterror

import (
	"errors"
	"fmt"
)

// ProxyStatus is the status with which a forward proxy refuses to connect.
type ProxyStatus int

func (e ProxyStatus) Error() string {
	return fmt.Sprintf("the forward proxy refused with status %d", int(e))
}

// ErrCleartextProxy is why a request in the clear does not go to a forward proxy, which could read
// its token or secret.
var ErrCleartextProxy = errors.New("a request in the clear must not pass a forward proxy: use https, or except the host in NO_PROXY")

// ProxyURLError is why there is no forward proxy to go through.
type ProxyURLError struct{ Err error }

func (e ProxyURLError) Error() string { return fmt.Sprintf("network_proxy url: %v", e.Err) }
