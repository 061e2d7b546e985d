package token

import (
	"context"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// Fetcher makes one token request, without retries. Implementations live as long as the
// config that made them, a token source lives longer.
type Fetcher interface {
	// Fetch makes one token request with the credentials as they are now, and returns their
	// fingerprint, also with an error. That is a *oauth.Error, or ctx's.
	Fetch(ctx context.Context) (token *oauth.Token, fingerprint string, err error)

	// Fingerprint is a digest of the credentials as they are now.
	Fingerprint() string
}
