package httphelper

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/adminapi"
	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
	"github.com/caddy-httphelper/caddy-httphelper/internal/subdirective"
)

// Values of app_authorization, on_unauthorized and on_rate_limit.
const (
	authorizationReplace = "replace"
	authorizationKeep    = "keep"
	authorizationReject  = "reject"

	unauthorizedRetry = "retry"
	unauthorizedPass  = "pass"

	rateLimitPass  = "pass"
	rateLimitRetry = "retry"
)

// RequestPolicy says which requests are admitted, which header carries the token, and what follows when
// the API rejects it. The handler and the transport have the same options; in a route made by the
// directive `http_helper`, those of the handler apply.
type RequestPolicy struct {
	// The header that carries the token. Default: `Authorization` with the prefix `Bearer` (RFC 6750
	// §2.1), or with `DPoP` for a connection with `dpop` (RFC 9449 §7.1).
	AccessTokenHeader *TokenHeader `json:"access_token_header,omitempty"`

	// What happens with an `Authorization` of the app: `replace` it, `keep` it and send no token, or
	// `reject` the request with 400. Default: `replace`.
	AppAuthorization string `json:"app_authorization,omitempty"`

	// What happens when the API responds with 401: `retry` the request once with a newer token, or
	// `pass` the response to the app. Default: `retry`.
	OnUnauthorized string `json:"on_unauthorized,omitempty"`

	// What happens when the API responds with 429, or with 503 and a `Retry-After` that can be read: `retry`
	// a request whose method is GET, HEAD, OPTIONS, PUT or DELETE at most three times, or `pass` the response
	// to the app. The request waits for what `Retry-After` says (seconds or a date, RFC 9110 §10.2.3) and a
	// random part of up to three times of it, or about 1s, 2s and 4s if it says nothing. Default: `pass`.
	OnRateLimit string `json:"on_rate_limit,omitempty"`

	// The longest time that a request waits in all to be retried, at most 5m. The app gets a response
	// that would have to be waited for longer. Only with `on_rate_limit` `retry`. Default: 10s.
	RateLimitWait caddy.Duration `json:"rate_limit_wait,omitempty"`

	// The most bytes of a request's body that are kept for the retry. A request with a larger body is
	// not retried. Default: 65536.
	ReplayBuffer *int64 `json:"replay_buffer,omitempty"`

	CallerPolicy

	options forward.Options
}

// TokenHeader is the header that carries the token.
type TokenHeader struct {
	// The name of the header. Required.
	Field string `json:"field"`

	// The text before the token, followed by a space. Default: none.
	Prefix string `json:"prefix,omitempty"`
}

func (p *RequestPolicy) provision() error {
	errs := []error{
		setDefault(&p.AppAuthorization, "app_authorization", authorizationReplace, authorizationKeep, authorizationReject),
		setDefault(&p.OnUnauthorized, "on_unauthorized", unauthorizedRetry, unauthorizedPass),
		setDefault(&p.OnRateLimit, "on_rate_limit", rateLimitPass, rateLimitRetry),
		p.provisionRateLimitWait(),
	}
	p.options = forward.Options{
		Field:             p.tokenField(),
		KeepAuthorization: p.AppAuthorization == authorizationKeep,
		RetryUnauthorized: p.OnUnauthorized == unauthorizedRetry,
		RateLimitWait:     time.Duration(p.RateLimitWait),
	}
	if h := p.AccessTokenHeader; h != nil { // without it, the prefix depends on the token
		errs = append(errs, prefixAll("access_token_header", h.check()))
		prefix := h.Prefix
		if prefix != "" {
			prefix += " "
		}
		p.options.Prefix = &prefix
	}
	if p.ReplayBuffer == nil {
		size := int64(forward.DefaultReplayBuffer)
		p.ReplayBuffer = &size
	} else if *p.ReplayBuffer < 0 {
		errs = append(errs, errors.New("replay_buffer must not be negative"))
	}
	p.options.ReplayBuffer = *p.ReplayBuffer
	errs = append(errs, p.CallerPolicy.provision())
	return errors.Join(errs...)
}

const (
	defaultRateLimitWait = caddy.Duration(10 * time.Second)
	maxRateLimitWait     = caddy.Duration(5 * time.Minute)
)

