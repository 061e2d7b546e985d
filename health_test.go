package httphelper

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-httphelper/caddy-httphelper/internal/oauth"
	"github.com/caddy-httphelper/caddy-httphelper/internal/token"
)

// withHealth is a Caddyfile with the health check at /health, for these connections.
func withHealth(caddyfile, names string) string {
	return strings.Replace(caddyfile, "SITE {\n", "SITE {\n\thttp_helper_health /health "+names+"\n", 1)
}

// wantHealth asks the health check.
func wantHealth(t *testing.T, site string, status int) healthView {
	t.Helper()
	res, body := call(t, "GET", site+"/health", nil)
	var view healthView
	if err := json.Unmarshal([]byte(body), &view); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	if res.StatusCode != status || view.Healthy != (status == 200) ||
		res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %v %s, want %d", res.StatusCode, res.Header, body, status)
	}
	return view
}

func TestHealth(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, withHealth(inline(a, e, "name c"), ""))
	if view := wantHealth(t, site, 200); len(view.Connections) != 1 || view.Connections[0].State != token.StateIdle || e.requests.Load() != 0 {
		t.Errorf("before the first request: %+v", view)
	}

	e.respond(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Retry-After", "300")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	call(t, "GET", site+"/", nil)
	view := wantHealth(t, site, 503)
	if c := view.Connections[0]; c.Name != "c" || c.Healthy || c.State != token.StateDown || c.Error == nil || c.Error.Class != "outage" || c.Error.Message == "" {
		t.Errorf("in an outage from the beginning: %+v", c)
	}

	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, "good", 3) })
	admin(t, "POST", "/http_helper/connections/c/refresh")
	wantHealth(t, site, 200)

	e.respond(func(w http.ResponseWriter, _ int64) {
		w.Header().Set("Retry-After", "300")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	admin(t, "POST", "/http_helper/connections/c/refresh")
	if view := wantHealth(t, site, 200); view.Connections[0].State != token.StateFailing {
		t.Errorf("with a token and an outage: %+v", view)
	}

	source := activeApp().active["c"].tokens.source
	source.Replace(t.Context(), source.Current())
	if view := wantHealth(t, site, 200); view.Connections[0].State != token.StateFailing {
		t.Errorf("with a token that an API has rejected: %+v", view)
	}
	for source.Current() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	if view := wantHealth(t, site, 200); view.Connections[0].State != token.StateDown {
		t.Errorf("in an outage after it has worked: %+v", view)
	}

	e.respond(func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
	})
	admin(t, "POST", "/http_helper/connections/c/refresh")
	view = wantHealth(t, site, 503)
	if c := view.Connections[0]; c.Error == nil || c.Error.Class != oauth.ClassConfiguration || *c.Error.Code != "invalid_client" {
		t.Errorf("misconfigured after it has worked: %+v", c)
	}
}

// A connection that has never worked is retried in the background after a health check, and otherwise not.
func TestHealthComesBack(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, withHealth(inline(a, e, "name c"), "c"))
	e.respond(func(w http.ResponseWriter, _ int64) { w.WriteHeader(http.StatusNotFound) })
	call(t, "GET", site+"/", nil)
	wantHealth(t, site, 503)
	granted := make(chan struct{})
	e.respond(func(w http.ResponseWriter, _ int64) { grantToken(w, "good", 3600); close(granted) })
	select {
	case <-granted:
	case <-time.After(10 * time.Second):
		t.Fatal("nobody tries any more")
	}
	if _, err := activeApp().active["c"].tokens.source.Token(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantHealth(t, site, 200)
}

func TestHealthNeverWaits(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, withHealth(inline(a, e, "name c"), ""))
	arrived, release := make(chan struct{}), make(chan struct{})
	e.respond(func(w http.ResponseWriter, _ int64) { close(arrived); <-release; grantToken(w, "late", 3600) })
	done := make(chan struct{})
	go func() { defer close(done); call(t, "GET", site+"/", nil) }()
	<-arrived
	wantHealth(t, site, 200)
	close(release)
	<-done
}

// Names of connections that routes define later are known; others make the load fail.
func TestHealthNames(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	both := strings.Replace(inline(a, e, "name d"), "SITE {", "unused.example:0 {", 1)
	site := runSidecar(t, withHealth(inline(a, e, "name c"), "d c")+both)
	if view := wantHealth(t, site, 200); len(view.Connections) != 2 || view.Connections[0].Name != "d" {
		t.Errorf("%+v", view)
	}
	for names, want := range map[string]string{
		"c unknown":           `http_helper_health: there is no connection "unknown"; there is c`,
		"c {\n\t}\n":          "",
		"c {\n\t\tsub\n\t}\n": "no subdirectives",
	} {
		err := tryCaddyfile(onPort(withHealth(inline(a, e, "name c"), names), site))
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", names, err)
		}
	}
}

func TestHealthWithoutConnections(t *testing.T) {
	site := runSidecar(t, "SITE {\n\thttp_helper_health\n}\n")
	if view := wantHealth(t, site, 200); view.Connections == nil || len(view.Connections) != 0 {
		t.Errorf("%+v", view)
	}
}
