package httphelper

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-httphelper/caddy-httphelper/internal/callertoken"
	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// CallerPolicy says who may call.
type CallerPolicy struct {
	// The IP addresses and CIDR ranges of clients that may call, besides loopback and unix sockets.
	// What counts is the address of the TCP connection, not what headers say. Default: none.
	AllowClients []string `json:"allow_clients,omitempty"`

	// The host names, without scheme, port or wildcard, that requests may be addressed to (`Host`) and that the
	// pages they come from may have (`Origin`), besides IP addresses, `localhost`, names under `.localhost` and the
	// host of the base URL; or `*` for any. Other requests get 403: they come from pages of other sites that
	// rebind their name. Requests over unix sockets are not checked. Default: none, and only requests from loopback
	// are checked; with a name also those of `allow_clients`.
	AllowHosts []string `json:"allow_hosts,omitempty"`

	// The path of a file with the tokens of callers, one a line, so that they can be rotated. A request needs
	// exactly one `Proxy-Authorization: Bearer <token>` (RFC 9110 §11.7.2) with one of them, also over a unix socket, or
	// else gets 403; the API does not get that field. The file is read again at most once a second. One that cannot be
	// used is an error when the config is loaded, and later every request gets 502 meanwhile. Placeholders
	// `{env.*}` in the path are replaced at that time too. Default: none, callers need no token.
	CallerTokenFile string `json:"caller_token_file,omitempty"`

	clients []netip.Prefix
	hosts   []string // as of httpguard.ParseAuthority
	anyHost bool
	tokens  *callertoken.File     // nil: callers need none
	conns   []*forward.Connection // whose hosts are permitted
	foreign *foreignHosts
}

// anyHost is the value of allow_hosts that permits any name.
const anyHost = "*"

func (p *CallerPolicy) provision() error {
	var errs []error
	for _, text := range p.AllowClients {
		prefix, err := parsePrefix(text)
		if err != nil {
			errs = append(errs, prefixAll("allow_clients", err))
			continue
		}
		p.clients = append(p.clients, prefix)
	}
	errs = append(errs, prefixAll("allow_hosts", checkHosts(p.AllowHosts)))
	for _, name := range p.AllowHosts {
		host, _ := httpguard.ParseAuthority(name)
		p.hosts = append(p.hosts, host)
	}
	p.anyHost = slices.Contains(p.AllowHosts, anyHost)
	if p.CallerTokenFile != "" {
		var err error
		if p.tokens, err = callertoken.Parse(p.CallerTokenFile); err == nil {
			err = p.tokens.Check()
		}
		errs = append(errs, prefixAll("caller_token_file", err))
	}
	return errors.Join(errs...)
}

var (
	errRange = errors.New("must be IP addresses, CIDR ranges or private_ranges")
	errZone  = errors.New("an address with a zone (%eth0) is not possible: callers are known by their address alone")

	errHost        = errors.New("takes names of hosts, without scheme, port, path or wildcard, or * for any; an international name in its xn-- form")
	errHostAddress = errors.New("takes names: requests to IP addresses are permitted without it")
	errAnyHost     = errors.New("* permits any name: leave the others out")
)

// parsePrefix parses an IP address or a range. One of mapped addresses, ::ffff:10.0.0.0/120, is that of the
// IPv4 addresses, as which callers are known.
func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "%") {
		return netip.Prefix{}, errZone
	}
	address, _, isRange := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, errRange
	}
	prefix := netip.PrefixFrom(addr, addr.BitLen())
	if isRange {
		if prefix, err = netip.ParsePrefix(text); err != nil {
			return netip.Prefix{}, errRange
		}
	}
	const mappedBits = 96
	if addr.Is4In6() && prefix.Bits() >= mappedBits {
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-mappedBits)
	}
	return prefix.Masked(), nil
}