// provisionRateLimitWait checks rate_limit_wait, and gives it its default if requests are retried.
func (p *RequestPolicy) provisionRateLimitWait() error {
	switch {
	case p.RateLimitWait < 0:
		return errors.New("rate_limit_wait must not be negative")
	case p.OnRateLimit == rateLimitRetry:
		p.RateLimitWait = cmp.Or(p.RateLimitWait, defaultRateLimitWait)
		return prefixAll("rate_limit_wait", checkRateLimitWait(p.RateLimitWait))
	case p.RateLimitWait > 0:
		return errors.New("rate_limit_wait needs on_rate_limit retry")
	default:
		return nil
	}
}

func checkRateLimitWait(wait caddy.Duration) error {
	if wait > maxRateLimitWait {
		return errors.New("must be at most 5m")
	}
	return nil
}

// tokenField returns the name of the header that carries the token.
func (p *RequestPolicy) tokenField() string {
	if p.AccessTokenHeader == nil {
		return "Authorization"
	}
	return http.CanonicalHeaderKey(p.AccessTokenHeader.Field)
}

// setDefault gives an empty option the first of the allowed values, and checks that another has one of
// them.
func setDefault(value *string, option string, allowed ...string) error {
	if *value == "" {
		*value = allowed[0]
	}
	return prefixAll(option, subdirective.OneOf(allowed...)(*value))
}

