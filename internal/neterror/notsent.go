package neterror

import "errors"

// ErrNotLoopback is the error of a transport that does not send a request in the clear to localhost, because
// that name leads to another machine.
var ErrNotLoopback = errors.New("localhost leads to an address that is not loopback: use 127.0.0.1, or correct the hosts file or the resolver")

// NotSent returns why a transport has not sent a request that others could have read, or nil if that is
// not what err says.
func NotSent(err error) error {
	for _, reason := range []error{ErrCleartextProxy, ErrNotLoopback} {
		if errors.Is(err, reason) {
			return reason
		}
	}
	return nil
}