// checkHosts checks the values of allow_hosts. Errors do not quote them.
func checkHosts(names []string) error {
	for _, name := range names {
		_, notAddress := netip.ParseAddr(strings.Trim(name, "[]"))
		switch {
		case name == anyHost && len(names) > 1:
			return errAnyHost
		case name == anyHost:
		case notAddress == nil:
			return errHostAddress
		case !httpguard.IsHostName(strings.TrimSuffix(name, ".")):
			return errHost
		}
	}
	return nil
}

// caller is what a request says of who has sent it.
type caller struct {
	address string      // of the TCP connection; of a unix socket one without a colon
	host    string      // that the request is addressed to, with its port
	header  http.Header // the fields that matter

	healthCheck bool // nobody has sent it but reverse_proxy
}

// callerOf returns the caller of a request.
func callerOf(r *http.Request) caller {
	return caller{address: r.RemoteAddr, host: r.Host, header: r.Header}
}

// callerBehindProxy returns the caller of a request that is a copy which reverse_proxy has made. Of the copy it has
// removed Proxy-Authorization, and header_up may have changed the rest, so this is what the app's own request says.
func callerBehindProxy(req *http.Request) caller {
	c := caller{address: req.RemoteAddr, header: make(http.Header)}
	repl, ok := req.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return c
	}
	c.host, _ = repl.GetString("http.request.hostport")
	for _, field := range []string{"Proxy-Authorization", "Origin", "Sec-Fetch-Site"} {
		// Caddy joins the values of a field. None of these has a comma of its own.
		if value, _ := repl.GetString("http.request.header." + field); value != "" {
			c.header[field] = strings.Split(value, ",")
		}
	}
	return c
}

// checkPeer checks where a request comes from: who has sent it may know nothing of the sidecar (rule 20).
func (p *CallerPolicy) checkPeer(c caller) *forward.Error {
	if !p.allowsClient(c.address) {
		return denied("the caller's address is not allowed: see allow_clients")
	}
	if isCrossSite(c.header) {
		return denied("the request comes from a page of another site")
	}
	return nil
}

// checkCaller checks by the rest who calls (rule 35).
func (p *CallerPolicy) checkCaller(ctx context.Context, c caller) *forward.Error {
	if p.tokens != nil && !c.healthCheck {
		if refused := p.checkToken(c.header["Proxy-Authorization"]); refused != nil {
			return refused
		}
	}
	if !p.checksHosts(c.address) {
		return nil
	}
	if refused := p.checkHost(ctx, c.host); refused != nil {
		return refused
	}
	for _, origin := range c.header["Origin"] {
		if refused := p.checkOrigin(ctx, origin); refused != nil {
			return refused
		}
	}
	return nil
}

func denied(details string) *forward.Error {
	return &forward.Error{Status: http.StatusForbidden, Type: "http_request_denied", Details: details}
}

// isCrossSite reports whether a browser sends the request for a page of another site. Such a page must
// not use the token only because its reader is on this machine.
func isCrossSite(header http.Header) bool {
	return slices.ContainsFunc(header["Sec-Fetch-Site"], func(site string) bool { return strings.EqualFold(site, "cross-site") })
}

// checkToken checks the values of Proxy-Authorization.
func (p *CallerPolicy) checkToken(credentials []string) *forward.Error {
	accepted, err := p.tokens.Accepts(credentials)
	switch {
	case err != nil:
		return &forward.Error{Status: http.StatusBadGateway, Type: "proxy_configuration_error", Details: "caller_token_file: " + err.Error()}
	case accepted:
		return nil
	case len(credentials) == 0:
		return denied("the request has no caller token: Proxy-Authorization: Bearer and a token of caller_token_file")
	default:
		return denied("the request's Proxy-Authorization is not Bearer and a token of caller_token_file")
	}
}

// checksHosts reports whether the names in a request matter: a browser on this machine sends it perhaps, or all
// requests are to be checked.
func (p *CallerPolicy) checksHosts(address string) bool {
	return isLoopback(address) || len(p.AllowHosts) > 0 && !isSocket(address)
}

