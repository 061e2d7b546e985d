package oauth

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/oauth2"
)

// Revoke tells the authorization server that a token is no longer needed (RFC 7009). The client is
// proved as in a token request.
func (r *Request) Revoke(ctx context.Context, client *http.Client, endpoint string, t *Token) error {
	params, err := r.Auth(r.TokenURL)
	if err != nil {
		return ConfigurationErrorf("proving the client: %v", err)
	}
	fields := url.Values{"token": {t.Value}, "token_type_hint": {"access_token"}}
	addAll(fields, params.fields)
	if params.Style == oauth2.AuthStyleInParams {
		fields.Set("client_id", r.ClientID)
		if params.Secret != "" {
			fields.Set("client_secret", params.Secret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(fields.Encode()))
	if err != nil {
		return ConfigurationErrorf("revocation_url is not a URL")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if params.Style == oauth2.AuthStyleInHeader {
		params.setBasic(req, r.ClientID)
	}
	resp, err := client.Do(req)
	if err != nil {
		return networkFailure(ctx, "the revocation endpoint", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return OutageErrorf("the revocation endpoint responded with status %d", resp.StatusCode)
	}
	return nil
}
