package httphelper

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

const (
	authorizationReplace = "replace"
	authorizationKeep    = "keep"
	authorizationReject  = "reject"

	unauthorizedRetry = "retry"
	unauthorizedPass  = "pass"

	defaultReplayBuffer = 64 << 10
)

// Injection says where the token goes and what happens around it. The handler and the transport
// have the same options; in a route made by the directive `http_helper` the handler's count.
type Injection struct {
	// Where the token goes. Default: `Authorization` with the prefix `Bearer` (RFC 6750 §2.1), or
	// `DPoP` for a connection with `dpop` (RFC 9449 §7.1).
	AccessTokenHeader *TokenHeader `json:"access_token_header,omitempty"`

	// What happens to the app's own `Authorization`: `replace` it, `keep` it and send no token, or
	// `reject` the request with 400. Default: `replace`.
	AppAuthorization string `json:"app_authorization,omitempty"`

	// What happens on a 401 of the API: `retry` once with a newer token, or `pass` it on.
	// Default: `retry`.
	OnUnauthorized string `json:"on_unauthorized,omitempty"`

	// How many bytes of a request's body are kept for one replay; a larger body is not replayed.
	// Default: 65536.
	ReplayBuffer *int64 `json:"replay_buffer,omitempty"`

	// Who may call besides loopback and unix sockets: addresses and CIDR ranges. The peer counts,
	// whatever headers say. Default: nobody else.
	AllowClients []string `json:"allow_clients,omitempty"`

	allowed []netip.Prefix
}

// TokenHeader is where the token goes.
type TokenHeader struct {
	// The header field. Required.
	Field string `json:"field"`

	// What stands before the token, separated by a space. Default: nothing.
	Prefix string `json:"prefix,omitempty"`

	bare bool // configured without a prefix
}

func (i *Injection) provision() error {
	var errs []error
	if i.AccessTokenHeader == nil {
		// The prefix depends on the connection: see Injection.prefix.
		i.AccessTokenHeader = &TokenHeader{Field: "Authorization"}
	} else if err := i.AccessTokenHeader.check(); err != nil {
		errs = append(errs, fmt.Errorf("access_token_header: %v", err))
	} else if i.AccessTokenHeader.Prefix == "" {
		i.AccessTokenHeader.bare = true
	}
	errs = append(errs,
		setDefault(&i.AppAuthorization, "app_authorization", authorizationReplace, authorizationKeep, authorizationReject),
		setDefault(&i.OnUnauthorized, "on_unauthorized", unauthorizedRetry, unauthorizedPass))
	if i.ReplayBuffer == nil {
		size := int64(defaultReplayBuffer)
		i.ReplayBuffer = &size
	} else if *i.ReplayBuffer < 0 {
		errs = append(errs, errors.New("replay_buffer must not be negative"))
	}
	for _, text := range i.AllowClients {
		prefix, err := parsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("allow_clients: %q is neither an IP address nor a CIDR range", text))
			continue
		}
		i.allowed = append(i.allowed, prefix)
	}
	return errors.Join(errs...)
}

// setDefault checks that an option has one of the allowed values, the first of which it gets when
// it has none.
func setDefault(value *string, option string, allowed ...string) error {
	if *value == "" {
		*value = allowed[0]
	}
	if slices.Contains(allowed, *value) {
		return nil
	}
	return fmt.Errorf("%s must be one of %s, not %q", option, strings.Join(allowed, ", "), *value)
}

func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		return netip.ParsePrefix(text)
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

func (h *TokenHeader) check() error {
	if !httpguts.ValidHeaderFieldName(h.Field) {
		return fmt.Errorf("%q is not a header field name", h.Field)
	}
	h.Field = http.CanonicalHeaderKey(h.Field)
	if reservedHeader(h.Field) {
		return fmt.Errorf("%s cannot carry a token", h.Field)
	}
	if !httpguts.ValidHeaderFieldValue(h.Prefix) {
		return fmt.Errorf("the prefix contains characters that may not stand in a header")
	}
	return nil
}

// prefix is what stands before a token.
func (i *Injection) prefix(token *grantedToken) string {
	switch {
	case i.AccessTokenHeader.bare:
		return ""
	case i.AccessTokenHeader.Prefix != "":
		return i.AccessTokenHeader.Prefix + " "
	case token.key != nil:
		return "DPoP "
	default:
		return "Bearer "
	}
}

// permits tells whether a peer may call: a process of this machine, or one of allow_clients
// (rule 20). The address is that of the connection, never what a header claims.
func (i *Injection) permits(remoteAddr string) bool {
	if strings.HasPrefix(remoteAddr, "127.0.0.1:") || !strings.Contains(remoteAddr, ":") {
		return true // the usual caller, or a unix socket: "@", a path or nothing
	}
	addrPort, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return false
	}
	addr := addrPort.Addr().Unmap().WithZone("")
	if addr.IsLoopback() {
		return true
	}
	for _, prefix := range i.allowed {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// hopHeaders end at a proxy (RFC 9110 §7.6.1); nobody may configure them.
var hopHeaders = map[string]bool{
	"Alt-Svc": true, "Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
}

// reservedHeader tells whether a field frames or routes the message itself.
func reservedHeader(field string) bool {
	return hopHeaders[field] || field == "Host" || field == "Content-Length"
}