func (h *TokenHeader) check() error {
	if !httpguts.ValidHeaderFieldName(h.Field) {
		return errors.New("the field is not a header field name")
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

// check checks everything about a request that does not depend on its connection (rules 17, 20, 21 and 35).
func (p *RequestPolicy) check(r *http.Request, c caller) *forward.Error {
	if refused := p.checkPeer(c); refused != nil {
		return refused
	}
	if forward.RefusesMethod(r.Method) { // first, because what CONNECT names is not the sidecar
		return &forward.Error{Status: http.StatusMethodNotAllowed, Type: "http_request_error", Details: "the methods TRACE and CONNECT are not forwarded"}
	}
	if refused := p.checkCaller(r.Context(), c); refused != nil {
		return refused
	}
	if p.AppAuthorization == authorizationReject && len(r.Header["Authorization"]) > 0 {
		return forward.BadRequest("the request has an Authorization of its own: see app_authorization")
	}
	if slices.ContainsFunc(r.Header["Upgrade"], hasUnprintable) {
		return forward.BadRequest("the request's Upgrade is not printable ASCII")
	}
	if r.URL.Opaque != "" {
		return forward.BadRequest("the request's target is not a path")
	}
	if err := httpguard.CheckPath(r.URL); err != nil {
		return forward.BadRequest("the request's path is refused: " + err.Error())
	}
	return nil
}

func hasUnprintable(value string) bool {
	return strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' })
}

// policyOptions are the subdirectives that the directive and the transport share.
var policyOptions = subdirective.Options[RequestPolicy]{
	"access_token_header": {Read: accessTokenHeader},
	"app_authorization":   subdirective.CheckedString(func(p *RequestPolicy) *string { return &p.AppAuthorization }, subdirective.OneOf(authorizationReplace, authorizationKeep, authorizationReject)),
	"on_unauthorized":     subdirective.CheckedString(func(p *RequestPolicy) *string { return &p.OnUnauthorized }, subdirective.OneOf(unauthorizedRetry, unauthorizedPass)),
	"on_rate_limit":       {Read: onRateLimit},
	"replay_buffer":       {Read: replayBuffer},
	"allow_clients":       {Read: allowClients},
	"allow_hosts":         {Read: allowHosts},
	"caller_token_file":   subdirective.CheckedString(func(p *RequestPolicy) *string { return &p.CallerTokenFile }, placeholders()),
}

func accessTokenHeader(s *subdirective.Subdirective, p *RequestPolicy) error {
	if len(s.Args) < 1 || len(s.Args) > 2 {
		return s.Errorf("takes a header field and, if any, a prefix")
	}
	p.AccessTokenHeader = &TokenHeader{Field: s.Args[0], Prefix: strings.Join(s.Args[1:], "")}
	if err := p.AccessTokenHeader.check(); err != nil {
		return s.Wrap(err)
	}
	return nil
}

func onRateLimit(s *subdirective.Subdirective, p *RequestPolicy) error {
	if len(s.Args) < 1 || len(s.Args) > 2 {
		return s.Errorf("takes pass, or retry and, if any, the longest wait")
	}
	p.OnRateLimit = s.Args[0]
	if err := subdirective.OneOf(rateLimitPass, rateLimitRetry)(p.OnRateLimit); err != nil {
		return s.Wrap(err)
	}
	if len(s.Args) == 1 {
		return nil
	}
	if p.OnRateLimit == rateLimitPass {
		return s.Errorf("pass waits for nothing: only retry takes a wait")
	}
	wait, err := caddy.ParseDuration(s.Args[1])
	if err != nil || wait <= 0 {
		return s.Errorf("the wait must be a duration above zero, such as 10s")
	}
	p.RateLimitWait = caddy.Duration(wait)
	if err := checkRateLimitWait(p.RateLimitWait); err != nil {
		return s.Errorf("the wait %v", err)
	}
	return nil
}

func replayBuffer(s *subdirective.Subdirective, p *RequestPolicy) error {
	value, err := s.OneArg()
	if err != nil {
		return err
	}
	bytes, err := humanize.ParseBytes(value)
	if err != nil || bytes > math.MaxInt64 {
		return s.Errorf("must be a size, such as 64KiB or 0")
	}
	size := int64(bytes)
	p.ReplayBuffer = &size
	return nil
}

// Allow permits requests with one of its methods and one of its paths.
type Allow struct {
	// The methods, in capital letters; not `TRACE` and `CONNECT`. `HEAD` is not part of `GET`. Default:
	// any method.
	Methods []string `json:"method,omitempty"`

	// The paths below the base URL, each beginning with a slash. One that ends in `*` matches all that
	// begin with what is before it. They are compared with letters in the same case and percent-escapes
	// decoded, except `%2F` and `%25`; nothing else is normalized, and queries are not looked at.
	// Placeholders, a `*` elsewhere, dot segments, backslashes, `?` and `#` are errors. Default: any path.
	Paths []string `json:"path,omitempty"`
}

// parseAllow parses the rules of a connector or connection with a service. The error names the options.
func (s *Service) parseAllow(rules []Allow) (httpguard.AllowList, error) {
	if rules == nil {
		return nil, nil
	}
	if len(rules) == 0 {
		return nil, errors.New("allow: the list is empty; leave it out to permit all requests, or say which ones")
	}
	list := make(httpguard.AllowList, len(rules))
	errs := make([]error, len(rules))
	for i, rule := range rules {
		list[i], errs[i] = rule.parse()
		if len(rules) > 1 {
			errs[i] = prefixAll(fmt.Sprintf("rule %d", i+1), errs[i])
		}
	}
	errs = []error{prefixAll("allow", errs...)}
	for _, f := range s.APIHeaders {
		if httpguard.OverridesRequest(http.CanonicalHeaderKey(f.Name)) {
			errs = append(errs, fmt.Errorf("api_header %s: some servers take a request with it for another, so that allow would mean nothing", f.Name))
		}
	}
	return list, errors.Join(errs...)
}

func (a Allow) parse() (httpguard.AllowRule, error) {
	if a.Methods != nil && len(a.Methods) == 0 || a.Paths != nil && len(a.Paths) == 0 {
		return httpguard.AllowRule{}, errors.New("a list of methods or paths is empty; leave it out to permit any")
	}
	return httpguard.ParseAllow(a.Methods, a.Paths)
}

// checkPing checks that rules permit the ping that stands beside them.
func (s *Service) checkPing(rules httpguard.AllowList) error {
	if s.Ping == nil || s.Ping.check() != nil {
		return nil // it is reported already
	}
	u, err := url.ParseRequestURI(s.Ping.Path)
	if err != nil || rules.Permits(cmp.Or(s.Ping.Method, http.MethodGet), httpguard.ComparablePath(u)) {
		return nil
	}
	return errors.New("ping: its method and path are not in allow beside it: add them to allow, or choose another ping")
}

// limits returns what the app may use the connection for, or nil if there is no limit.
func (c *activeConnection) limits() *forward.Limits {
	l := &forward.Limits{Connection: c.allowList, Logger: c.logger}
	if c.connector != nil {
		l.Connector = c.connector.allowList
	}
	if l.Connector == nil && l.Connection == nil {
		return nil
	}
	return l
}

// allowView returns rules as the admin API shows them.
func allowView(rules []Allow) []adminapi.Allow {
	views := make([]adminapi.Allow, len(rules))
	for i, rule := range rules {
		views[i] = adminapi.Allow(rule)
	}
	return views
}

// allow returns the option that adds a rule.
func allow[T any](rules func(*T) *[]Allow) subdirective.Option[T] {
	return subdirective.Option[T]{Repeatable: true, Read: func(s *subdirective.Subdirective, target *T) error {
		methods, paths, err := httpguard.SplitAllow(s.Args)
		if err == nil {
			_, err = httpguard.ParseAllow(methods, paths)
		}
		if err != nil {
			return s.Wrap(err)
		}
		*rules(target) = append(*rules(target), Allow{Methods: methods, Paths: paths})
		return nil
	}}
}
