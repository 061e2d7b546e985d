package httphelper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

const (
	pingTimeout = 10 * time.Second // of the API's answer

	maxPingBody = 4 << 10  // bytes that are shown
	maxPingRead = 64 << 10 // bytes that are read, so that no secret is cut in two
)

// pingView is what a ping has found out. Without an answer of the API, its status and body are null.
type pingView struct {
	Working  bool         `json:"working"`
	Response responseView `json:"service_response"`
}

type responseView struct {
	StatusCode *int    `json:"status_code"`
	Message    string  `json:"message"`
	Body       *string `json:"response_body"`
}

func pingConnection(_ http.ResponseWriter, r *http.Request) (any, error) {
	conn, err := named(r)
	if err != nil {
		return nil, err
	}
	return conn.ping(r.Context()), nil
}

func notWorking(format string, args ...any) pingView {
	return pingView{Response: responseView{Message: fmt.Sprintf(format, args...)}}
}

// ping makes the request that proves the connection, in the way that the app's requests go. Without
// such a request a token is proof enough.
func (c *activeConnection) ping(ctx context.Context) pingView {
	token, err := c.source.Token(ctx)
	if err != nil {
		return notWorking("there is no token: %v", asTokenError(err))
	}
	if c.service.Ping == nil {
		v := notWorking("a token was obtained; the API was not asked, because no ping is configured")
		v.Working = true
		return v
	}
	target, err := c.target(ctx)
	if err != nil {
		return notWorking("what requests to the API are made of is not known: %v", asTokenError(err))
	}
	ctx, cancel := context.WithTimeout(c.dialing(ctx, target), pingTimeout)
	defer cancel()
	g := &grant{Context: ctx, conn: c, injection: c.injection, target: target}
	req, err := c.service.Ping.request(ctx, target)
	if err != nil {
		return notWorking("%v", err)
	}
	if refused := c.way.refuses(req, g); refused != nil {
		return notWorking("%s", refused.details)
	}
	req, cause := traceDial(req)
	res, err := c.way.exchange(req, g, token)
	if err != nil {
		return notWorking("%s", describePingFailure(ctx, cause.of(err)))
	}
	defer res.Body.Close()
	secrets := slices.Concat(c.knownSecrets(), target.keys(), []string{token.value, res.Request.Header.Get(dpopHeader)})
	return c.judgePing(res, newRedactor(secrets))
}

// request is the ping as an app would send it to the sidecar.
func (p *Ping) request(ctx context.Context, target *apiTarget) (*http.Request, error) {
	u, err := url.ParseRequestURI(p.Path)
	if err != nil {
		return nil, errors.New("ping: the path is not valid in a URL")
	}
	u.Host = target.base.Host
	if dial, ok := reverseproxy.GetDialInfo(ctx); ok && dial.Network == "tcp" {
		u.Host = dial.Address // as reverse_proxy has it: forward proxies are chosen by that, and asked for it
	}
	req, err := http.NewRequestWithContext(ctx, orDefault(p.Method, http.MethodGet), "http://ping", nil)
	if err != nil {
		return nil, errors.New("ping: the method is not valid")
	}
	req.URL = u
	return req, nil
}

func describePingFailure(ctx context.Context, err error) string {
	var refused *refusalError
	switch {
	case errors.As(err, &refused):
		return refused.details
	case deadlinePassed(ctx):
		return fmt.Sprintf("the API did not answer within %s", pingTimeout)
	default:
		return "the API cannot be reached: " + describeNetworkError(err)
	}
}

// judgePing says what an answer of the API means.
func (c *activeConnection) judgePing(res *http.Response, redactor *redactor) pingView {
	read, _ := io.ReadAll(io.LimitReader(res.Body, maxPingRead))
	body := strings.ToValidUTF8(redactor.redact(string(read)), "\uFFFD")
	if len(body) > maxPingBody {
		body = strings.ToValidUTF8(body[:maxPingBody], "") // without a piece of a character
	}
	v := pingView{
		Working:  c.service.Ping.expects(res.StatusCode),
		Response: responseView{StatusCode: &res.StatusCode, Body: &body},
	}
	v.Response.Message = c.pingMessage(res, redactor)
	return v
}

