package token

import (
	"slices"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
)

// Event is what an observer learns of a token request or a rejection. It holds no token.
type Event struct {
	Rejected bool          // an API has refused the token; the rest is unset
	Err      *oauth.Error  // nil: a token was granted
	Duration time.Duration // of the token request
	Expires  time.Time     // of the token that was granted
}

// notify passes an event on to every connection that uses the source.
func (s *Source) notify(event Event) {
	for _, u := range s.observers() {
		if u.Observer != nil {
			observeSafely(u, event)
		}
	}
}

func observeSafely(u *User, event Event) {
	defer RecoverAndLog(u.log(), "observing a token request")
	u.Observer.Observe(event)
}

// observers is the newest user of each connection name. During a reload the old config's users are
// still there, and would count everything twice.
func (s *Source) observers() []*User {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := []*User{}
	for _, u := range slices.Backward(s.active()) {
		if !slices.ContainsFunc(newest, func(other *User) bool { return other.Name == u.Name }) {
			newest = append(newest, u)
		}
	}
	if len(newest) == 0 && s.lastUser != nil {
		newest = append(newest, s.lastUser)
	}
	return newest
}
