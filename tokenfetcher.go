package httphelper

import "context"

// tokenFetcher makes one token request, without retries. Implementations live as long as the
// config that made them, a token source lives longer.
type tokenFetcher interface {
	// fetch makes one token request with the credentials as they are now, and returns their
	// fingerprint, also with an error. That is a *tokenError, or ctx's.
	fetch(ctx context.Context) (token *grantedToken, fingerprint string, err error)

	// fingerprint is a digest of the credentials as they are now.
	fingerprint() string
}
