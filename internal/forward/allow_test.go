package forward

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-httphelper/caddy-httphelper/internal/httpguard"
)

// TestRefusalsAreLoggedOnce, and only so many that they do not fill the memory.
func TestRefusalsAreLoggedOnce(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	rule, err := httpguard.ParseAllow([]string{http.MethodGet}, nil)
	if err != nil {
		t.Fatal(err)
	}
	q := &Request{ofApp: true, Conn: &Connection{Name: "billing", Limits: &Limits{Connection: httpguard.AllowList{rule}, Logger: zap.New(core)}}}
	refuse := func(method, target string) *Error {
		t.Helper()
		refused := q.refuse(httptest.NewRequest(method, target, nil))
		if refused == nil || refused.Status != http.StatusForbidden || refused.Type != "http_request_denied" {
			t.Fatalf("%s %s: %+v", method, target, refused)
		}
		return refused
	}
	for range 3 {
		refuse(http.MethodPost, "/a%2fb*c?secret=1")
	}
	entries := logs.TakeAll()
	if len(entries) != 1 {
		t.Fatalf("logged %v", entries)
	}
	if got := fmt.Sprint(entries[0].ContextMap()); got != "map[connection:billing method:POST path:/a%2fb%2Ac reason:is not in its allow]" {
		t.Errorf("logged %s", got)
	}

	long := refuse(strings.Repeat("M", 1000), "/"+strings.Repeat("x", 10000))
	if len(long.Details) > 400 {
		t.Errorf("details of %d bytes", len(long.Details))
	}
	for i := range 2 * maxLoggedRefusals {
		refuse(http.MethodPut, fmt.Sprintf("/%d", i))
	}
	entries = logs.TakeAll()
	if last := entries[len(entries)-1].Message; len(entries) != maxLoggedRefusals || !strings.Contains(last, "counted in requests_total") {
		t.Errorf("%d lines, the last is %q", len(entries), last)
	}
	if len(q.Conn.Limits.logged) > maxLoggedRefusals+1 {
		t.Errorf("%d refusals are kept", len(q.Conn.Limits.logged))
	}
	if refused := q.refuse(httptest.NewRequest(http.MethodGet, "/a", nil)); refused != nil {
		t.Error(refused)
	}
}