// checkHost checks what a request is addressed to. No browser leaves that out.
func (p *CallerPolicy) checkHost(ctx context.Context, authority string) *forward.Error {
	if authority == "" || p.anyHost {
		return nil
	}
	host, ok := httpguard.ParseAuthority(authority)
	if !ok {
		return denied("what the request is addressed to is not the name of a host")
	}
	return p.permit(ctx, host, "the request is addressed to %s, which is not a name of this sidecar")
}

// checkOrigin checks which page a request comes from. Of websockets a browser says nothing else, and no preflight
// comes before them.
func (p *CallerPolicy) checkOrigin(ctx context.Context, origin string) *forward.Error {
	host, ok := httpguard.OriginHost(origin)
	switch {
	case !ok:
		return denied("the request's Origin does not name the host of a page that may call")
	case p.anyHost:
		return nil
	}
	return p.permit(ctx, host, "the request comes from a page of %s, which is another site")
}

// permit refuses a host that is none of the permitted ones; why is a format for it. Where a base URL depends on a file
// or a helper flow, it waits until that is known.
func (p *CallerPolicy) permit(ctx context.Context, host, why string) *forward.Error {
	if httpguard.IsMachineItself(host) || slices.Contains(p.hosts, host) {
		return nil
	}
	var unknown *forward.Error
	for _, conn := range p.conns {
		target, err := conn.Target(ctx)
		switch {
		case err != nil:
			unknown = forward.NoTokenError(conn.Name, err)
		case httpguard.SameHost(target.Base.Hostname(), host):
			return nil
		}
	}
	if unknown != nil {
		return unknown
	}
	p.foreign.warn(host)
	return denied(fmt.Sprintf(why, host) + "; if it is meant to be, add the line: allow_hosts " + host)
}

// isLoopback reports whether the address of a TCP connection is one of loopback.
func isLoopback(address string) bool {
	if strings.HasPrefix(address, "127.0.0.1:") {
		return true // as usual
	}
	addrPort, err := netip.ParseAddrPort(address)
	return err == nil && addrPort.Addr().Unmap().IsLoopback()
}

// isSocket reports whether the address is that of a unix socket: "@", a path or nothing.
func isSocket(address string) bool { return !strings.Contains(address, ":") }

// allowsClient reports whether a client may call: a process of this machine, or an address in
// allow_clients (rule 20).
func (p *CallerPolicy) allowsClient(address string) bool {
	if isSocket(address) || isLoopback(address) {
		return true
	}
	addrPort, err := netip.ParseAddrPort(address)
	if err != nil {
		return false
	}
	addr := addrPort.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(p.clients, func(prefix netip.Prefix) bool { return prefix.Contains(addr) })
}

// foreignHosts warns about each host that is not permitted once. Its memory is bounded: whoever calls chooses the
// names.
type foreignHosts struct {
	logger *zap.Logger

	mu    sync.Mutex
	known map[string]bool
}

// maxForeignHosts is how many hosts are warned about.
const maxForeignHosts = 100

func (f *foreignHosts) warn(host string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known[host] || len(f.known) > maxForeignHosts {
		return
	}
	if f.known == nil {
		f.known = make(map[string]bool)
	}
	f.known[host] = true
	if len(f.known) > maxForeignHosts {
		f.logger.Warn("requests by many more hosts were refused; no further host is logged", zap.Int("hosts", maxForeignHosts))
		return
	}
	f.logger.Warn("a request was refused, because it is addressed to a host, or comes from a page of a host, that is not permitted; "+
		"if it is meant to be, add it to allow_hosts", zap.String("host", host))
}

func allowClients(s *subdirective.Subdirective, p *RequestPolicy) error {
	ranges, err := s.SomeArgs()
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if r == "private_ranges" {
			p.AllowClients = append(p.AllowClients, caddyhttp.PrivateRangesCIDR()...)
			continue
		}
		if _, err := parsePrefix(r); err != nil {
			return s.Wrap(err)
		}
		p.AllowClients = append(p.AllowClients, r)
	}
	return nil
}

func allowHosts(s *subdirective.Subdirective, p *RequestPolicy) error {
	names, err := s.SomeArgs()
	if err != nil {
		return err
	}
	p.AllowHosts = names
	return s.Wrap(checkHosts(names))
}
