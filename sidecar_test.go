package httphelper

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/flows"
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// fakeIdP is a fake authorization server. It grants t1, t2, … unless told
// otherwise, and counts.
type fakeIdP struct {
	*httptest.Server
	requests  atomic.Int64
	responder atomic.Value // func(w http.ResponseWriter, n int64)
}

func newIdP(t *testing.T) *fakeIdP {
	t.Helper()
	e := new(fakeIdP)
	e.respond(func(w http.ResponseWriter, n int64) { grantToken(w, fmt.Sprintf("t%d", n), 3600) })
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		e.responder.Load().(func(http.ResponseWriter, int64))(w, e.requests.Add(1))
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *fakeIdP) respond(f func(w http.ResponseWriter, n int64)) { e.responder.Store(f) }

func grantToken(w http.ResponseWriter, token string, seconds int) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": seconds})
}

// api is a fake protected API.
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
	usedAddresses.Store(a.Listener.Addr().String(), true)
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
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		_ = l.Close()
		if _, used := usedAddresses.Load(address); !used {
			return address
		}
	}
}

// usedAddresses are those of APIs. A test may have closed one to have it unreachable, so no sidecar may get
// its address.
var usedAddresses sync.Map

// inline is a Caddyfile with one connection in its directive.
func inline(a *api, e *fakeIdP, options string) string {
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

// tlsAPI starts an API over TLS and returns a file with its certificate, which is for 127.0.0.1 and
// example.com.
func tlsAPI(t *testing.T, handler http.HandlerFunc) (*api, string) {
	t.Helper()
	a := new(api)
	a.Server = httptest.NewUnstartedServer(a.record(handler))
	a.EnableHTTP2 = true
	a.StartTLS()
	t.Cleanup(a.Close)
	file := filepath.Join(t.TempDir(), "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw})
	if err := os.WriteFile(file, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	return a, file
}

// rejects responds with 401 to all tokens but one.
func rejects(good string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+good {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "no")
			return
		}
		echo(w, r)
	}
}

// echo responds with the body. It must be read first: a server that begins to respond stops reading.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = w.Write(body)
}

// crm is a Caddyfile with a connector and the connection billing; its texts are put in.
func crm(a *api, e *fakeIdP, connector, connection string) string {
	return fmt.Sprintf(`{
	http_helper {
		connector acme_crm {
			label "Acme CRM"
			base_url %s/{param.instance}/api
			token_url %s/token?key=query-secret
			scope contacts.read required {
				description "Read contacts"
			}
			scope contacts.write
			scope contacts.delete
			customize_scopes
			parameter instance text {
				label "Your instance name"
			}
			%s
		}
		connection billing acme_crm {
			client_id crm-id
			client_secret crm-secret
			parameter instance emea
			scopes contacts.write
			%s
		}
	}
}
SITE {
	http_helper billing
}
`, a.URL, e.URL, connector, connection)
}

// admin asks the admin API of the running config.
func admin(t *testing.T, method, path string) (int, http.Header, string) {
	t.Helper()
	mux := http.NewServeMux()
	for _, route := range (AdminAPI{}).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.Handler.ServeHTTP(w, r)
			if err == nil {
				return
			}
			failed, ok := err.(caddy.APIError) // as Caddy does
			if !ok {
				t.Errorf("%s %s: %v is no APIError", method, path, err)
			}
			w.WriteHeader(failed.HTTPStatus)
			_, _ = w.Write([]byte(failed.Err.Error()))
		})
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(method, path, nil))
	return w.Code, w.Header(), w.Body.String()
}

// adminJSON is admin for a response that must be 200 and JSON.
func adminJSON(t *testing.T, method, path string, into any) string {
	t.Helper()
	status, header, body := admin(t, method, path)
	if status != http.StatusOK || header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %s: %d %v %s", method, path, status, header, body)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		t.Fatal(err)
	}
	return body
}

// shownConnection is what the admin API says of the connection c.
func shownConnection(t *testing.T, name string) map[string]any {
	t.Helper()
	var v map[string]any
	adminJSON(t, "GET", "/http_helper/connections/"+name, &v)
	return v
}

func refreshed(t *testing.T) (status int, body string) {
	t.Helper()
	status, _, body = admin(t, "POST", "/http_helper/connections/billing/refresh")
	return status, body
}

// callAcrossReload repeats a call whose connection the old config's listener took and never served:
// Caddy opens a listener of its own for each config.
func callAcrossReload(t *testing.T, url string) {
	t.Helper()
	for try := range 5 {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Fatalf("status %d", res.StatusCode)
			}
			return
		}
		t.Logf("try %d: %v", try, err)
	}
	t.Fatal("no response after a reload")
}

// writeFile makes a file and returns its path.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// flowsLaterBy is how far ahead the clock of the memory of helper flows is.
var flowsLaterBy atomic.Int64

func init() {
	flows.Results = flows.NewMemory(func() time.Time { return time.Now().Add(time.Duration(flowsLaterBy.Load())) })
}

// laterForFlows has the memory of helper flows believe that it is later.
func laterForFlows(t *testing.T, d time.Duration) {
	t.Helper()
	before := flowsLaterBy.Swap(int64(d))
	t.Cleanup(func() { flowsLaterBy.Store(before) })
}
