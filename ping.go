package httphelper

import (
	"cmp"
	"context"
	"net/http"

	"github.com/caddy-httphelper/caddy-httphelper/internal/forward"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// pingView is what a ping has found out. Without a response of the API, its status and body are null.
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
	p := conn.ping(r.Context())
	return pingView{Working: p.Working, Response: responseView{StatusCode: p.Status, Message: p.Message, Body: p.Body}}, nil
}

// ping makes the request that proves the connection, as the app's requests are made. Without such a
// request a token is proof enough.
func (c *activeConnection) ping(ctx context.Context) forward.PingResult {
	token, err := c.tokens.source.Token(ctx)
	if err != nil {
		return forward.FailedPing("there is no token: %v", oauth.AsError(err))
	}
	ping := c.service.Ping
	if ping == nil {
		return forward.PingResult{Working: true, Message: "a token was obtained; no request was made to the API, because no ping is configured"}
	}
	target, err := c.forward.Target(ctx)
	if err != nil {
		return forward.FailedPing("what requests to the API are made of is not known: %v", oauth.AsError(err))
	}
	return c.pingTransport.Ping(ctx, forward.PingRequest{
		Method: cmp.Or(ping.Method, http.MethodGet), Path: ping.Path, Statuses: ping.Statuses,
		Connection: &c.forward, Options: c.pingOptions, Target: target, Dial: c.dialInfo(target), Token: token,
		RequestedScopes: c.values.Spec.RequestedScopes, MissingScopes: c.tokens.source.Status().Missing,
		Secrets: c.values.KnownSecrets(),
	})
}
