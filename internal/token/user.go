package token

import (
	"cmp"
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// User is one connection of one config that uses a source. Its fields are set before it is attached.
type User struct {
	Name          string        // of the connection, for logs
	Host          string        // of the token endpoint
	Fetcher       Fetcher       // makes the token requests
	Shared        Shared        // where the tokens are shared with other replicas; nil: nowhere
	RefreshBefore time.Duration // how long before its expiry a token is replaced; 0: default
	Timeout       time.Duration // of one attempt to get a token (token_timeout); 0: DefaultTimeout
	Warm          bool          // keep a token ready without requests
	Logger        *zap.Logger   // may be nil
	Observer      Observer      // may be nil

	started, released bool // guarded by the source's mu
}

func (u *User) log() *zap.Logger {
	return cmp.Or(u.Logger, zap.NewNop())
}

// Fetcher prepares token requests. It belongs to one config; a source may outlive that, so it takes the
// fetcher of a user each time.
type Fetcher interface {
	// Prepare resolves the values of a token request as they are now, in one pass that reads each file
	// once. It returns their fingerprint even with an error, which is an *oauth.Error or ctx's.
	Prepare(ctx context.Context) (p Prepared, fingerprint string, err error)

	// Fingerprint returns a digest of the current credentials.
	Fingerprint() string
}

// Prepared is a token request that can be made. It is an alias, so that the fetcher in tokentest, which this package's tests use, can return one without an import cycle.
type Prepared = interface {
	// Fetch makes the token request once. The error is an *oauth.Error or ctx's.
	Fetch(ctx context.Context) (*oauth.Token, error)

	// Identity returns everything that shapes the token request, by value, secrets included. Requests of
	// different processes with the same identity may share a token. It returns nil for one that must not
	// be shared.
	Identity() []byte

	// Bind completes a token that another replica has obtained by an equal request: with the certificate
	// and the DPoP key that it is bound to, and the secrets to mask.
	Bind(t *oauth.Token)
}

// Observer learns what happens to the tokens of a source.
type Observer interface {
	// Endpoint returns the token endpoint as logs may show it.
	Endpoint() string

	// Observe is called after each token request, rejection and adoption. Requests wait for it.
	Observe(event Event)

	// Removed is called in its own goroutine with the last usable token when the source goes away with
	// this user, if the user was started. It is not called with a token that other replicas may use.
	Removed(last *oauth.Token)
}

// Event is a token request, a rejection, or a token that was adopted from the storage without a token
// request. It contains no token.
type Event struct {
	At       time.Time     // when it happened; a rejection may be told of after the token that follows it
	Rejected bool          // an API has rejected the token; the fields below are unset, but an observer may set Status
	Adopted  bool          // a token was adopted; besides, only Expires is set
	Err      *oauth.Error  // nil: a token was granted
	Duration time.Duration // of the token request
	Expires  time.Time     // of the token that was granted or adopted
	Status   int           // of the token endpoint's response; 0: there was none
}

// notify passes an event to every connection that uses the source.
func (s *Source) notify(event Event) {
	if event.At.IsZero() {
		event.At = s.now()
	}
	for _, u := range s.newestUsers() {
		if u.Observer != nil {
			u.observe(event)
		}
	}
}

func (u *User) observe(event Event) {
	defer RecoverAndLog(u.log(), "observing a token request")
	u.Observer.Observe(event)
}
