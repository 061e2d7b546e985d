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

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

const (
	pingTimeout = 10 * time.Second // of the API's response

	maxPingBody = 4 << 10  // bytes that are shown
	maxPingRead = 64 << 10 // bytes that are read, so that no secret is cut in two
)

// pingRequest is a small request to an API that proves a connection.
type pingRequest struct {
	method, path string
	statuses     []int // that prove the connection; nil: any 2xx

	connection *forwardConnection
	options    *forwardOptions
	target     *apiTarget
	dial       reverseproxy.DialInfo
	token      *grantedToken

	requestedScopes, missingScopes []string
	secrets                        []string // that must not be shown
}

// pingResult is what a ping has found out.
type pingResult struct {
	working bool
	message string
	status  *int    // of the API; nil: no response
	body    *string // of the API, without secrets
}

// failedPing is the result of a ping without a response.
func failedPing(format string, args ...any) pingResult {
	return pingResult{message: fmt.Sprintf(format, args...)}
}

// ping makes a request as those of the app are made.
func (t *forwardTransport) ping(ctx context.Context, p pingRequest) pingResult {
	ctx, cancel := context.WithTimeout(withDialInfo(ctx, p.dial), pingTimeout)
	defer cancel()
	q := &forwardRequest{Context: ctx, conn: p.connection, options: p.options, target: p.target}
	req, err := p.request(ctx)
	if err != nil {
		return failedPing("%v", err)
	}
	if err := t.check(req, q); err != nil {
		return failedPing("%v", err)
	}
	req, cause := traceDial(req)
	res, err := t.sendWithRetry(req, q, p.token)
	if err != nil {
		return failedPing("%s", describePingFailure(ctx, cause.of(err)))
	}
	defer res.Body.Close()
	secrets := slices.Concat(p.secrets, p.target.keys(), []string{p.token.value, res.Request.Header.Get(dpopHeader)})
	return p.result(res, newRedactor(secrets))
}

func (p *pingRequest) request(ctx context.Context) (*http.Request, error) {
	u, err := url.ParseRequestURI(p.path)
	if err != nil {
		return nil, errors.New("ping: the path is not valid in a URL")
	}
	u.Host = p.target.base.Host
	if p.dial.Network == "tcp" {
		u.Host = p.dial.Address // as reverse_proxy has it: forward proxies are chosen by that, and dial it
	}
	req, err := http.NewRequestWithContext(ctx, p.method, "http://ping", nil)
	if err != nil {
		return nil, errors.New("ping: the method is not valid")
	}
	req.URL = u
	return req, nil
}

func describePingFailure(ctx context.Context, err error) string {
	if refused, ok := errors.AsType[*forwardError](transportError(err)); ok {
		return refused.details
	}
	if deadlinePassed(ctx) {
		return fmt.Sprintf("the API did not respond within %s", pingTimeout)
	}
	return "the API cannot be reached: " + describeNetworkError(err)
}

// result says what a response of the API means.
func (p *pingRequest) result(res *http.Response, redactor *redactor) pingResult {
	read, _ := io.ReadAll(io.LimitReader(res.Body, maxPingRead))
	body := strings.ToValidUTF8(redactor.redact(string(read)), "\uFFFD")
	if len(body) > maxPingBody {
		body = strings.ToValidUTF8(body[:maxPingBody], "") // without a piece of a character
	}
	return pingResult{
		working: p.expects(res.StatusCode), status: &res.StatusCode, body: &body,
		message: p.message(res, redactor),
	}
}

// expects reports whether a status proves the connection.
func (p *pingRequest) expects(status int) bool {
	if len(p.statuses) == 0 {
		return status >= 200 && status <= 299
	}
	return slices.Contains(p.statuses, status)
}

func (p *pingRequest) message(res *http.Response, redactor *redactor) string {
	status := fmt.Sprintf("%d %s", res.StatusCode, http.StatusText(res.StatusCode))
	switch {
	case p.expects(res.StatusCode):
		return "the API responded with " + status + ", as expected"
	case res.StatusCode == http.StatusForbidden, insufficientScope(res.Header):
		return "the API refuses the request (" + status + ")" + p.lackingScopes(res, redactor)
	case res.StatusCode == http.StatusUnauthorized:
		return "the API rejects the token (" + status + "): check token_url, scopes and audience, and that base_url belongs to them"
	case res.StatusCode >= 300 && res.StatusCode <= 399:
		return "the API redirects (" + status + "), which is not followed: check base_url and the ping's path"
	default:
		return "the API responded with " + status + " instead of " + p.expected()
	}
}

func (p *pingRequest) expected() string {
	if len(p.statuses) == 0 {
		return "a status from 200 to 299"
	}
	return strings.Trim(fmt.Sprint(p.statuses), "[]")
}

// lackingScopes says which scopes the token lacks and why, as far as the API or the authorization
// server has said so.
func (p *pingRequest) lackingScopes(res *http.Response, redactor *redactor) string {
	if wanted := wantedScopes(res.Header, redactor); len(wanted) > 0 {
		return ": it wants the scope " + strings.Join(wanted, " ") + p.whyLacking(wanted)
	}
	if len(p.missingScopes) > 0 {
		return ": the token lacks the scope " + strings.Join(p.missingScopes, " ") + ", which the token endpoint did not grant"
	}
	return ": the client may lack a permission or a scope"
}

// whyLacking says why the token does not have scopes that an API wants.
func (p *pingRequest) whyLacking(wanted []string) string {
	var notRequested, notGranted []string
	for _, scope := range wanted {
		switch {
		case !slices.Contains(p.requestedScopes, scope):
			notRequested = append(notRequested, scope)
		case slices.Contains(p.missingScopes, scope):
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
