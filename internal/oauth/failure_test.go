package oauth

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"github.com/caddy-httphelper/caddy-httphelper/internal/neterror"
	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth/oauthtest"
)

var nilSafeContext = context.Background()

func readCloser(text string) io.ReadCloser { return io.NopCloser(strings.NewReader(text)) }

func TestOAuthErrors(t *testing.T) {
	const (
		mistake = ClassConfiguration
		outage  = ClassOutage
	)
	tests := []struct {
		status    int
		code      string
		class     Class
		appStatus int
		transient bool
		say       string
	}{
		{400, "invalid_client", mistake, 502, false, "client_id"},
		{401, "invalid_client", mistake, 502, false, "auth_method"},
		{400, "invalid_scope", mistake, 502, false, "scopes"},
		{400, "unauthorized_client", mistake, 502, false, "not allowed"},
		{400, "unsupported_grant_type", mistake, 502, false, "grant_type"},
		{400, "invalid_request", mistake, 502, false, "token_request_param"},
		{400, "invalid_target", mistake, 502, false, "resource"},
		{403, "access_denied", mistake, 502, false, "not allowed"},
		{429, "invalid_client", mistake, 502, false, ""},
		{200, "invalid_client", mistake, 502, false, "client_id"},
		{201, "access_denied", mistake, 502, false, ""},
		{200, "something_else", mistake, 502, false, "error"},
		{200, "server_error", mistake, 502, false, ""},
		{200, "temporarily_unavailable", mistake, 502, false, ""},
		{200, "slow_down", mistake, 502, false, ""},
		{400, "temporarily_unavailable", outage, 503, false, ""},
		{400, "server_error", outage, 503, false, ""},
		{403, "slow_down", outage, 503, false, ""},
		{400, "something_else", mistake, 502, false, "400"},
		{400, "", mistake, 502, false, "400"},
		{401, "", mistake, 502, false, "credentials"},
		{403, "", mistake, 502, false, "credentials"},
		{404, "", mistake, 502, false, "check token_url"},
		{405, "", mistake, 502, false, "check token_url"},
		{410, "", mistake, 502, false, "check token_url"},
		{415, "", mistake, 502, false, "check token_url"},
		{422, "invalid_grant", mistake, 502, false, "422"},
		{499, "", mistake, 502, false, "499"},
		{408, "", outage, 503, false, "408"},
		{425, "something_else", outage, 503, false, "425"},
		{429, "", outage, 503, false, "fewer"},
		{500, "", outage, 503, true, "500"},
		{503, "", outage, 503, true, "503"},
		{500, "invalid_client", outage, 503, true, "500"},
		{599, "server_error", outage, 503, true, "599"},
	}
	for _, test := range tests {
		body := fmt.Sprintf(`{"error":%q,"error_description":"DESCRIBED","error_uri":"https://QUOTED"}`, test.code)
		_, err := parsed(&Request{}, test.status, body)
		failure := AsError(err)
		if failure.Class != test.class || failure.Status != test.appStatus || failure.Transient != test.transient || failure.Code != test.code || !failure.Responded {
			t.Errorf("%d %s: %+v", test.status, test.code, failure)
		}
		if text := failure.Error(); !strings.Contains(text, test.say) || strings.Contains(text, "DESCRIBED") || strings.Contains(text, "QUOTED") {
			t.Errorf("%d %s: %q", test.status, test.code, text)
		}
	}
}

