package httphelper

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// subscriber is an event handler that hands events to a test.
type subscriber struct{}

var subscribed = make(chan caddy.Event, 100)

func init() { caddy.RegisterModule(subscriber{}) }

func (subscriber) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "events.handlers.http_helper_test", New: func() caddy.Module { return new(subscriber) }}
}

func (subscriber) Handle(_ context.Context, event caddy.Event) error {
	subscribed <- event
	return nil
}

// loadSubscribed loads a Caddyfile with the subscriber bound to events of that name, or to all.
func loadSubscribed(t *testing.T, caddyfile string, names ...string) {
	t.Helper()
	adapted, err := adaptQuietly(caddyfile)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(adapted, &config); err != nil {
		t.Fatal(err)
	}
	config["apps"].(map[string]any)["events"] = map[string]any{"subscriptions": []any{map[string]any{
		"events":   names,
		"modules":  []any{"http_helper"},
		"handlers": []any{map[string]any{"handler": "http_helper_test"}},
	}}}
	if adapted, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(adapted, true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = caddy.Stop() })
}

// wantEvent waits for an event.
func wantEvent(t *testing.T, name string, data map[string]any) {
	t.Helper()
	select {
	case event := <-subscribed:
		if event.Name() != name || event.Origin().CaddyModule().ID != "http_helper" {
			t.Fatalf("event %s of %v, want %s", event.Name(), event.Origin(), name)
		}
		if expires, ok := event.Data["expires"].(string); ok {
			if _, err := time.Parse(time.RFC3339, expires); err != nil {
				t.Errorf("expires: %v", err)
			}
			data["expires"] = expires
		}
		if !reflect.DeepEqual(event.Data, data) {
			t.Errorf("%s with %v, want %v", name, event.Data, data)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("no event %s", name)
	}
}

func TestEvents(t *testing.T) {
	e, a := newIdP(t), newAPI(t, rejects("t3"))
	site := freeAddress(t)
	e.answers(func(w http.ResponseWriter, n int64) {
		if n == 1 {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
		grantToken(w, fmt.Sprintf("t%d", n), 3600)
	})
	loadSubscribed(t, onPort(inline(a, e, "name c\n\t\twarm"), "http://"+site))
	wantEvent(t, "http_helper.token_failed", map[string]any{"connection": "c", "class": "configuration", "code": "invalid_client"})
	admin(t, "POST", "/http_helper/connections/c/refresh")
	wantEvent(t, "http_helper.token_obtained", map[string]any{"connection": "c"})
	call(t, "GET", "http://"+site+"/", nil)
	wantEvent(t, "http_helper.token_rejected", map[string]any{"connection": "c"})
	wantEvent(t, "http_helper.token_obtained", map[string]any{"connection": "c"})
}

// A subscriber that takes its time holds nobody up.
func TestEventsAreNotWaitedFor(t *testing.T) {
	e, a := newIdP(t), newAPI(t, nil)
	site := freeAddress(t)
	for range cap(subscribed) {
		subscribed <- caddy.Event{} // there is no room for another
	}
	loadSubscribed(t, onPort(inline(a, e, "name c"), "http://"+site), "http_helper.token_obtained")
	if res, _ := call(t, "GET", "http://"+site+"/", nil); res.StatusCode != 200 {
		t.Errorf("status %d", res.StatusCode)
	}
	for range cap(subscribed) {
		<-subscribed
	}
	wantEvent(t, "http_helper.token_obtained", map[string]any{"connection": "c"})
}

// collector stands in for an OpenTelemetry collector and keeps what arrives.
func collector(t *testing.T) (spans chan string) {
	t.Helper()
	spans = make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		spans <- string(body)
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(server.Close)
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	return spans
}

// A request that finds a token teaches the tracer for later token requests, which no request causes.
func TestTracerIsLearntFromRequestsWithAToken(t *testing.T) {
	spans := collector(t)
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, strings.Replace(inline(a, e, "name c"), "SITE {", "SITE {\n\ttracing {\n\t\tspan app\n\t}", 1))
	admin(t, "POST", "/http_helper/connections/c/refresh") // no tracer is known so far
	call(t, "GET", site+"/", nil)
	admin(t, "POST", "/http_helper/connections/c/refresh")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case all := <-spans:
		if strings.Count(all, "http_helper token") != 1 {
			t.Errorf("spans: %q", all)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no spans")
	}
}

func TestTokenRequestsAreTraced(t *testing.T) {
	spans := collector(t)
	e, a := newIdP(t), newAPI(t, nil)
	site := runSidecar(t, strings.Replace(inline(a, e, "name c"), "SITE {", "SITE {\n\ttracing {\n\t\tspan app\n\t}", 1))
	call(t, "GET", site+"/", nil)
	e.answers(func(w http.ResponseWriter, _ int64) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_scope"}`)
	})
	admin(t, "POST", "/http_helper/connections/c/refresh") // that is not traced itself
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case all := <-spans:
		if strings.Count(all, "http_helper token") != 2 || !strings.Contains(all, "http_helper.connection") || !strings.Contains(all, "invalid_scope") {
			t.Errorf("spans: %q", all)
		}
		for _, secret := range []string{"literal-secret", "t1"} {
			if strings.Contains(all, secret) {
				t.Errorf("%s is in %q", secret, all)
			}
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no spans")
	}
}
