package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/clock"
)

const (
	cookieName = "http_helper_console"

	// ticketPath is where a URL that opens the console leads, followed by its token.
	ticketPath = "/open/"

	// assetsPath is where style sheet and script are. They are the same for everybody, and a page that says
	// that there is no session needs them too.
	assetsPath = "/assets/"

	// automatic is the query parameter of requests that a page makes by itself. They are no activity.
	automatic = "auto"

	// maxSessions is how many browsers may have the console open. One more ends the oldest.
	maxSessions = 8

	// idleCheck is how often it is checked whether anybody uses the console.
	idleCheck = time.Minute
)

// sessions are those who have opened the console. Everything is in memory: it ends with the process.
type sessions struct {
	base string // the path under which everything is; the cookie's, since cookies know no ports

	mu     sync.Mutex
	ticket [sha256.Size]byte // of the token that opens the console; zero: there is none
	live   []*session        // the oldest first
	used   time.Time         // when somebody did something last
}

// session is one browser that has opened the console.
type session struct {
	cookie [sha256.Size]byte
	held   held // secrets of its drafts
}

func newSessions() *sessions {
	return &sessions{base: "/" + randomText(128), used: time.Now()}
}

// randomText returns a number of random bits, written for a URL.
func randomText(bits int) string {
	random := make([]byte, bits/8)
	_, _ = rand.Read(random) // never fails
	return base64.RawURLEncoding.EncodeToString(random)
}

// newTicketPath returns a path that opens the console once, and not the one before any more. Whoever asks
// for it uses the console.
func (s *sessions) newTicketPath() string {
	token := randomText(256)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ticket, s.used = sha256.Sum256([]byte(token)), time.Now()
	return s.base + ticketPath + token
}

// protect lets requests with a cookie through, to next, which sees paths below the secret one. Other
// paths do not tell that one.
func (s *sessions) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, found := strings.CutPrefix(r.URL.Path, s.base)
		if !found || !strings.HasPrefix(path, "/") {
			http.Error(w, "There is nothing here. Open the URL that the terminal shows; Enter there makes a new one.", http.StatusNotFound)
			return
		}
		if token, found := strings.CutPrefix(path, ticketPath); found {
			s.enter(w, r, token)
			return
		}
		if !strings.HasPrefix(path, assetsPath) {
			current := s.find(r)
			if current == nil {
				showError(w, s.base, http.StatusForbidden, noSession)
				return
			}
			r = r.WithContext(context.WithValue(r.Context(), sessionKey{}, current))
		}
		r = r.WithContext(context.WithValue(r.Context(), baseKey{}, s.base))
		http.StripPrefix(s.base, next).ServeHTTP(w, r)
	})
}

type (
	sessionKey struct{}
	baseKey    struct{}
)

// base returns the path under which the console is served.
func base(r *http.Request) string { return r.Context().Value(baseKey{}).(string) }

// enter exchanges the token of a URL for a cookie. Browsers fetch pages that nobody has opened yet: such a
// request does not use the token up. The response is a page that leads on: a browser does not send a
// strict cookie along a redirect that another page has begun.
func (s *sessions) enter(w http.ResponseWriter, r *http.Request, token string) {
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		showError(w, s.base, http.StatusMethodNotAllowed, noSession)
		return
	case r.Header.Get("Sec-Purpose") != "":
		showError(w, s.base, http.StatusForbidden, noSession)
		return
	}
	cookie, ok := s.exchange(token)
	if !ok {
		what := usedURL
		if s.find(r) != nil {
			what = openAlready
		}
		showError(w, s.base, http.StatusForbidden, what)
		return
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // not Secure: loopback has no TLS, and browsers disagree on whether it needs it
		Name: cookieName, Value: cookie, Path: s.base, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
	showPage(w, http.StatusOK, "entered", page{Base: s.base, Title: "Open"})
}

// exchange returns the cookie of a new session for a token that was not used before.
func (s *sessions) exchange(token string) (cookie string, ok bool) {
	hash := sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ticket == [sha256.Size]byte{} || subtle.ConstantTimeCompare(hash[:], s.ticket[:]) != 1 {
		return "", false
	}
	s.ticket, s.used = [sha256.Size]byte{}, time.Now()
	cookie = randomText(256)
	s.live = append(s.live, &session{cookie: sha256.Sum256([]byte(cookie))})
	if len(s.live) > maxSessions {
		s.live = s.live[1:]
	}
	return cookie, true
}

// find returns the session of a request; nil: it has none. What somebody does, and not a page by itself,
// is noted.
func (s *sessions) find(r *http.Request) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, cookie := range r.CookiesNamed(cookieName) {
		hash := sha256.Sum256([]byte(cookie.Value))
		for _, one := range s.live {
			if subtle.ConstantTimeCompare(hash[:], one.cookie[:]) != 1 {
				continue
			}
			if !r.URL.Query().Has(automatic) {
				s.used = time.Now()
			}
			return one
		}
	}
	return nil
}

// awaitIdle waits until nobody has used the console for a while, or ctx ends. It looks at the clock
// again and again, because a timer stops while the machine sleeps.
func (s *sessions) awaitIdle(ctx context.Context) error {
	ticker := time.NewTicker(idleCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			s.mu.Lock()
			idle := clock.Elapsed(s.used, time.Now())
			s.mu.Unlock()
			if idle >= IdleLimit {
				return ErrIdle
			}
		}
	}
}
