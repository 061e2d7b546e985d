// Package httpguard decides what a URL, a path or a field name may be where a secret or token travels
// with it (rules 2 and 17). It is pure: it knows net/url and net/http, but no configuration, and
// the caller names its options in errors.
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

// hostLiteral matches a host name as a configuration may have it, also with underscores and a final
// dot.
var hostLiteral = regexp.MustCompile(`^(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+\.?$`)

var (
	// ErrURLSyntax is also what a caller returns for a URL that it assembled itself.
	ErrURLSyntax   = errors.New("not a valid URL")
	errURLScheme   = errors.New("not an http or https URL: write it in full, beginning with https://")
	errURLUserinfo = errors.New("the URL must not contain a user name or password")
	errURLFragment = errors.New("the URL must not have a fragment")
	errURLDots     = errors.New("the URL's path has a dot segment")
)

// ParseURL parses a URL to which requests with a secret are sent. Its errors do not quote the URL.
func ParseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil && !strings.Contains(s, "://"):
		return nil, errURLScheme
	case err != nil:
		return nil, whyNoURL(err)
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

// whyNoURL says why a URL cannot be parsed, without quoting it.
func whyNoURL(err error) error {
	if _, ok := errors.AsType[url.InvalidHostError](err); ok {
		return fmt.Errorf("%w: its host has a character that is not possible there", ErrURLSyntax)
	}
	if _, ok := errors.AsType[url.EscapeError](err); ok {
		return fmt.Errorf("%w: two hexadecimal digits must follow a %%", ErrURLSyntax)
	}
	return ErrURLSyntax
}

// checkAuthority rejects hosts that can be read in more than one way. IPv6 addresses, in brackets,
// were checked by url.Parse.
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

// checkPathOfURL rejects dot segments, also those that a lenient server decodes.
func checkPathOfURL(path string) error {
	for range 3 {
		if HasDotSegment(path) {
			return errURLDots
		}
		path = DecodeLeniently(path)
	}
	return nil
}

// CheckBaseURL checks what ParseURL leaves open for base_url: it has no query.
func CheckBaseURL(u *url.URL) error { return checkNoQuery(u, "; see api_query") }

// CheckIssuer checks what ParseURL leaves open for an issuer identifier: it has no query (RFC 8414 §2).
func CheckIssuer(u *url.URL) error { return checkNoQuery(u, " (RFC 8414)") }

func checkNoQuery(u *url.URL, hint string) error {
	if u.RawQuery != "" || u.ForceQuery {
		return errors.New("the URL must not have a query" + hint)
	}
	return nil
}

// IsLoopbackHost reports whether a host, given without a port, is a loopback address or localhost.
func IsLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// CheckScheme rejects a URL to which secrets would be sent in the clear (rule 2). The error names the
// URL by option, and by argument what allow_insecure must be given to permit it.
func CheckScheme(u *url.URL, insecureAllowed bool, option, argument string) error {
	if u.Scheme == "https" || insecureAllowed || IsLoopbackHost(u.Hostname()) {
		return nil
	}
	return fmt.Errorf("%s is http and its host is not loopback: use https, or permit it with allow_insecure %s", option, argument)
}

// Port returns the URL's port, or else the default port of its scheme.
func Port(u *url.URL) string {
	if port := u.Port(); port != "" {
		return port
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// ValidPort reports whether port is a number from 1 to 65535.
func ValidPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// Origin returns the URL's scheme and host, without the default port of the scheme.
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

// sameOrigin reports whether scheme, host and port are equal, the port being explicit or the default.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && Port(a) == Port(b)
}
