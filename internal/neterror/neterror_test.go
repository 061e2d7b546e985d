package neterror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"
)

// inRequest wraps err as net/http does, with a URL that has a secret.
func inRequest(err error) error {
	return &url.Error{Op: "Post", URL: "https://auth.example/token?key=hunter2", Err: err}
}

func dialError(err error) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", err)}
}

func TestDescribe(t *testing.T) {
	for want, err := range map[string]error{
		"no such host":          &net.DNSError{Err: "no such host", Name: "hunter2.example", IsNotFound: true},
		"connection refused":    dialError(syscall.ECONNREFUSED),
		"connection reset":      dialError(syscall.ECONNRESET),
		"host unreachable":      dialError(syscall.EHOSTUNREACH),
		"timed out":             &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded},
		"it does not speak TLS": http.ErrSchemeMismatch,
		"its TLS certificate is signed by an unknown authority":          &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
		"its TLS certificate is for another host name":                   &tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: new(x509.Certificate), Host: "hunter2"}},
		"its TLS certificate has expired or is not yet valid":            &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired}},
		"its TLS certificate is not valid":                               &tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}},
		"it refused the TLS handshake; it may want a client_certificate": &net.OpError{Op: "remote error", Err: errors.New("tls: hunter2")},
		"looking up its host name failed":                                &net.DNSError{Err: "server misbehaving"},
		"the connection was closed before the response was complete":     io.ErrUnexpectedEOF,
		"the connection broke":                                           errors.New("hunter2"),
		"the forward proxy refused with status 407 (proxy:3128)":         ProxyStatusError{407, "proxy:3128"},
		"the forward proxy cannot be reached: no such host (proxy:3128)": &net.OpError{Op: "proxyconnect", Err: &DialError{"proxy:3128", errors.New("hunter2"), &net.DNSError{IsNotFound: true}}},
		"the forward proxy refused to connect to it":                     &net.OpError{Op: "socks connect", Err: errors.New("hunter2")},
		"network_proxy url: not a URL":                                   ProxyURLError{Err: errors.New("not a URL")},
		"the forward proxy cannot be reached: connection refused":        &net.OpError{Op: "proxyconnect", Net: "tcp", Err: dialError(syscall.ECONNREFUSED)},
	} {
		if got := Describe(inRequest(err)); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

func TestIsTimeout(t *testing.T) {
	for err, want := range map[error]bool{
		inRequest(os.ErrDeadlineExceeded):          true,
		inRequest(&net.DNSError{IsTimeout: true}):  true,
		inRequest(io.EOF):                          false,
		inRequest(dialError(syscall.ECONNREFUSED)): false,
		fmt.Errorf("timeout"):                      false,
	} {
		if got := IsTimeout(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestDeadlinePassed(t *testing.T) {
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	ahead, cancelAhead := context.WithTimeout(t.Context(), time.Hour)
	if !DeadlinePassed(over) || DeadlinePassed(ahead) || DeadlinePassed(t.Context()) {
		t.Error("a deadline is mistaken")
	}
	if !DeadlinePassed(unnoticed{t.Context()}) {
		t.Error("a deadline that the context has not noticed does not count")
	}
	cancelAhead()
	if !DeadlinePassed(ahead) {
		t.Error("a context that is done does not count")
	}
}

// unnoticed is a context whose deadline has passed, but whose timer has not fired.
type unnoticed struct{ context.Context }

func (unnoticed) Deadline() (time.Time, bool) { return time.Now().Add(-time.Millisecond), true }