func TestARefusalIsPresumedOnlyWithoutAKnownCode(t *testing.T) {
	for _, test := range []struct {
		status   int
		code     string
		presumed bool
	}{
		{400, "", true},
		{401, "something_else", true},
		{404, "", true},
		{400, "invalid_client", false},
		{200, "something_else", false},
		{429, "", false},
		{500, "", false},
	} {
		_, err := parsed(&Request{}, test.status, fmt.Sprintf(`{"error":%q}`, test.code), "Retry-After", "7")
		failure := AsError(err)
		if failure.Presumed != test.presumed {
			t.Errorf("%d %s: %+v", test.status, test.code, failure)
		}
		after := failure.AfterSuccess()
		if test.presumed && (after.Class != ClassOutage || after.Status != 503 || after.Code != test.code || after.RetryAfter != 7*time.Second || after.Transient || after.Presumed || !after.Responded) {
			t.Errorf("%d %s becomes %+v", test.status, test.code, after)
		}
		if !test.presumed && after != failure {
			t.Errorf("%d %s: %+v becomes %+v", test.status, test.code, failure, after)
		}
	}
}

func TestErrorBodiesThatSayNothing(t *testing.T) {
	for _, body := range []string{``, `<html>`, `{}`, `null`, `[]`, `"invalid_client"`, `{"error":null}`, `{"error":7}`, `{"error":{"code":"invalid_client"}}`} {
		_, err := parsed(&Request{}, 400, body)
		if failure := AsError(err); failure.Class != ClassConfiguration || !failure.Presumed || failure.Code != "" {
			t.Errorf("%s: %+v", body, failure)
		}
	}
}

