package integration

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// TestUserAgentOfOurOwnRequests: some firewalls refuse Go's own. The app's reaches the API as it is.
func TestUserAgentOfOurOwnRequests(t *testing.T) {
	t.Parallel()
	w, flow := newWorld(t, nil), harness.NewAPI(t, nil, nil)
	flow.RespondWith(harness.Reply(http.StatusOK, `{"audience":"a"}`))
	seen := make(chan string, 10)
	w.tokens.RespondWith(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		seen <- strings.Join(r.Header["User-Agent"], "; ")
		switch r.URL.Path {
		case "/.well-known/oauth-authorization-server":
			harness.Reply(http.StatusOK, `{"issuer":"`+w.tokens.Base+`","token_endpoint":"`+w.tokens.URL+`","revocation_endpoint":"`+w.tokens.Base+`/revoke"}`).ServeHTTP(rw, r)
		default:
			harness.Reply(http.StatusOK, `{"access_token":"`+w.tokens.Issue(harness.Timeout)+`","expires_in":60}`).ServeHTTP(rw, r)
		}
	}))
	config := w.named(options{service: "parameter x text\nconfig_value audience text {\nflow find\n}\nflow find request GET " + flow.URL + "\n" +
		"token_request_param audience {config.audience}", connection: "parameter x 1"})
	config.Options = strings.Replace(config.Options, "token_url "+w.tokens.URL, "issuer "+w.tokens.Base, 1)
	config.Options = strings.Replace(config.Options, "flow find request GET "+flow.URL, "flow find request GET "+flow.URL+"/ {\npointer /audience\n}", 1)
	w.Run(t, config)
	w.wantOK(t)
	if status, body, err := w.Admin(http.MethodPost, "/http_helper/connections/billing/refresh", "", ""); err != nil || status != http.StatusOK {
		t.Fatalf("refresh: %d %s, %v", status, body, err)
	}
	own := regexp.MustCompile(`^caddy-httphelper/[A-Za-z0-9.+-]+$`)
	for _, what := range []string{"discovery", "token request", "second token request", "revocation"} {
		if got := <-seen; !own.MatchString(got) {
			t.Errorf("%s: User-Agent %q", what, got)
		}
	}
	if got := flow.Last(t).Header.Get("User-Agent"); !own.MatchString(got) {
		t.Errorf("flow: User-Agent %q", got)
	}
	if got := w.api.Last(t).Header.Get("User-Agent"); own.MatchString(got) {
		t.Errorf("API: User-Agent %q", got)
	}
}
