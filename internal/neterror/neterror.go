// Package neterror describes network errors in words that quote nothing of a request: the messages of
// net/http contain its URL. It also defines the errors of transports that use a forward proxy. It
// knows neither tokens nor APIs.
package neterror

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"
)

// DeadlinePassed reports whether ctx is done or its deadline has passed. The clock decides too,
// because a dialer may notice a deadline a moment before ctx does.
func DeadlinePassed(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

// Describe returns why a server could not be reached, or the forward proxy in front of it.
func Describe(err error) string {
	operation := new(net.OpError)
	if !errors.As(err, &operation) {
		return cause(err)
	}
	switch operation.Op {
	case "proxyconnect":
		what := "the forward proxy cannot be reached: " + cause(err)
		if dial := new(DialError); errors.As(err, &dial) {
			what += " (" + dial.Address + ")"
		}
		return what
	case "socks connect":
		return "the forward proxy refused to connect to it"
	default:
		return cause(err)
	}
}

// UnknownAuthority is why a connection failed to a server whose CA is not trusted here.
const UnknownAuthority = "its TLS certificate is signed by an unknown authority"

// cause returns why a connection failed, to whatever it was.
func cause(err error) string {
	var (
		dns          *net.DNSError
		timeout      net.Error
		noTLS        tls.RecordHeaderError
		unknown      x509.UnknownAuthorityError
		wrongName    x509.HostnameError
		invalid      x509.CertificateInvalidError
		verification *tls.CertificateVerificationError
		proxy        ProxyStatusError
		noProxy      ProxyURLError
	)
	switch {
	case errors.As(err, &proxy):
		return proxy.Error()
	case errors.As(err, &noProxy):
		return noProxy.Error()
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &unknown):
		return UnknownAuthority
	case errors.As(err, &wrongName):
		return "its TLS certificate is for another host name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its TLS certificate has expired or is not yet valid"
	case errors.As(err, &verification):
		return "its TLS certificate is not valid"
	case errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return "it does not speak TLS"
	case IsRefusedHandshake(err):
		return "it refused the TLS handshake; it may want a client_certificate"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "host unreachable"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timed out"
	case errors.As(err, &dns):
		return "looking up its host name failed"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed before the response was complete"
	default:
		return "the connection broke"
	}
}

// IsRefusedHandshake reports whether a server has refused the TLS handshake, which it may for lack of a
// client certificate.
func IsRefusedHandshake(err error) bool {
	operation := new(net.OpError)
	return errors.As(err, &operation) && operation.Op == "remote error"
}

// IsTimeout reports whether err is, or wraps, a timeout of the network.
func IsTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}
