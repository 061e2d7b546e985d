package adminapi

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Caddy that hangs is not waited for.
func TestEndpointHangs(t *testing.T) {
	dir, err := os.MkdirTemp("", "admin") // whose path is short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "admin.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	client, err := New(socket)
	if err != nil {
		t.Fatal(err)
	}
	client.patience = 10 * time.Millisecond
	if _, err := client.Do(t.Context(), http.MethodGet, ConnectionsPath, nil); err == nil || !strings.Contains(err.Error(), "no Caddy responds at unix/"+socket+" (it takes too long)") {
		t.Error(err)
	}
}

func TestFailureInWords(t *testing.T) {
	code := "invalid_client"
	for want, f := range map[string]*Failure{
		"refused":                  {Message: "refused"},
		"refused (invalid_client)": {Message: "refused", Code: &code},
	} {
		if got := f.Reason(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
