package forward

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

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/redact"
)

const (
	pingTimeout = 10 * time.Second // of the API's response

	maxPingBody = 4 << 10  // bytes of the result
	maxPingRead = 64 << 10 // bytes that are read, so that no secret is cut in two before it is redacted
)

// PingRequest describes a small request to an API that proves a connection.
type PingRequest struct {
	Method, Path string
	Statuses     []int // statuses that prove the connection; empty: any 2xx

	Connection *Connection
	Options    *Options
	Target     *Target
	Dial       reverseproxy.DialInfo // what is dialed
	Token      *oauth.Token          // what is sent first

	RequestedScopes []string // the scopes that the connection requests
	MissingScopes   []string // those of them that the token lacks
	Secrets         []string // further secrets that the result must not contain
}

// PingResult is the result of a ping.
type PingResult struct {
	Working bool    // the connection is proved
	Message string  // what happened, for people
	Status  *int    // the status of the API's response; nil: no response
	Body    *string // the beginning of the response's body, without secrets; nil: no response
}

// FailedPing returns the result of a ping without a response.
func FailedPing(format string, args ...any) PingResult {
	return PingResult{Message: fmt.Sprintf(format, args...)}
}

// Ping makes a request in the same way as the app's requests.
func (t *Transport) Ping(ctx context.Context, p PingRequest) PingResult {
	ctx, cancel := context.WithTimeout(WithDialInfo(ctx, p.Dial), pingTimeout)
	defer cancel()
	req, err := p.request(ctx)
	if err != nil {
		return FailedPing("%v", err)
	}
	q := newRequest(p.Connection, req, p.Options)
	q.Target = p.Target
	if err := t.check(req, q); err != nil {
		return FailedPing("%v", err)
	}
	res, err := t.sendWithBody(req, q, p.Token)
	if err != nil {
		return FailedPing("%s", describePingFailure(ctx, err))
	}
	defer res.Body.Close()
	secrets := slices.Concat(p.Secrets, p.Target.possibleSecrets(), q.sentSecrets(), []string{res.Request.Header.Get(oauth.DPoPHeader)})
	return p.result(res, redact.New(secrets))
}

func (p *PingRequest) request(ctx context.Context) (*http.Request, error) {
	u, err := url.ParseRequestURI(p.Path)
	if err != nil {
		return nil, errors.New("ping: the path is not valid in a URL")
	}
	u.Host = p.Target.Base.Host
	if p.Dial.Network == "tcp" {
		u.Host = p.Dial.Address // as in reverse_proxy: forward proxies are chosen by it, and dial it
	}
	req, err := http.NewRequestWithContext(ctx, p.Method, "http://ping", nil)
	if err != nil {
		return nil, errors.New("ping: the method is not valid")
	}
	req.URL = u
	return req, nil
}

func describePingFailure(ctx context.Context, err error) string {
	if refused, ok := errors.AsType[*Error](transportError(err)); ok {
		return refused.Details
	}
	if neterror.DeadlinePassed(ctx) {
		return fmt.Sprintf("the API did not respond within %s", pingTimeout)
	}
	return unreachable(err)
}

// result returns what a response of the API means.
func (p *PingRequest) result(res *http.Response, redactor *redact.Redactor) PingResult {
	read, _ := io.ReadAll(io.LimitReader(res.Body, maxPingRead))
	body := strings.ToValidUTF8(redactor.Redact(string(read)), "\uFFFD")
	if len(body) > maxPingBody {
		body = strings.ToValidUTF8(body[:maxPingBody], "") // without half a character
	}
	return PingResult{
		Working: p.expects(res.StatusCode), Status: &res.StatusCode, Body: &body,
		Message: p.message(res, redactor),
	}
}

// expects reports whether a status proves the connection.
func (p *PingRequest) expects(status int) bool {
	if len(p.Statuses) == 0 {
		return status >= 200 && status <= 299
	}
	return slices.Contains(p.Statuses, status)
}

func (p *PingRequest) message(res *http.Response, redactor *redact.Redactor) string {
	status := fmt.Sprintf("%d %s", res.StatusCode, http.StatusText(res.StatusCode))
	switch {
	case p.expects(res.StatusCode):
		return "the API responded with " + status + ", as expected"
	case res.StatusCode == http.StatusForbidden, oauth.InsufficientScope(res.Header):
		return "the API refuses the request (" + status + ")" + p.lackingScopes(res, redactor)
	case res.StatusCode == http.StatusUnauthorized:
		return "the API rejects the token (" + status + "): check token_url, scopes and audience, and that base_url belongs to them"
	case res.StatusCode >= 300 && res.StatusCode <= 399:
		return "the API redirects (" + status + "), which is not followed: check base_url and the ping's path"
	default:
		return "the API responded with " + status + " instead of " + p.expected()
	}
}

func (p *PingRequest) expected() string {
	if len(p.Statuses) == 0 {
		return "a status from 200 to 299"
	}
	return strings.Trim(fmt.Sprint(p.Statuses), "[]")
}

// lackingScopes says which scopes the token lacks and why, as far as the API or the authorization server
// tells.
func (p *PingRequest) lackingScopes(res *http.Response, redactor *redact.Redactor) string {
	if wanted := wantedScopes(res.Header, redactor); len(wanted) > 0 {
		return ": it wants the scope " + strings.Join(wanted, " ") + p.whyLacking(wanted)
	}
	if len(p.MissingScopes) > 0 {
		return ": the token lacks the scope " + strings.Join(p.MissingScopes, " ") + ", which the token endpoint did not grant"
	}
	return ": the client may lack a permission or a scope"
}

// whyLacking says why the token lacks scopes that the API requires.
func (p *PingRequest) whyLacking(wanted []string) string {
	var notRequested, notGranted []string
	for _, scope := range wanted {
		switch {
		case !slices.Contains(p.RequestedScopes, scope):
			notRequested = append(notRequested, scope)
		case slices.Contains(p.MissingScopes, scope):
			notGranted = append(notGranted, scope)
		}
	}
	why := ""
	if len(notRequested) > 0 {
		why += "; the connection does not request " + strings.Join(notRequested, " ")
	}
	if len(notGranted) > 0 {
		why += "; the token endpoint did not grant " + strings.Join(notGranted, " ")
	}
	return why
}

// wantedScopes returns the scopes in challenges with the error insufficient_scope (RFC 6750 §3.1), except
// what cannot be a scope or contains a secret.
func wantedScopes(header http.Header, redactor *redact.Redactor) []string {
	var scopes []string
	for _, challenge := range oauth.ParseChallenges(header.Values("WWW-Authenticate")) {
		if challenge.Params["error"] != "insufficient_scope" {
			continue
		}
		for scope := range strings.FieldsSeq(challenge.Params["scope"]) {
			if oauth.IsScope(scope) && len(scope) <= oauth.MaxErrorCode && redactor.Redact(scope) == scope {
				scopes = append(scopes, scope)
			}
		}
	}
	return scopes
}
