package command_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// services are stand-ins for what a sidecar talks to: a token endpoint, which counts, and an API.
type services struct {
	idp, api *httptest.Server
	requests atomic.Int64
	response atomic.Pointer[http.HandlerFunc]
	admin    string // the admin endpoint of the sidecar that runs in this process
}

// newServices starts both. A nil api has nothing to say.
func newServices(t *testing.T, api http.HandlerFunc) *services {
	t.Helper()
	s := new(services)
	s.respond(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"a-token","token_type":"Bearer","expires_in":3600}`)
	})
	s.idp = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		(*s.response.Load())(w, r)
	}))
	t.Cleanup(s.idp.Close)
	if api == nil {
		api = func(http.ResponseWriter, *http.Request) {}
	}
	s.api = httptest.NewServer(api)
	t.Cleanup(s.api.Close)
	return s
}

// respond says what the token endpoint responds from now on.
func (s *services) respond(handler http.HandlerFunc) { s.response.Store(&handler) }

// run runs a Caddyfile whose site has the address SITE, with an admin endpoint, and returns the site's
// URL.
func (s *services) run(t *testing.T, caddyfile string) string {
	t.Helper()
	s.admin = "unix/" + filepath.Join(socketDir(t), "admin.sock")
	options := "{\n\tadmin " + s.admin + "\n\tpersist_config off\n\tauto_https off\n\tdefault_bind 127.0.0.1\n\tgrace_period 1ns\n\tlog {\n\t\tlevel FATAL\n\t}\n"
	if rest, ok := strings.CutPrefix(caddyfile, "{\n"); ok {
		caddyfile = options + rest
	} else {
		caddyfile = options + "}\n" + caddyfile
	}
	site := "http://" + freeAddress(t)
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(strings.ReplaceAll(caddyfile, "SITE", site)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(config, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return site
}

// stop ends the sidecar and its admin endpoint.
func stop() { _ = caddy.Load([]byte(`{"admin": {"disabled": true}}`), true) }

// freeAddress is a loopback address on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(nil)
	defer server.Close()
	return server.Listener.Addr().String()
}

// get makes a request of an app's.
func get(t *testing.T, site string) {
	t.Helper()
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(site)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
}

// crm is a Caddyfile with a connector that asks for an instance and for scopes, and its connection
// billing; further options are put in.
func crm(s *services, connector, connection string) string {
	return strings.NewReplacer("IDP", s.idp.URL, "API", s.api.URL, "CONNECTOR", connector, "CONNECTION", connection).Replace(`{
	http_helper {
		connector acme_crm {
			base_url API/{param.instance}/api
			token_url IDP/token?key=query-secret
			label "Acme CRM"
			parameter instance text {
				label "Your instance name"
			}
			customize_scopes
			scope contacts.read required {
				description "Read contacts"
			}
			scope contacts.write
			scope contacts.delete
			CONNECTOR
		}
		connection billing acme_crm {
			client_id crm-id
			client_secret crm-secret
			parameter instance emea
			scopes contacts.write
			CONNECTION
		}
	}
}
SITE {
	http_helper billing
}
`)
}
