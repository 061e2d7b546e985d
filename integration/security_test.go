package integration

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/integration/harness"
)

// warnings are the lines of the log at that level that contain a text.
func warnings(log, text string) (found []string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, `"level":"warn"`) && strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// TestAdminEndpointGivesAccessToSecrets shows why the endpoint must not be on TCP beside an
// app: it accepts any config, also one that prints what the process can read.
func TestAdminEndpointGivesAccessToSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	admin := "127.0.0.1:" + harness.Port(t)
	config := w.inline(options{})
	config.Whole = strings.Replace(w.Caddyfile(config), "admin unix/"+w.AdminSocket(), "admin "+admin, 1)
	w.Run(t, config)
	w.wantOK(t)
	if got := warnings(w.Logs(), "admin endpoint can read the secrets"); len(got) != 1 || !strings.Contains(got[0], admin) {
		t.Errorf("warnings %q", got)
	}

	// The app's part: it knows no secret.
	loot := "127.0.0.1:" + harness.Port(t)
	evil := fmt.Sprintf("{\nadmin %s\n}\n:%s {\nbind 127.0.0.1\nrespond {env.SECRET}\n}\n", admin, loot[len("127.0.0.1:"):])
	res, err := w.Client.Post("http://"+admin+"/load", "text/caddyfile", strings.NewReader(evil))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	equal(t, "status of the load", res.StatusCode, http.StatusOK)
	if res, err = w.Client.Get("http://" + loot); err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	equal(t, "what the app has got", string(text), secret)
}

// TestClosedAdminEndpoints are those of the examples: nothing listens where the app could ask.
func TestClosedAdminEndpoints(t *testing.T) {
	t.Parallel()
	for name, directive := range map[string]string{"unix socket": "", "unix socket with a mode": "|0200", "off": "off"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			config := w.inline(options{})
			address := "admin unix/" + w.AdminSocket() + directive
			if directive == "off" {
				address = "admin off"
			}
			config.Whole = strings.Replace(w.Caddyfile(config), "admin unix/"+w.AdminSocket(), address, 1)
			w.Run(t, config)
			w.wantOK(t)
			if got := warnings(w.Logs(), "can read the secrets"); len(got) != 0 {
				t.Errorf("warnings %q", got)
			}
			// The app's site serves no path of the admin endpoint.
			w.Get(t, "/config/")
			equal(t, "path at the API", w.api.Last(t).RequestURI, "/config/")
			listening, err := filepath.Glob(w.AdminSocket())
			if err != nil || (len(listening) == 1) == (directive == "off") {
				t.Errorf("sockets %q, %v", listening, err)
			}
		})
	}
}

func TestPasswordsInAHostAreWarnedAbout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.Run(t, w.expand(options{env: []string{"PIN=hidden-host"}}, harness.Config{
		Options: "http_helper {\nconnector service {\nbase_url https://{param.pin}.test/{param.pin}\ntoken_url $TOKENS\nparameter pin password\n}\nconnection billing service {\nclient_id app\nclient_secret {env.SECRET}\nparameter pin {env.PIN}\n}\n}",
		Site:    "http_helper billing",
	}))
	if got := warnings(w.Logs(), "{param.pin} in its host"); len(got) != 1 || strings.Contains(got[0], "hidden-host") {
		t.Errorf("warnings %q", got)
	}
}

