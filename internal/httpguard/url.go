package httpguard

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// sameOrigin compares scheme, host and port; an absent port is the scheme's own.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && Port(a) == Port(b)
}

func Port(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// hostLiteral also allows what an integrator may write: underscores and a final dot.
var hostLiteral = regexp.MustCompile(`^(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+\.?$`)

var (
	ErrURLSyntax   = errors.New("not a valid URL")
	errURLScheme   = errors.New("not an http or https URL: write it in full, beginning with https://")
	errURLUserinfo = errors.New("the URL must not contain a user name or password")
	errURLFragment = errors.New("the URL must not have a fragment")
	errURLDots     = errors.New("the URL's path has a dot segment")
)

func ValidPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// ParseURL parses a URL that requests with a secret go to. Its errors do not quote the URL.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil && !strings.Contains(s, "://"):
		return nil, errURLScheme
	case err != nil:
		return nil, ErrURLSyntax
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errURLScheme
	case u.Opaque != "" || u.Host == "":
		return nil, ErrURLSyntax
	case u.User != nil:
		return nil, errURLUserinfo
	case u.Fragment != "" || strings.HasSuffix(s, "#"):
		return nil, errURLFragment
	}
	if err := checkAuthority(u); err != nil {
		return nil, err
	}
	return u, checkPathOfURL(u.EscapedPath())
}

// checkAuthority refuses hosts that could be read in more than one way. Those in brackets have been
// checked when parsing.
func checkAuthority(u *url.URL) error {
	host := u.Hostname()
	if !strings.HasPrefix(u.Host, "[") && (len(host) > 254 || !hostLiteral.MatchString(host)) {
		return errors.New("the URL's host is not a host name; write an international one in its xn-- form")
	}
	if strings.HasSuffix(u.Host, ":") || u.Port() != "" && !ValidPort(u.Port()) {
		return errors.New("the URL's port is not a number from 1 to 65535")
	}
	return nil
}

func checkPathOfURL(path string) error {
	for range 3 {
		if HasDotSegment(path) {
			return errURLDots
		}
		path = DecodeLeniently(path)
	}
	return nil
}

// CheckBaseURL checks what a base URL must be beyond a URL.
func CheckBaseURL(u *url.URL) error { return checkNoQuery(u, "; see api_query") }

// CheckIssuer checks what an issuer identifier must be beyond a URL (RFC 8414 §2).
func CheckIssuer(u *url.URL) error { return checkNoQuery(u, " (RFC 8414)") }

func checkNoQuery(u *url.URL, more string) error {
	if u.RawQuery != "" || u.ForceQuery {
		return errors.New("the URL must not have a query" + more)
	}
	return nil
}

// isLoopbackHost reports whether a host, without port, is this machine.
func isLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// CheckScheme refuses to send secrets in the clear (rule 2). argument is the argument of allow_insecure
// that would permit it for the URL of option.
func CheckScheme(u *url.URL, insecureAllowed bool, option, argument string) error {
	if u.Scheme == "https" || insecureAllowed || isLoopbackHost(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%s is http and its host is not loopback: use https, or permit it with allow_insecure %s", option, argument)
}

// Origin returns scheme and host, without the scheme's own port.
func Origin(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host
}
