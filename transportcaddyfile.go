package httphelper

import (
	"math"

	"github.com/dustin/go-humanize"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

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
	s := subdirective.Parse("transport", d.NextSegment())
	if err := s.NoArgs(); err != nil {
		return err
	}
	t.HTTPTransport = new(reverseproxy.HTTPTransport)
	t.CustomUpstreams, t.HeaderUp, t.LoadBalancing = true, true, true // who knows what else stands in the reverse_proxy
	known := make(subdirective.Rules)
	subdirective.Bind(known, policyOptions, &t.RequestPolicy)
	subdirective.Bind(known, subdirective.Options[Transport]{"connection": subdirective.CheckedString(func(t *Transport) *string { return &t.Connection }, validName)}, t)
	own, rest := s.Split(known)
	if err := known.ReadAll("transport http_helper", own); err != nil {
		return err
	}
	return s.Unmarshal(t.HTTPTransport, rest)
}

// UnmarshalCaddyfile sets up the upstream source from Caddyfile tokens. Syntax:
//
//	dynamic http_helper
func (*UpstreamSource) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	s := subdirective.Parse("dynamic", d.NextSegment())
	if len(s.Block) > 0 {
		return s.Errorf("has no options")
	}
	return s.NoArgs()
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*UpstreamSource)(nil)
)