// TestPagesOfOtherSites: a page in a browser on this machine can send requests, too.
func TestPagesOfOtherSites(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	wantSidecarError(t, w.Get(t, "/", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"), http.StatusForbidden, "http_request_denied")
	equal(t, "API requests", w.api.Count(), 0)
	equal(t, "token requests", w.tokens.Count(), 0)
	for _, site := range []string{"same-origin", "same-site", "none"} {
		wantStatus(t, w.Get(t, "/", "Sec-Fetch-Site", site), http.StatusOK)
	}
}

// TestTokenResponsesAreBounded: whatever the authorization server sends, the app gets a response in
// time, and memory does not grow.
func TestTokenResponsesAreBounded(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	zipper, _ := gzip.NewWriterLevel(&bomb, gzip.BestSpeed)
	_, _ = io.WriteString(zipper, `{"access_token":"`)
	zeros := make([]byte, 1<<20)
	for range 200 {
		_, _ = zipper.Write(zeros)
	}
	_ = zipper.Close()
	drip := func(header bool) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, buffer, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(buffer, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
			if !header {
				_, _ = io.WriteString(buffer, "Content-Length: 1000\r\n\r\n{")
			}
			for buffer.Flush() == nil {
				time.Sleep(20 * time.Millisecond)
				_, _ = io.WriteString(buffer, map[bool]string{true: "X-Drip: x\r\n", false: " "}[header])
			}
		})
	}
	for name, c := range map[string]struct {
		response http.Handler
		status   int
	}{
		"gzip bomb": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}), 502},
		"endless body": {http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(zeros); err != nil {
					return
				}
			}
		}), 502},
		"endless header": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 11<<20))
		}), 503},
		"endless redirects":   {harness.Reply(302, "{}", "Location", "/oauth2/token"), 502},
		"large token":         {harness.Reply(200, map[string]string{"access_token": strings.Repeat("t", 16<<10+1)}), 502},
		"drip of the body":    {drip(false), 504},
		"drip of the header":  {drip(true), 504},
		"deep JSON":           {harness.Reply(200, strings.Repeat("[", 1<<20-1)), 502},
		"very many scopes":    {harness.Reply(200, `{"access_token":"t","scope":[`+strings.Repeat(`"a","b",`, 100_000)+`"c"]}`), 200},
		"very long life":      {harness.Reply(200, `{"access_token":"t","expires_in":1e400}`), 200},
		"Retry-After of ages": {harness.Reply(503, "{}", "Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT"), 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.api.Accept(func(string) bool { return true })
			w.tokens.RespondWith(c.response)
			w.Run(t, w.inline(options{connection: "token_timeout 3s"}))
			_, before := w.ResidentMemory(t)
			started := time.Now()
			response := w.Get(t, "/")
			if response.StatusCode != http.StatusGatewayTimeout { // on a slow machine the timeout comes first
				wantStatus(t, response, c.status)
			}
			if took := time.Since(started); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			if _, peak := w.ResidentMemory(t); peak-before > 96<<20 {
				t.Errorf("%d MiB more memory", (peak-before)>>20)
			}
			if retry := response.Header.Get("Retry-After"); strings.HasPrefix(name, "Retry-After") {
				equal(t, "Retry-After", retry, "300")
			}
		})
	}
}

// TestFailureIsLoggedOnce: many requests that fail make few log lines of the sidecar's own.
func TestFailureIsLoggedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.tokens.RespondWith(harness.Refuse(http.StatusUnauthorized, "invalid_client"))
	w.Run(t, w.inline(options{}))
	for range 1000 {
		wantStatus(t, w.Get(t, "/"), http.StatusBadGateway)
	}
	ours := 0
	for line := range strings.Lines(w.Logs()) {
		// Caddy itself logs every response with a status of 5xx.
		if strings.Contains(line, "http_helper") && !strings.Contains(line, `"logger":"http.log.error`) {
			ours++
		}
	}
	// "connections loaded" and the failure.
	if ours > 3 {
		t.Errorf("%d log lines of the sidecar's own", ours)
	}
	w.tokens.RespondWith(w.tokens.Grant(time.Hour))
	if status, body, err := w.Admin(http.MethodPost, "/http_helper/connections/127.0.0.1/refresh", "", ""); err != nil || status != http.StatusOK {
		t.Fatal(status, body, err)
	}
	w.WaitLog(t, "getting tokens works again")
}

// TestPlaceholderChoosesAmongFew: whatever apps send, there are only the connections that are listed.
func TestPlaceholderChoosesAmongFew(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	config := w.named(options{})
	config.Site = "http_helper {http.request.header.X-Connection} {\nconnections billing\n}"
	w.Run(t, config)
	wantStatus(t, w.Get(t, "/", "X-Connection", "billing"), http.StatusOK)
	goroutines, files := w.Goroutines(t), w.FDs(t)
	for i := range 300 {
		name := fmt.Sprintf("billing%d", i)
		switch i % 3 {
		case 1:
			name = "{env.SECRET}"
		case 2:
			name = strings.Repeat("b", i)
		}
		response := w.Get(t, "/", "X-Connection", name)
		wantSidecarError(t, response, http.StatusBadRequest, "http_request_error")
		if strings.Contains(fmt.Sprint(response.Header, response.Text), name) || strings.Contains(fmt.Sprint(response.Header), secret) {
			t.Errorf("the response to %q repeats it", name)
		}
	}
	equal(t, "token requests", w.tokens.Count(), 1)
	if now := w.Goroutines(t); now > goroutines+20 {
		t.Errorf("%d goroutines, there were %d", now, goroutines)
	}
	if now := w.FDs(t); now > files+20 {
		t.Errorf("%d files, there were %d", now, files)
	}
}

// TestSlowCallersHarmNobodyElse: an app that sends its request slowly delays no other.
func TestSlowCallersHarmNobodyElse(t *testing.T) {
	t.Parallel()
	w := startInline(t, options{})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i := range 50 {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, []string{"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\na"}[i%2])
	}
	w.wantOK(t)
	equal(t, "token requests", w.tokens.Count(), 1)
}
