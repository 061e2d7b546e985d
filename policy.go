package httphelper

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Values of app_authorization and on_unauthorized.
const (
	authorizationReplace = "replace"
	authorizationKeep    = "keep"
	authorizationReject  = "reject"

	unauthorizedRetry = "retry"
	unauthorizedPass  = "pass"
)

// RequestPolicy says which requests are admitted, where the token goes and what follows from the API's
// response. The handler and the transport have the same options; in a route made by the directive
// `http_helper` the handler's count.
type RequestPolicy struct {
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
	options forward.Options
}

// TokenHeader is where the token goes.
type TokenHeader struct {
	// The header field. Required.
	Field string `json:"field"`

	// What comes before the token, separated by a space. Default: nothing.
	Prefix string `json:"prefix,omitempty"`
}

func (p *RequestPolicy) provision() error {
	errs := []error{
		setDefault(&p.AppAuthorization, "app_authorization", authorizationReplace, authorizationKeep, authorizationReject),
		setDefault(&p.OnUnauthorized, "on_unauthorized", unauthorizedRetry, unauthorizedPass),
	}
	p.options = forward.Options{
		KeepAuthorization: p.AppAuthorization == authorizationKeep,
		RetryUnauthorized: p.OnUnauthorized == unauthorizedRetry,
	}
	if err := p.provisionHeader(); err != nil {
		errs = append(errs, fmt.Errorf("access_token_header: %v", err))
	}
	if p.ReplayBuffer == nil {
		size := int64(forward.DefaultReplayBuffer)
		p.ReplayBuffer = &size
	} else if *p.ReplayBuffer < 0 {
		errs = append(errs, errors.New("replay_buffer must not be negative"))
	}
	p.options.ReplayBuffer = *p.ReplayBuffer
	for _, text := range p.AllowClients {
		prefix, err := parsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("allow_clients: %q is neither an IP address nor a CIDR range", text))
			continue
		}
		p.allowed = append(p.allowed, prefix)
	}
	return errors.Join(errs...)
}

func (p *RequestPolicy) provisionHeader() error {
	p.options.Field = p.tokenField()
	if p.AccessTokenHeader == nil {
		return nil // the prefix depends on the token
	}
	if err := p.AccessTokenHeader.check(); err != nil {
		return err
	}
	prefix := p.AccessTokenHeader.Prefix
	if prefix != "" {
		prefix += " "
	}
	p.options.Field, p.options.Prefix = p.AccessTokenHeader.Field, &prefix
	return nil
}

// tokenField is the header that carries the token.
func (p *RequestPolicy) tokenField() string {
	if p.AccessTokenHeader == nil {
		return "Authorization"
	}
	return http.CanonicalHeaderKey(p.AccessTokenHeader.Field)
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
	if httpguard.ReservedField(h.Field) {
		return fmt.Errorf("%s cannot carry a token", h.Field)
	}
	if !httpguts.ValidHeaderFieldValue(h.Prefix) {
		return fmt.Errorf("the prefix contains characters that are not allowed in a header")
	}
	return nil
}

// check checks all of a request that does not depend on its connection (rules 17, 20, 21).
func (p *RequestPolicy) check(r *http.Request) *forward.Error {
	if !p.allowsClient(r.RemoteAddr) {
		return denied("the caller's address is not allowed: see allow_clients")
	}
	if isCrossSite(r.Header) {
		return denied("the request comes from a page of another site")
	}
	if forward.RefusesMethod(r.Method) {
		return &forward.Error{Status: http.StatusMethodNotAllowed, Type: "http_request_error", Details: "the methods TRACE and CONNECT are not forwarded"}
	}
	if p.AppAuthorization == authorizationReject && len(r.Header["Authorization"]) > 0 {
		return forward.BadRequest("the request has an Authorization of its own: see app_authorization")
	}
	if r.URL.Opaque != "" {
		return forward.BadRequest("the request's target is not a path")
	}
	if err := httpguard.CheckPath(r.URL); err != nil {
		return forward.BadRequest("the request's path is refused: " + err.Error())
	}
	return nil
}

func denied(details string) *forward.Error {
	return &forward.Error{Status: http.StatusForbidden, Type: "http_request_denied", Details: details}
}

// isCrossSite reports whether a browser says that a page of another site makes the request: such a page
// must not use the token just because its reader is on this machine.
func isCrossSite(header http.Header) bool {
	return slices.ContainsFunc(header["Sec-Fetch-Site"], func(site string) bool { return strings.EqualFold(site, "cross-site") })
}

// allowsClient reports whether a peer may call: a process of this machine, or one of allow_clients
// (rule 20). The address is that of the connection, never what a header claims.
func (p *RequestPolicy) allowsClient(remoteAddr string) bool {
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
	return slices.ContainsFunc(p.allowed, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
}

// policyOptions are the subdirectives that the directive and the transport share.
var policyOptions = subdirective.Options[RequestPolicy]{
	"access_token_header": {Read: accessTokenHeader},
	"app_authorization":   subdirective.CheckedString(func(i *RequestPolicy) *string { return &i.AppAuthorization }, subdirective.OneOf(authorizationReplace, authorizationKeep, authorizationReject)),
	"on_unauthorized":     subdirective.CheckedString(func(i *RequestPolicy) *string { return &i.OnUnauthorized }, subdirective.OneOf(unauthorizedRetry, unauthorizedPass)),
	"replay_buffer":       {Read: replayBuffer},
	"allow_clients":       {Read: allowClients},
}

func accessTokenHeader(s *subdirective.Subdirective, i *RequestPolicy) error {
	if len(s.Args) < 1 || len(s.Args) > 2 {
		return s.Errorf("takes a header field and, if any, a prefix")
	}
	header := &TokenHeader{Field: s.Args[0]}
	if len(s.Args) == 2 {
		header.Prefix = s.Args[1]
	}
	if err := header.check(); err != nil {
		return s.Wrap(err)
	}
	i.AccessTokenHeader = header
	return nil
}

func replayBuffer(s *subdirective.Subdirective, i *RequestPolicy) error {
	value, err := s.OneArg()
	if err != nil {
		return err
	}
	bytes, err := humanize.ParseBytes(value)
	if err != nil || bytes > math.MaxInt64 {
		return s.Errorf("must be a size, such as 64KiB or 0")
	}
	size := int64(bytes)
	i.ReplayBuffer = &size
	return nil
}

func allowClients(s *subdirective.Subdirective, i *RequestPolicy) error {
	ranges, err := s.SomeArgs()
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if r == "private_ranges" {
			i.AllowClients = append(i.AllowClients, caddyhttp.PrivateRangesCIDR()...)
			continue
		}
		if _, err := parsePrefix(r); err != nil {
			return s.Errorf("must be IP addresses, CIDR ranges or private_ranges")
		}
		i.AllowClients = append(i.AllowClients, r)
	}
	return nil
}