// expects tells whether a status proves the connection.
func (p *Ping) expects(status int) bool {
	if len(p.Statuses) == 0 {
		return status >= 200 && status <= 299
	}
	return slices.Contains(p.Statuses, status)
}

func (c *activeConnection) pingMessage(res *http.Response, redactor *redactor) string {
	status := fmt.Sprintf("%d %s", res.StatusCode, http.StatusText(res.StatusCode))
	switch {
	case c.service.Ping.expects(res.StatusCode):
		return "the API answered " + status + ", as it should"
	case res.StatusCode == http.StatusForbidden, insufficientScope(res.Header):
		return "the API refuses the request (" + status + ")" + c.lackingScopes(res, redactor)
	case res.StatusCode == http.StatusUnauthorized:
		return "the API rejects the token (" + status + "): check token_url, scopes and audience, and that base_url belongs to them"
	case res.StatusCode >= 300 && res.StatusCode <= 399:
		return "the API redirects (" + status + "), which is not followed: check base_url and the ping's path"
	default:
		return "the API answered " + status + " instead of " + c.service.Ping.expected()
	}
}

func (p *Ping) expected() string {
	if len(p.Statuses) == 0 {
		return "a status from 200 to 299"
	}
	return strings.Trim(fmt.Sprint(p.Statuses), "[]")
}

// lackingScopes says which scopes the token lacks and why, as far as the API or the authorization
// server has said so.
func (c *activeConnection) lackingScopes(res *http.Response, redactor *redactor) string {
	missing := c.source.status().missing
	if wanted := wantedScopes(res.Header, redactor); len(wanted) > 0 {
		return ": it wants the scope " + strings.Join(wanted, " ") + c.whyLacking(wanted, missing)
	}
	if len(missing) > 0 {
		return ": the token lacks the scope " + strings.Join(missing, " ") + ", which the token endpoint did not grant"
	}
	return ": the client may lack a permission or a scope"
}

// whyLacking says why the token has not got scopes that an API wants.
func (c *activeConnection) whyLacking(wanted, missing []string) string {
	var unasked, ungranted []string
	for _, scope := range wanted {
		switch {
		case !slices.Contains(c.requested, scope):
			unasked = append(unasked, scope)
		case slices.Contains(missing, scope):
			ungranted = append(ungranted, scope)
		}
	}
	why := ""
	if len(unasked) > 0 {
		why += "; the connection does not ask for " + strings.Join(unasked, " ")
	}
	if len(ungranted) > 0 {
		why += "; the token endpoint did not grant " + strings.Join(ungranted, " ")
	}
	return why
}

// wantedScopes are those in a challenge that says insufficient_scope (RFC 6750 §3.1), if they can
// be scopes and give no secret away.
func wantedScopes(header http.Header, redactor *redactor) []string {
	var scopes []string
	for _, challenge := range parseChallenges(header.Values("WWW-Authenticate")) {
		if challenge.params["error"] != "insufficient_scope" {
			continue
		}
		for scope := range strings.FieldsSeq(challenge.params["scope"]) {
			if isScope(scope) && len(scope) <= maxErrorCode && redactor.redact(scope) == scope {
				scopes = append(scopes, scope)
			}
		}
	}
	return scopes
}

// provideWay gives a connection that no transport uses a way of its own for pings.
func (c *activeConnection) provideWay(ctx caddy.Context) error {
	if c.injection == nil {
		c.injection = new(Injection)
		if err := c.injection.provision(); err != nil {
			return err
		}
	}
	if c.way != nil {
		return nil
	}
	way, err := newRoute(ctx, []byte("{}"), c, false)
	c.way, c.ownWay = way, way
	return err
}
