package httphelper

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// standInIdP is a stand-in for an authorization server. It grants t1, t2, … unless told
// otherwise, and counts.
type standInIdP struct {
	*httptest.Server
	requests atomic.Int64
	answer   atomic.Value // func(w http.ResponseWriter, n int64)
}

func newIdP(t *testing.T) *standInIdP {
	t.Helper()
	e := new(standInIdP)
	e.answers(func(w http.ResponseWriter, n int64) { grantToken(w, fmt.Sprintf("t%d", n), 3600) })
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		e.answer.Load().(func(http.ResponseWriter, int64))(w, e.requests.Add(1))
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *standInIdP) answers(f func(w http.ResponseWriter, n int64)) { e.answer.Store(f) }

func grantToken(w http.ResponseWriter, token string, seconds int) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": seconds})
}

// api is a stand-in for a protected API.
type api struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request // with their bodies replaced by what was read
}

// newAPI starts an API. A nil handler says 200.
func newAPI(t *testing.T, handler http.HandlerFunc) *api {
	t.Helper()
	a := new(api)
	a.Server = httptest.NewServer(a.record(handler))
	t.Cleanup(a.Close)
	return a
}

func (a *api) record(handler http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		a.requests = append(a.requests, r)
		a.mu.Unlock()
		if handler != nil {
			handler(w, r)
		}
	}
}

func (a *api) seen() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*http.Request(nil), a.requests...)
}

func (a *api) last(t *testing.T) *http.Request {
	t.Helper()
	all := a.seen()
	if len(all) == 0 {
		t.Fatal("nothing arrived at the API")
	}
	return all[len(all)-1]
}

// runSidecar loads a Caddyfile whose site has the address SITE, and returns the site's URL.
func runSidecar(t *testing.T, caddyfile string) string {
	t.Helper()
	address := freeAddress(t)
	loadCaddyfile(t, onPort(caddyfile, "http://"+address))
	t.Cleanup(func() { _ = caddy.Stop() })
	return "http://" + address
}

// onPort gives a Caddyfile's site the port of a URL, whatever Host a request names.
func onPort(caddyfile, site string) string {
	return strings.ReplaceAll(caddyfile, "SITE", "http://:"+site[strings.LastIndex(site, ":")+1:])
}

func loadCaddyfile(t *testing.T, caddyfile string) {
	t.Helper()
	if err := tryCaddyfile(caddyfile); err != nil {
		t.Fatal(err)
	}
}

func tryCaddyfile(caddyfile string) error {
	config, err := adaptQuietly(caddyfile)
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

// adaptQuietly adapts a Caddyfile with what tests need besides.
func adaptQuietly(caddyfile string) ([]byte, error) {
	const quiet = "{\n\tadmin off\n\tpersist_config off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n\tgrace_period 1ns\n"
	if rest, ok := strings.CutPrefix(caddyfile, "{\n"); ok {
		caddyfile = quiet + rest
	} else {
		caddyfile = quiet + "}\n" + caddyfile
	}
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), map[string]any{"filename": "Caddyfile"})
	return config, err
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// inline is a Caddyfile with one connection in its directive.
func inline(a *api, e *standInIdP, options string) string {
	return fmt.Sprintf("SITE {\n\thttp_helper %s/base {\n\t\ttoken_url %s/token\n\t\tclient_id id\n\t\tclient_secret literal-secret\n\t\t%s\n\t}\n}\n", a.URL, e.URL, options)
}

func call(t *testing.T, method, url string, body io.Reader, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	client := &http.Client{
		Timeout:       30 * time.Second,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}
