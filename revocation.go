package httphelper

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"
)

// revoke tells the authorization server that a token is not needed any more (RFC 7009). The client
// authenticates as it does for a token.
func (r *tokenRequest) revoke(ctx context.Context, client *http.Client, endpoint string, t *grantedToken) error {
	credentials, err := r.auth.credentials(r.tokenURL)
	if err != nil {
		return configurationError("proving the client: %v", err)
	}
	fields := url.Values{"token": {t.value}, "token_type_hint": {"access_token"}}
	addAll(fields, credentials.fields)
	if credentials.style == oauth2.AuthStyleInParams {
		fields.Set("client_id", r.clientID)
		if credentials.secret != "" {
			fields.Set("client_secret", credentials.secret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(fields.Encode()))
	if err != nil {
		return configurationError("revocation_url is not a URL")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if credentials.style == oauth2.AuthStyleInHeader {
		credentials.setBasic(req, r.clientID)
	}
	resp, err := client.Do(req)
	if err != nil {
		return networkFailure(ctx, "the revocation endpoint", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return outageError("the revocation endpoint answered with status %d", resp.StatusCode)
	}
	return nil
}
