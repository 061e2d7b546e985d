package httphelper

import (
	"cmp"
	"context"
	"net/http"
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
	return pingView{Working: p.working, Response: responseView{StatusCode: p.status, Message: p.message, Body: p.body}}, nil
}

// ping makes the request that proves the connection, as the app's requests are made. Without such a
// request a token is proof enough.
func (c *activeConnection) ping(ctx context.Context) pingResult {
	token, err := c.tokens.source.Token(ctx)
	if err != nil {
		return failedPing("there is no token: %v", asTokenError(err))
	}
	ping := c.service.Ping
	if ping == nil {
		return pingResult{working: true, message: "a token was obtained; no request was made to the API, because no ping is configured"}
	}
	target, err := c.forward.place(ctx)
	if err != nil {
		return failedPing("what requests to the API are made of is not known: %v", asTokenError(err))
	}
	return c.pingTransport.ping(ctx, pingRequest{
		method: cmp.Or(ping.Method, http.MethodGet), path: ping.Path, statuses: ping.Statuses,
		connection: &c.forward, options: c.pingOptions, target: target, dial: c.dialInfo(target), token: token,
		requestedScopes: c.values.spec.requestedScopes, missingScopes: c.tokens.source.status().missing,
		secrets: c.values.knownSecrets(),
	})
}