func TestRetryAfterOfResponses(t *testing.T) {
	for _, test := range []struct {
		status    int
		value     string
		want      time.Duration
		transient bool
	}{
		{503, "7", 7 * time.Second, false},
		{429, "7", 7 * time.Second, false},
		{400, "7", 7 * time.Second, false},
		{503, "0", 0, true},
		{503, "-7", 0, true},
		{503, "later", 0, true},
		{503, "99999999999999999999", 5 * time.Minute, false},
		{503, time.Now().AddDate(300, 0, 0).UTC().Format(http.TimeFormat), 5 * time.Minute, false},
	} {
		_, err := parsed(&Request{}, test.status, "", "Retry-After", test.value)
		if failure := AsError(err); failure.RetryAfter != test.want || failure.Transient != test.transient {
			t.Errorf("%d %s: %+v", test.status, test.value, failure)
		}
	}
	_, err := parsed(&Request{}, 400, `{"error":"invalid_client"}`, "Retry-After", "9")
	if failure := AsError(err); failure.RetryAfter != 9*time.Second {
		t.Errorf("a mistake's Retry-After is lost: %+v", failure)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                               0,
		"0":                              0,
		"000":                            0,
		"1":                              time.Second,
		"300":                            5 * time.Minute,
		"301":                            5 * time.Minute,
		"9223372036854775807":            5 * time.Minute,
		"9223372036854775808":            5 * time.Minute,
		"-1":                             0,
		"+1":                             0,
		"1.5":                            0,
		"1e3":                            0,
		"١":                              0,
		"Fri, 02 Jan 2026 03:04:35 GMT":  30 * time.Second,
		"Fri, 02 Jan 2026 03:04:05 GMT":  0,
		"Fri, 02 Jan 2026 03:04:04 GMT":  0,
		"Fri, 02 Jan 9999 03:04:04 GMT":  5 * time.Minute,
		"Mon, 02 Jan 0001 03:04:04 GMT":  0,
		"Friday, 02-Jan-26 03:04:35 GMT": 30 * time.Second,
		"Fri Jan  2 03:04:35 2026":       30 * time.Second,
		"Fri, 99 Jan 2026 03:04:35 GMT":  0,
	} {
		if got := ParseRetryAfter(value, now); got != want {
			t.Errorf("%q: %v, want %v", value, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, value := range []string{"", "5", "-5", "99999999999999999999", "Fri, 02 Jan 2026 03:04:35 GMT", "1.5"} {
		f.Add(value, int64(0))
	}
	f.Fuzz(func(t *testing.T, value string, now int64) {
		if got := ParseRetryAfter(value, time.Unix(now, 0)); got < 0 || got > 5*time.Minute {
			t.Errorf("%q at %d: %v", value, now, got)
		}
	})
}

func TestErrorCodesThatArePassedOn(t *testing.T) {
	long := strings.Repeat("x", 64)
	r := &Request{Secrets: []string{"hunter2", "", "averyverylongsecret-with-more-than-64-characters-in-it-so-that-a-piece-fits"}}
	for code, want := range map[string]string{
		"consent_required":    "consent_required",
		"with space!":         "with space!",
		"invalid_scope":       "invalid_scope",
		long:                  long,
		long + "x":            "",
		"a\"b":                "",
		"a\\b":                "",
		"a\x7f":               "",
		"a\nb":                "",
		"ä":                   "",
		"hunter2":             "",
		"is_hunter2_the_one?": "",
		"averyverylongsecret-with-more-than-64-characters-in-it": "",
		"longsecret-with": "",
	} {
		if got := r.safeCode(code); got != want {
			t.Errorf("%q: %q, want %q", code, got, want)
		}
	}
}

// TestCredentialsAreNotEchoed: a server that quotes its request in the error code must not get the
// credentials into logs, in no spelling.
func TestCredentialsAreNotEchoed(t *testing.T) {
	const secret = "p w:d/+&%41"
	echoes := func(w http.ResponseWriter, req *http.Request) []string {
		_ = req.ParseForm()
		id, password, _ := req.BasicAuth()
		return slices.Concat(
			[]string{strings.TrimPrefix(req.Header.Get("Authorization"), "Basic "), id + password, password, url.QueryEscape(secret)},
			req.PostForm["client_secret"], req.PostForm["client_assertion"],
		)
	}
	auths := map[string]ClientAuth{
		"basic": basicAuth(secret), "raw": always(AuthParams{Style: oauth2.AuthStyleInHeader, raw: true, Secret: secret}), "post": postAuth(secret),
		"assertion": always(AssertionParams("mounted-assertion-0123456789", "")),
	}
	for name, auth := range auths {
		for i := range 6 {
			echoed := ""
			endpoint := oauthtest.NewEndpoint(t, func(w http.ResponseWriter, req *http.Request) {
				w.WriteHeader(400)
				if codes := echoes(w, req); i < len(codes) {
					echoed = codes[i]
				}
				_, _ = io.WriteString(w, `{"error":`+jsonText(t, echoed)+`}`)
			})
			r := basicRequest(endpoint.URL)
			r.Auth, r.Secrets = auth, []string{secret}
			failure := failOnce(t, r)
			if failure.Code != "" {
				t.Errorf("%s: %q was passed on for %q", name, failure.Code, echoed)
			}
		}
	}
}

func TestNetworkFailures(t *testing.T) {
	const inQuery = "?key=hunter2"
	selfSigned := httptest.NewUnstartedServer(oauthtest.Responds(200, oauthtest.GoodResponse))
	selfSigned.Config.ErrorLog = log.New(io.Discard, "", 0)
	selfSigned.StartTLS()
	t.Cleanup(selfSigned.Close)
	plain := oauthtest.NewEndpoint(t, oauthtest.Responds(200, oauthtest.GoodResponse))
	breaking := oauthtest.NewEndpoint(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	resetting := oauthtest.NewEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	})
	half := oauthtest.NewEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"access_token":`)
	})
	closed := httptest.NewServer(nil)
	closed.Close()
	tests := map[string]struct {
		url, say string
		client   *http.Client
	}{
		"refused":       {closed.URL, "connection refused", nil},
		"unknown":       {selfSigned.URL, "unknown authority", nil},
		"wrong name":    {strings.Replace(selfSigned.URL, "127.0.0.1", "localhost", 1), "another host name", trusting(selfSigned)},
		"no TLS":        {strings.Replace(plain.URL, "http:", "https:", 1), "does not speak TLS", nil},
		"breaking":      {breaking.URL, "closed", nil},
		"half response": {half.URL, "closed", nil},
		"reset":         {resetting.URL, "reset", nil},
		"no such host": {"http://nowhere.invalid", "no such host", failingWith(&url.Error{
			Op: "Post", URL: "http://nowhere.invalid" + inQuery, Err: &net.DNSError{Err: "no such host", Name: "nowhere.invalid", IsNotFound: true},
		})},
		"name lookup": {"http://nowhere.invalid", "looking up", failingWith(&net.DNSError{Err: "server misbehaving", IsTemporary: true})},
		"anything":    {"http://nowhere.invalid", "broke", failingWith(fmt.Errorf("something with hunter2"))},
		"timeout":     {"http://nowhere.invalid", "timed out", failingWith(&net.DNSError{IsTimeout: true})},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := basicRequest(test.url + inQuery)
			client := test.client
			if client == nil {
				client = NewClient(http.DefaultTransport)
			}
			_, err := r.Do(t.Context(), client)
			failure := AsError(err)
			if failure.Class != ClassOutage || failure.Status != 503 || !failure.Transient || failure.Responded {
				t.Errorf("failure %+v", failure)
			}
			if !strings.Contains(failure.Message, test.say) || strings.Contains(failure.Message, "hunter2") {
				t.Errorf("message %q", failure.Message)
			}
		})
	}
}

// TestCleartextProxyIsAMistake: a transport that refuses to pass a forward proxy in the clear refuses
// it each time, so a retry is of no use. The error must not quote the URL.
func TestCleartextProxyIsAMistake(t *testing.T) {
	const sentence = "a request in the clear must not pass a forward proxy: use https, or except the host in NO_PROXY"
	const endpoint = "http://auth.test/token?key=hunter2"
	refusing := failingWith(fmt.Errorf("%s: %w", endpoint, neterror.ErrCleartextProxy))
	_, tokenErr := basicRequest(endpoint).Do(t.Context(), refusing)
	_, issuerErr := new(Issuer).Endpoints(t.Context(), refusing, IssuerRequest{Issuer: "http://auth.test"})
	for server, err := range map[string]error{
		"the token endpoint":      tokenErr,
		"the issuer":              issuerErr,
		"the revocation endpoint": basicRequest(endpoint).Revoke(t.Context(), refusing, endpoint, &Token{Value: "t"}),
	} {
		failure, ok := err.(*Error)
		if !ok {
			t.Errorf("%s: a %T: %v", server, err, err)
			continue
		}
		if failure.Class != ClassConfiguration || failure.Status != http.StatusBadGateway || failure.Transient {
			t.Errorf("%s: failure %+v", server, failure)
		}
		if want := "the request to " + server + " was not sent: " + sentence; failure.Message != want {
			t.Errorf("%s: message %q, want %q", server, failure.Message, want)
		}
	}
}

// trusting returns a client that knows the server's authority.
func trusting(server *httptest.Server) *http.Client {
	return NewClient(server.Client().Transport)
}

type failingTransport struct{ err error }

func (t failingTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, t.err }

func failingWith(err error) *http.Client { return NewClient(failingTransport{err}) }

// TestPiecesOfSecretsAreNoErrorCodes: an authorization server may quote the request in pieces.
func TestPiecesOfSecretsAreNoErrorCodes(t *testing.T) {
	const secret = "marked/secret+with=odd-characters-0123456789"
	r := &Request{Secrets: []string{secret, "short-pw"}}
	for _, code := range []string{
		secret, "bad " + secret, secret[:20], "bad " + secret[10:28] + "!", "x" + secret[20:],
		"bWFya2VkL3NlY3JldCt3aXRo", "marked%2Fsecret%2Bwith%3Dodd", "short-pw", "no short-pw!",
	} {
		if got := r.safeCode(code); got != "" {
			t.Errorf("%q is passed on as %q", code, got)
		}
	}
	for _, code := range []string{"invalid_client", "tenant_disabled", "AADSTS7000215", "marked", "odd"} {
		if got := r.safeCode(code); got != code {
			t.Errorf("%q is passed on as %q", code, got)
		}
	}
}
