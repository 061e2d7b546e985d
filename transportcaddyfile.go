package httphelper

import (
	"math"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// injectionOptions are the subdirectives that the directive and the transport share.
var injectionOptions = options[Injection]{
	"access_token_header": {read: accessTokenHeader},
	"app_authorization":   checkedText(func(i *Injection) *string { return &i.AppAuthorization }, oneOf(authorizationReplace, authorizationKeep, authorizationReject)),
	"on_unauthorized":     checkedText(func(i *Injection) *string { return &i.OnUnauthorized }, oneOf(unauthorizedRetry, unauthorizedPass)),
	"replay_buffer":       {read: replayBuffer},
	"allow_clients":       {read: allowClients},
}

func accessTokenHeader(s *subdirective, i *Injection) error {
	if len(s.args) < 1 || len(s.args) > 2 {
		return s.errorf("takes a header field and, if any, a prefix")
	}
	header := &TokenHeader{Field: s.args[0]}
	if len(s.args) == 2 {
		header.Prefix = s.args[1]
	}
	if err := header.check(); err != nil {
		return s.wrap(err)
	}
	i.AccessTokenHeader = header
	return nil
}

func replayBuffer(s *subdirective, i *Injection) error {
	value, err := s.one()
	if err != nil {
		return err
	}
	bytes, err := humanize.ParseBytes(value)
	if err != nil || bytes > math.MaxInt64 {
		return s.errorf("must be a size, such as 64KiB or 0")
	}
	size := int64(bytes)
	i.ReplayBuffer = &size
	return nil
}

func allowClients(s *subdirective, i *Injection) error {
	ranges, err := s.some()
	if err != nil {
		return err
	}
	for _, r := range ranges {
		if r == "private_ranges" {
			i.AllowClients = append(i.AllowClients, caddyhttp.PrivateRangesCIDR()...)
			continue
		}
		if _, err := parsePrefix(r); err != nil {
			return s.errorf("must be IP addresses, CIDR ranges or private_ranges")
		}
		i.AllowClients = append(i.AllowClients, r)
	}
	return nil
}

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. Syntax:
//
//	transport http_helper {
//	    connection          <name>
//	    access_token_header <field> [<prefix>]
//	    app_authorization   replace|keep|reject
//	    on_unauthorized     retry|pass
//	    replay_buffer       <size>
//	    allow_clients       [private_ranges] <ranges...>
//	    <options of transport http>
//	}
//
// The upstreams are addresses to dial; the connection's base URL decides on host, TLS and path.
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	s := newSubdirective("transport", d.NextSegment())
	if err := s.none(); err != nil {
		return err
	}
	t.HTTPTransport = new(reverseproxy.HTTPTransport)
	t.CustomUpstreams, t.HeaderUp, t.LoadBalancing = true, true, true // who knows what else stands in the reverse_proxy
	known := make(rules)
	bind(known, injectionOptions, &t.Injection)
	bind(known, options[Transport]{"connection": checkedText(func(t *Transport) *string { return &t.Connection }, validName)}, t)
	own, rest := s.split(known)
	if err := known.readAll("transport http_helper", own); err != nil {
		return err
	}
	return s.readWith(t.HTTPTransport, rest)
}

// UnmarshalCaddyfile sets up the upstream source from Caddyfile tokens. Syntax:
//
//	dynamic http_helper
func (*UpstreamSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	s := newSubdirective("dynamic", d.NextSegment())
	if len(s.block) > 0 {
		return s.errorf("has no options")
	}
	return s.none()
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*UpstreamSource)(nil)
)
